"""`vilg data tokenize` in processes that are killed, and in two processes at once."""

import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import small_overrides
from tests.fleet.killed_tokenizing_program import POINTS
from tests.processes import ROOT, fleetrun, metrics, run
from vilg import config
from vilg.data.token_manifest import MANIFEST, part_file
from vilg.data.token_shards import TokenShards
from vilg.data.tokenizing import tokenize
from vilg.errors import UserError
from vilg.training.entry_points import pretrain

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(100)]

PROGRAM = ROOT / "tests" / "fleet" / "killed_tokenizing_program.py"


def overrides(folder, tokens: str, *more: str) -> list[str]:
    """20 images in 4 files."""
    return [
        *small_overrides(folder),
        "data.crop_jitter=0.5",
        "tokenize.crops=2",
        "tokenize.images_per_file=6",
        "tokenize.batch_size=4",
        f"data.tokens=['{folder}/{tokens}']",
        *more,
    ]


def made(folder, tokens: str, *more: str):
    return tokenize(config.resolve(config.Pretraining, None, overrides(folder, tokens, *more)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_process_keeps_its_published_files_and_the_next_run_completes_them(small, tmp_path, point):
    done = run([sys.executable, str(PROGRAM), point, "0", *overrides(tmp_path, "tokens")], tmp_path, 60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = tmp_path / "tokens"
    published = {"after the rename": 2, "before the manifest": 4, "in the middle of the manifest": 4}.get(point, 1)
    assert sorted(path.name for path in folder.glob("[!.]*")) == [part_file(number) for number in range(published)]
    assert len(list(folder.glob(".*"))) == (
        point in ("in the middle of a file", "before the rename", "in the middle of the manifest")
    )
    with pytest.raises(UserError, match="has not finished"):
        pretrain(config.resolve(config.Pretraining, None, overrides(tmp_path, "tokens")))

    assert made(tmp_path, "tokens").images == {1: 14, 2: 8, 4: 0}[published]
    made(tmp_path, "whole")
    assert contents(folder) == contents(
        tmp_path / "whole"
    )  # no sample is lost or duplicated, and no temporary file remains


def test_two_processes_divide_the_files_after_one_was_killed(small, tmp_path):
    killed = run(
        [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nproc_per_node",
            "2",
            "--log_dir",
            str(tmp_path / "log"),
            str(PROGRAM),
            POINTS[1],
            "1",
            *overrides(tmp_path, "tokens"),
        ],
        tmp_path,
        60,
    )
    assert killed.returncode != 0
    assert (
        {part_file(1)}
        <= set(contents(tmp_path / "tokens"))
        <= {part_file(0), part_file(1), part_file(2)} | {path.name for path in (tmp_path / "tokens").glob(".*")}
    )
    for log in (tmp_path / "log").iterdir():
        log.unlink()
    again = fleetrun(2, "data_tokenize", *overrides(tmp_path, "tokens"), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert made(tmp_path, "tokens").images == 0
    made(tmp_path, "whole")
    assert contents(tmp_path / "tokens") == contents(tmp_path / "whole")
    assert len(TokenShards([str(tmp_path / "tokens")])) == 20 and (tmp_path / "tokens" / MANIFEST).exists()


def test_two_processes_train_on_token_shards_as_on_images_to_the_last_bit(small, tmp_path):
    made(tmp_path, "tokens", "data.crop_jitter=0", "tokenize.crops=1")
    for name, tokens in (("tokens", f"data.tokens=['{tmp_path}/tokens']"), ("images", "data.tokens=[]")):
        done = fleetrun(
            2, "pretrain", *small_overrides(tmp_path), "data.crop_jitter=0", f"run.name={name}", tokens, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    of_tokens, of_images = (
        [
            [line[key] for key in ("loss", "loss_t2i", "loss_i2t", "grad_norm", "consumed_samples")]
            for line in metrics(tmp_path / "runs" / name)
        ]
        for name in ("tokens", "images")
    )
    assert len(of_tokens) == 6 and of_tokens == of_images
