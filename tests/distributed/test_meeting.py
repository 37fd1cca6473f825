"""The wait for rank 0 before Paddle asks for it."""

import socket
import threading
import time

import pytest

from vilg.distributed import meeting


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


def test_a_rank_waits_until_rank_0_listens_and_no_longer(rank_1):
    made = listen_later(rank_1, 0.3)
    meeting.wait_for_first()
    assert made, "went on before anybody listened"
    made[0].close()


def test_the_master_that_fleetrun_names_goes_before_the_endpoints(rank_1, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as master:
        monkeypatch.setenv("PADDLE_MASTER", f"127.0.0.1:{master.getsockname()[1]}")
        meeting.wait_for_first()  # nobody listens at the endpoints


def test_rank_0_does_not_wait_for_itself(rank_1, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    monkeypatch.setattr(meeting, "listens", lambda *_: pytest.fail("asked"))
    meeting.wait_for_first()


def test_the_wait_ends_where_nobody_comes_and_an_unknown_host_is_nobody(rank_1, monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE_S", 0.1)
    begin = time.monotonic()
    meeting.wait_for_first()
    assert time.monotonic() - begin >= 0.1
    assert not meeting.listens("no-such-host.invalid", 1)
