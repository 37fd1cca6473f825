"""Every command and the sample of docs/inference.md run, with a run that took a second."""

import os
import shlex
import sys
from urllib.request import urlopen

import pytest

from tests.documentation import executed_commands, executed_samples
from tests.processes import started
from vilg.cli import main
from vilg.training.entry_points import pretrain

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(200)]

PAGE = "docs/inference.md"


@pytest.fixture
def emoji(small, tmp_path, monkeypatch):
    """A folder with a run at the path that the page uses."""
    small.run.name = "emoji"
    pretrain(small)
    monkeypatch.chdir(tmp_path)


def test_commands_and_the_sample(emoji, tmp_path, capsys):
    (serve,) = (command for command in executed_commands(PAGE) if command.startswith("vilg serve"))
    commands = [command for command in executed_commands(PAGE) if command != serve]
    (sample,) = executed_samples(PAGE)
    assert len(commands) >= 8
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    exec(compile(sample, "docs/inference.md", "exec"), {})
    assert {"heart.png", "best.png", "whole.png"} <= set(os.listdir()) and len(os.listdir("folder")) == 3 * 4 + 1
    pytest.importorskip("gradio", reason="gradio: pip install 'vilg[serve]'; all but `vilg serve` has run")
    serve = serve.replace("--port 7860", "--port 0")  # port 7860 may be in use
    with started([sys.executable, "-m", "vilg.cli", *shlex.split(serve)[1:]], tmp_path) as process:
        address = process.stdout.readline().strip()
        with urlopen(address, timeout=20) as answer:
            assert answer.status == 200 and "ERNIE-ViLG" in answer.read().decode()
