"""SIGKILL at every point of a save: the last valid checkpoint loads, and the next save removes the remaining files."""

import shutil
import sys

import numpy as np
import pytest

from tests.checkpoint.test_checkpoint import save
from tests.fleet.killed_save_program import POINTS
from tests.processes import ROOT, run
from vilg import checkpoint

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(100)]

PROGRAM = ROOT / "tests" / "fleet" / "killed_save_program.py"


@pytest.mark.parametrize(
    "victim, asynchronous", [(0, False), (1, True)], ids=["rank 0 in place", "rank 1 asynchronous"]
)
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_save(tmp_path, point, victim, asynchronous):
    folder = tmp_path / "checkpoints"
    done = run(
        [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nproc_per_node",
            "2",
            "--log_dir",
            str(tmp_path / "log"),
            str(PROGRAM),
            str(tmp_path),
            point,
            str(victim),
            str(asynchronous),
        ],
        tmp_path,
        60,
    )
    assert done.returncode != 0
    names = sorted(path.name for path in folder.iterdir())
    # Rank 0 renames without the other ranks, so killing another rank at this point has no effect.
    finished = point == "after the rename" or (victim == 1 and point in ("before the manifest", "before the rename"))
    assert ("step-00000002" in names) == finished
    assert finished or ".step-00000002.writing" in names

    chosen = checkpoint.resolve_resume("auto", folder)
    assert chosen == folder / ("step-00000002" if finished else "step-00000001")
    manifest, tensors = checkpoint.load(chosen)
    assert len(tensors) == 4 and all(np.all(value == manifest.step) for value in tensors.values())
    save(folder, 3)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    shutil.rmtree(tmp_path / "log")
