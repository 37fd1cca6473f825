"""Where the ranks of a job find each other: the key-value store that rank 0 serves."""

import os
import socket
import time

PATIENCE_S = 60.0  # then Paddle's own attempts, which have its own limit and its own message
PAUSE_S = 0.02


def wait_for_rank_zero() -> None:
    """Returns as soon as rank 0 listens, or after PATIENCE_S seconds.

    Paddle asks for the store once and then sleeps three seconds before it asks again, so a rank that is ready an
    instant before rank 0 would hold up the whole job by those three seconds at every start.
    """
    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        return
    # The order in which Paddle looks for it.
    endpoint = os.environ.get("PADDLE_MASTER") or os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0]
    host, port = endpoint.rsplit(":", 1)
    end = time.monotonic() + PATIENCE_S
    while not accepts_connections(host, int(port)) and time.monotonic() < end:
        time.sleep(PAUSE_S)


def accepts_connections(host: str, port: int) -> bool:
    """Whether somebody takes connections there. The one that this opens is closed again, which the store allows."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            # A port among those that the kernel gives to callers may connect to itself while nobody listens.
            return connection.getsockname() != connection.getpeername()
    except OSError:
        return False
