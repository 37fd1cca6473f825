"""Waits until rank 0 serves the key-value store through which the ranks of a job find each other."""

import os
import socket
import time

PATIENCE_S = 60.0  # afterwards Paddle's own attempts follow, with their own limit and message
PAUSE_S = 0.02


def wait_for_rank_zero() -> None:
    """Return when rank 0 accepts connections, or after PATIENCE_S seconds.

    Paddle tries to reach the store once and then sleeps for three seconds. Without this function, a rank that starts
    slightly before rank 0 delays every start of a job by three seconds.
    """
    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        return
    # In the order in which Paddle looks for the endpoint.
    endpoint = os.environ.get("PADDLE_MASTER") or os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0]
    host, port = endpoint.rsplit(":", 1)
    end = time.monotonic() + PATIENCE_S
    while not accepts_connections(host, int(port)) and time.monotonic() < end:
        time.sleep(PAUSE_S)


def accepts_connections(host: str, port: int) -> bool:
    """Whether a process accepts connections at host:port. The connection is closed at once, which the store
    tolerates.
    """
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            # If no process listens, a port in the ephemeral range can connect to itself.
            return connection.getsockname() != connection.getpeername()
    except OSError:
        return False
