"""All ranks pass over the same data, although only one of them has the samples whose loss is not finite."""

import json
import sys

import numpy as np
import pytest

from tests.conftest import small_overrides
from tests.processes import ROOT, metrics, run

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]

PROGRAM = str(ROOT / "tests" / "fleet" / "spike_program.py")
EXACT = ("step", "lr", "consumed_samples")
STAGES = {
    "skip": ["distributed.stage=2"],
    "rollback": ["distributed.stage=3", "distributed.segment_size=0", "distributed.offload=true"],
}


def train(folder, processes, name, positions, *more):
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir", str(folder / "log")]
    given = [*small_overrides(folder), f"run.name={name}", "checkpoint.save_backoff=0.01", *more]
    done = run([sys.executable, *(launch if processes > 1 else []), PROGRAM, positions, *given], folder)
    logs = "".join(log.read_text() for log in (folder / "log").glob("workerlog.*")) if processes > 1 else ""
    assert done.returncode == 0, done.stderr + logs
    return done.stderr + logs


def spikes(folder, name):
    return [json.loads(line) for line in (folder / "runs" / name / "spikes.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("policy, samples", [("skip", [[32, 40]]), ("rollback", [[24, 40]])])
def test_two_ranks_pass_over_the_data_that_one_rank_passes_over(small, tmp_path, policy, samples):
    """The second half runs on one rank again. A save that one rank failed to write is tried again by both."""
    poison, common = "35", [f"train.on_spike={policy}", "train.micro_batch=2"]
    train(tmp_path, 1, "one", poison, *common)
    log = train(tmp_path, 2, "two", poison, *common, *STAGES[policy], "train.stop_at=5")
    assert "rank 1 could not write its file: [Errno 28] no space left on device" in log
    assert "attempt 2 of 4 follows" in log and f"samples {samples[0][0]} to 39 are passed over" in log
    train(tmp_path, 1, "two", poison, *common, "resume=auto")
    one, two = (metrics(tmp_path / "runs" / name) for name in ("one", "two"))
    assert [[line[key] for key in EXACT] for line in one] == [[line[key] for key in EXACT] for line in two]
    assert len(one) == 6 and one[-1]["consumed_samples"] == 6 * 8 + sum(end - begin for begin, end in samples)
    for key in ("loss", "grad_norm"):
        assert np.allclose([line[key] for line in one], [line[key] for line in two], atol=1e-5)
    assert [line["samples"] for line in spikes(tmp_path, "one")] == samples
    assert [line["samples"] for line in spikes(tmp_path, "two")] == samples
