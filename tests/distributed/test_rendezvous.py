"""Waiting for rank 0 before Paddle connects to it."""

import socket
import threading
import time

import pytest

from vilg.distributed import rendezvous


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def rank_1(monkeypatch):
    port = free_port()
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    monkeypatch.delenv("PADDLE_MASTER", raising=False)
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", f"127.0.0.1:{port},127.0.0.1:1")
    return port


def listen_later(port: int, seconds: float) -> list[socket.socket]:
    made = []
    timer = threading.Timer(seconds, lambda: made.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    return made


def test_a_rank_waits_until_rank_0_listens(rank_1):
    made = listen_later(rank_1, 0.3)
    rendezvous.wait_for_rank_zero()
    assert made, "went on before anybody listened"
    made[0].close()


def test_the_master_of_fleetrun_takes_precedence_over_the_endpoints(rank_1, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as master:
        monkeypatch.setenv("PADDLE_MASTER", f"127.0.0.1:{master.getsockname()[1]}")
        rendezvous.wait_for_rank_zero()  # nobody listens at the endpoints


def test_rank_0_does_not_wait_for_itself(rank_1, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    monkeypatch.setattr(rendezvous, "accepts_connections", lambda *_: pytest.fail("asked"))
    rendezvous.wait_for_rank_zero()


def test_the_wait_ends_after_its_time_limit_even_for_an_unknown_host(rank_1, monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE_S", 0.1)
    begin = time.monotonic()
    rendezvous.wait_for_rank_zero()
    assert time.monotonic() - begin >= 0.1
    assert not rendezvous.accepts_connections("no-such-host.invalid", 1)
