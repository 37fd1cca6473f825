"""A resumed run equals the uninterrupted run: to the last bit with the topology that wrote the checkpoint, up to
rounding with any other.
"""

import numpy as np
import pytest

from tests.conftest import small_overrides
from tests.processes import fleetrun, metrics, vilg
from vilg import checkpoint

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]

EXACT = ("loss", "loss_t2i", "loss_i2t", "lr", "grad_norm", "consumed_samples")
SPLIT = ["distributed.segment_size=0"]
STEPS, HALF = 12, 6
BF16 = "distributed.precision=bf16"
STAGES = {
    "stage 0": [],
    "stage 1": ["distributed.stage=1"],
    "stage 2, accumulation": ["distributed.stage=2", "train.micro_batch=2"],
    "stage 3, accumulation": ["distributed.stage=3", *SPLIT, "train.micro_batch=2"],
    "stage 3, offload, recompute": [
        "distributed.stage=3",
        "distributed.offload=true",
        "distributed.recompute=block",
        *SPLIT,
    ],
}


def train(folder, processes, name, *more):
    """A run of STEPS steps of 8 pairs, with a checkpoint half-way."""
    given = [
        *small_overrides(folder),
        f"run.name={name}",
        f"train.steps={STEPS}",
        f"checkpoint.every_steps={HALF}",
        f"train.micro_batch={8 // processes}",
        *more,
    ]
    if processes == 1:
        done = vilg("pretrain", *given, cwd=folder)
    else:
        done = fleetrun(processes, "pretrain", *given, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]


def exact(folder, name):
    return np.array([[line[key] for key in EXACT] for line in metrics(folder / "runs" / name)])


def saved(folder, name, step):
    return folder / "runs" / name / "checkpoints" / checkpoint.step_directory(step)


@pytest.mark.parametrize("stage", STAGES)
def test_resuming_in_new_processes_is_exact_to_the_last_bit(small, tmp_path, stage):
    """In bf16: losses, gradient norms, learning rates, consumed samples; and every byte of every rank's file.

    The next test resumes in fp32, and test_two_processes.py to the last bit.
    """
    train(tmp_path, 2, "whole", *STAGES[stage], BF16)
    half = saved(tmp_path, "whole", HALF)
    train(tmp_path, 2, "again", *STAGES[stage], BF16, f"resume={half}")
    assert (exact(tmp_path, "again") == exact(tmp_path, "whole")[HALF:]).all()
    whole, again = (checkpoint.verify(saved(tmp_path, name, STEPS)) for name in ("whole", "again"))
    assert whole.files == again.files and len(whole.files) == 2


# From (processes, settings) to (processes, settings): each number of ranks and each stage on both sides.
MOVES = {
    "1 to 4, stage 2": (1, [], 4, ["distributed.stage=2", "distributed.sharding_degree=2"]),
    "2, stage 2, to 4, stage 3": (
        2,
        ["distributed.stage=2"],
        4,
        ["distributed.stage=3", "distributed.sharding_degree=2", *SPLIT],
    ),
    "4, stage 3, to 2, stage 1": (4, ["distributed.stage=3", *SPLIT], 2, ["distributed.stage=1"]),
    "2, stage 3 in bf16, to 4, stage 2 in fp32": (
        2,
        ["distributed.stage=3", *SPLIT, BF16],
        4,
        ["distributed.stage=2", "distributed.sharding_degree=2"],
    ),
    "4, stage 1, to 1": (4, ["distributed.stage=1", "distributed.sharding_degree=2"], 1, []),
    "2, stage 1, to 2, stage 3 and offload": (2, ["distributed.stage=1"], 2, STAGES["stage 3, offload, recompute"]),
}


@pytest.mark.parametrize("move", MOVES)
def test_resuming_with_another_topology(small, tmp_path, move):
    before, first, after, then = MOVES[move]
    train(tmp_path, before, "kept", *first)
    train(tmp_path, after, "moved", *then, f"resume={saved(tmp_path, 'kept', HALF)}")
    # A checkpoint from another folder is saved at once in the folder of the run, with the new topology.
    tensors, again = (checkpoint.load(saved(tmp_path, name, HALF))[1] for name in ("kept", "moved"))
    assert tensors.keys() == again.keys()
    assert all(tensors[name].tobytes() == again[name].tobytes() for name in tensors)
    kept, moved = exact(tmp_path, "kept")[HALF:], exact(tmp_path, "moved")
    assert (kept[:, [3, 5]] == moved[:, [3, 5]]).all()  # learning rate, consumed samples
    assert np.abs(kept - moved)[:, :3].max() < (5e-2 if BF16 in first else 1e-5)  # the first run goes on in bf16


def test_a_refused_start_ends_on_all_ranks_and_says_why_once(small, tmp_path):
    """Rank 0 alone looks at the metrics; and it alone prints the settings that differ."""
    train(tmp_path, 2, "run", "train.stop_at=2")
    again = [*small_overrides(tmp_path), "run.name=run", f"train.steps={STEPS}", "resume=auto"]
    elsewhere = fleetrun(2, "pretrain", *again, f"checkpoint.folder={tmp_path}/elsewhere", cwd=tmp_path)
    assert elsewhere.returncode != 0
    assert "has trained up to step 2, but" in elsewhere.stderr and "Traceback" not in elsewhere.stderr
    faster = fleetrun(2, "pretrain", *again, "train.lr=0.03", "resume.allow=[learning_rate]", cwd=tmp_path)
    assert faster.returncode == 0, faster.stderr
    logs = faster.stderr.split("--- workerlog.")[1:]
    assert ["train.lr: 0.003 -> 0.03" in log for log in logs] == [True, False]
    assert len(metrics(tmp_path / "runs" / "run")) == STEPS
