"""Errors at the start of a server are one line."""

import os
import socket
import sys

import pytest

from vilg.cli import main
from vilg.serving import offline


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_exports_that_cannot_be_served(capsys, exported, taken):
    for arguments, message in (
        (["--export", "none", "--port", "0"], "none: not an export (manifest.json: no such"),
        (["--export", exported, "--port", taken], f"--host 127.0.0.1 --port {taken}: address"),
        (["--export", exported, "--port", "99999"], "--host 127.0.0.1 --port 99999: "),
        (["--export", exported, "--host", "256.0.0.1"], "--host 256.0.0.1 --port 7860: "),
        (["--export", exported, "--pictures", "0"], "--pictures 0: must be positive"),
        (["--export", exported, "--rows", "7"], "--rows 7: has to be at least 8, the largest request"),
    ):
        assert main(["serve", *map(str, arguments)]) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"vilg: {message}")


def test_without_gradio_the_message_names_the_extra(capsys, exported, monkeypatch):
    for name in (*offline.ENVIRONMENT, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name in ("vilg.serving.application", "vilg.serving.page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("gradio", "fastapi"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["serve", "--export", str(exported), "--port", "0"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("; pip install 'vilg[serve]'")
