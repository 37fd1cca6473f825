"""Every command and the sample of docs/inference.md run, on a run that took a second."""

import os
import re
import shlex
import sys
from urllib.request import urlopen

import pytest

from tests.processes import ROOT, started
from vilg.cli import main
from vilg.training.entry_points import pretrain

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(200)]

PAGE = (ROOT / "docs" / "inference.md").read_text("utf-8")
BLOCKS = {language: re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S) for language in ("sh", "python")}


@pytest.fixture
def emoji(small, tmp_path, monkeypatch):
    """A folder with a run as the page has it."""
    small.run.name = "emoji"
    pretrain(small)
    monkeypatch.chdir(tmp_path)


def test_commands_and_the_sample(emoji, tmp_path, capsys):
    commands = [line for block in BLOCKS["sh"] for line in block.splitlines() if not line.startswith("vilg serve")]
    assert len(commands) >= 8 and BLOCKS["sh"][0].count("\n") == 5 and len(BLOCKS["python"]) == 1
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    exec(compile(BLOCKS["python"][0], "docs/inference.md", "exec"), {})
    assert {"drawn.png", "best.png", "whole.png"} <= set(os.listdir()) and len(os.listdir("folder")) == 3 * 4 + 1
    pytest.importorskip("gradio", reason="gradio: pip install 'vilg[serve]'; all but `vilg serve` has run")
    serve = BLOCKS["sh"][0].splitlines()[-1].replace("--port 7860", "--port 0")  # 7860 may be taken
    with started([sys.executable, "-m", "vilg.cli", *shlex.split(serve)[1:]], tmp_path) as process:
        address = process.stdout.readline().strip()
        with urlopen(address, timeout=20) as answer:
            assert answer.status == 200 and "ERNIE-ViLG" in answer.read().decode()
