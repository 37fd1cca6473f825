"""What an operator watches, in metrics.jsonl of real runs on a CPU."""

import time

import numpy as np
import pytest

from tests.processes import metrics
from tests.training.test_pretraining import changed, exact
from vilg.distributed.precision import Precision
from vilg.model import flops
from vilg.training import step_metrics
from vilg.training.entry_points import pretrain
from vilg.training.loop import TrainingLoop
from vilg.training.pretraining import Pretraining

ON_A_CPU = {
    "timestamp",
    "epoch",
    "tokens_per_second_per_device",
    "data_seconds",
    "data_wait_share",
    "memory_peak_gb",
    "eta_seconds",
}


def test_each_line_has_the_values_of_a_cpu(small):
    began = time.time()
    pretrain(changed(small, train={"eval_every": 3, "sample_images_every": 6}))
    lines = metrics(small.run.folder)
    assert all(set(line) >= ON_A_CPU for line in lines)
    assert not {"mfu", "loss_scale", "memory_reserved_gb", "communication_seconds"} & set(lines[0])
    times = [line["timestamp"] for line in lines]
    assert began - 0.01 < times[0] and times == sorted(times) and times[-1] < time.time() + 0.01
    assert [line["epoch"] for line in lines] == [8 * step / 20 for step in range(1, 7)]  # the data has 20 pairs
    for line in lines:
        assert line["tokens_per_second_per_device"] == pytest.approx(line["tokens_per_second"], rel=1e-5)
        assert 0 < line["data_wait_share"] == pytest.approx(line["data_seconds"] / line["seconds"], rel=1e-4)
        assert 0.05 < line["memory_peak_gb"] < 50
        norms = [value for name, value in line.items() if name.startswith("grad_norm/")]
        assert len(norms) == 8 and np.linalg.norm(norms) == pytest.approx(line["grad_norm"], rel=1e-4)
    assert [line["eta_seconds"] > 0 for line in lines] == [True] * 5 + [False]
    assert [step for step, line in enumerate(lines, 1) if "evaluation_seconds" in line] == [3, 6]
    assert [step for step, line in enumerate(lines, 1) if "sample_images_seconds" in line] == [6]
    assert "save_seconds" in lines[3] and "save_seconds" not in lines[2]  # saved after the line of step 3


def test_mfu_relates_the_operations_of_the_model_to_the_peak(small):
    settings = changed(small, train={"peak_tflops": 0.5, "stop_at": 2})
    pretrain(settings)
    model = Pretraining(settings, step_metrics.World()).model
    for line in metrics(small.run.folder):
        assert line["mfu"] == pytest.approx(flops.model_flops(model, 8) / line["seconds"] / 0.5e12, rel=1e-4)


def test_measuring_does_not_change_training(small, monkeypatch):
    pretrain(changed(small, run={"name": "measured"}, train={"peak_tflops": 1.0}))
    monkeypatch.setattr(step_metrics.StepMetrics, "line", lambda *_: {"timestamp": 0.0})
    pretrain(changed(small, run={"name": "plain"}))
    assert exact(small.run.folder.parent / "measured") == exact(small.run.folder.parent / "plain")


def test_measuring_costs_little(small):
    """Less than 2 ms a step, on a machine that does other work too."""
    loop = TrainingLoop(small, Pretraining(small, step_metrics.World()), step_metrics.World())
    step = {"seconds": 1.0, "tokens_per_second": 100.0, "global_batch": 8, "consumed_samples": 8}
    began = time.perf_counter()
    for _ in range(100):
        loop.step_metrics.line(step, 20, 40)
    assert time.perf_counter() - began < 100 * 2e-3


def test_the_loss_scale_of_fp16_and_a_gradient_that_overflowed(small):
    """Paddle's scaler stores its scale as an array."""

    class Engine:
        precision = Precision("fp16")
        loss_scale = {"scale": [32768.0], "incr_count": 3}  # noqa: RUF012
        group_norms = {"embed_text": float("inf"), "norm": 0.5}  # noqa: RUF012
        reduction_seconds = None

    objective = Pretraining(small, step_metrics.World())
    line = step_metrics.StepMetrics(small.train, objective, Engine(), step_metrics.World()).line(
        {"seconds": 1.0, "tokens_per_second": 100.0, "consumed_samples": 8, "global_batch": 8}, 20, 40
    )
    assert line["loss_scale"] == 32768
    assert [name for name in line if name.startswith("grad_norm/")] == ["grad_norm/norm"]


def test_the_progress_line_shows_a_few_values(small, capsys):
    pretrain(changed(small, train={"peak_tflops": 0.5}))
    last = capsys.readouterr().err.splitlines()[-1]
    assert all(f"  {name} " in last for name in ("loss", "tokens/s", "mfu")) and last.endswith("0:00 left")
