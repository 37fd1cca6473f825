"""Errors at the start of a server are one line."""

import os
import socket
import sys

import pytest

from vilg.cli import main
from vilg.errors import UserError
from vilg.serving import offline
from vilg.serving.limits import Limits
from vilg.serving.server import Access, serve


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_what_cannot_be_served(capsys, exported, taken, tmp_path):
    (tmp_path / "short").write_text("secret")
    for arguments, message in (
        (["--export", "none", "--port", "0"], "none: not an export (manifest.json: no such"),
        (["--export", exported, "--port", taken], f"--host 127.0.0.1 --port {taken}: address"),
        (["--export", exported, "--port", "99999"], "--host 127.0.0.1 --port 99999: "),
        (["--export", exported, "--host", "256.0.0.1"], "--host 256.0.0.1 --port 7860: "),
        (["--export", exported, "--pictures", "0"], "--pictures 0: must be positive"),
        (["--export", exported, "--host", "0.0.0.0", "--port", "0"], "--host 0.0.0.0: other machines could use this"),
        (["--export", exported, "--host", "::", "--port", "0"], "--host ::: other machines could use this server"),
        (["--export", exported, "--token-file", "none"], "none: no such file or directory"),
        (["--export", exported, "--token-file", tmp_path / "short"], f"--token-file {tmp_path}/short: the first line"),
        (["--export", exported, "--root-path", "vilg/"], "--root-path vilg/: must begin with /"),
        (["--export", exported, "--rows", "7"], "--rows 7: has to be at least 8, the largest request"),
    ):
        assert main(["serve", *map(str, arguments)]) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"vilg: {message}")


@pytest.mark.parametrize(
    "access", [Access("0.0.0.0", 0, open=True), Access("0.0.0.0", 0, token="x" * 16), Access(port=0), Access("::1", 0)]
)
def test_who_may_connect_is_decided_before_anything_is_loaded(access, tmp_path):
    with pytest.raises(UserError, match="not an export"):  # and not: other machines could use this server
        serve(tmp_path, access, Limits())


def test_without_gradio_the_message_names_the_extra(capsys, exported, monkeypatch):
    for name in (*offline.ENVIRONMENT, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name in ("vilg.serving.application", "vilg.serving.page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("gradio", "fastapi"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["serve", "--export", str(exported), "--port", "0"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("; pip install 'vilg[serve]'")
