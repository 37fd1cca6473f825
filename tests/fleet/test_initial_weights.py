"""A run on two processes that starts from the weights of a run on one, and the other way round."""

import numpy as np
import pytest

from tests.conftest import small_overrides
from tests.processes import fleetrun, metrics, vilg

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]

SHARDED = ["distributed.stage=3", "distributed.segment_size=0"]


def train(folder, processes, name, *more):
    given = [*small_overrides(folder), f"run.name={name}", f"train.micro_batch={8 // processes}", *more]
    if processes == 1:
        done = vilg("pretrain", *given, cwd=folder)
    else:
        done = fleetrun(processes, "pretrain", *given, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return np.array([[line["loss"], line["grad_norm"]] for line in metrics(folder / "runs" / name)])


def test_weights_of_any_number_of_ranks_start_a_run_on_any_other(small, tmp_path):
    train(tmp_path, 1, "of-one")
    train(tmp_path, 2, "of-two", *SHARDED)
    for source in ("of-one", "of-two"):
        init = [f"init={tmp_path}/runs/{source}", "train.steps=3"]
        one = train(tmp_path, 1, f"{source}-on-one", *init)
        two = train(tmp_path, 2, f"{source}-on-two", *init, *SHARDED)
        assert np.allclose(one, two, rtol=2e-4)
    anew = train(tmp_path, 1, "anew", "train.steps=3")
    assert one[0, 0] < anew[0, 0] - 0.1


def test_ranks_refuse_weights_that_do_not_fit_together(small, tmp_path):
    train(tmp_path, 1, "source", "train.steps=1")
    given = [*small_overrides(tmp_path), f"init={tmp_path}/runs/source", "text.length=9", "run.name=second"]
    done = fleetrun(2, "pretrain", *given, cwd=tmp_path)
    assert done.returncode != 0
    assert "does not fit: embed_text.positions is [8, 32] there and [9, 32] here" in done.stderr
    assert "Traceback" not in done.stderr
