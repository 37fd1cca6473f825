"""Days, device hours, intervals and the notice of a scheduler, by independent arithmetic."""

import pytest

from vilg import config
from vilg.plan.estimate import estimate
from vilg.plan.input_sizes import PAPER
from vilg.plan.schedule import run_schedule


def settings(*overrides: str) -> config.Pretraining:
    return config.resolve(config.Pretraining, None, ["train.steps=1000", "train.global_batch=64", *overrides])


def test_days_device_hours_and_cost():
    run = run_schedule(settings("cluster.device_hour_price=2.5"), 86.4, 4, 32, 0)
    assert run.days == pytest.approx(1) and run.device_hours == pytest.approx(24 * 32)
    assert run.cost == pytest.approx(24 * 32 * 2.5)
    assert run_schedule(settings(), 86.4, 4, 32, 0).cost is None


def test_a_batch_that_grows_takes_less_time():
    """The first 320 samples come in batches of 32: ten steps of half the time."""
    run = run_schedule(settings("train.rampup_batch_size=[32, 32, 320]"), 86.4, 4, 1, 0)
    assert run.days == pytest.approx((990 + 10 / 2) / 1000)


@pytest.mark.parametrize(
    "steps, minutes, hours",
    [(50, 0, 50 * 36 / 3600), (0, 30, 0.5), (50, 30, 0.5), (10, 30, 0.1), (0, 0.1, 0.01), (0, 0, None)],
)
def test_hours_between_checkpoints_and_evaluations(steps, minutes, hours):
    cadence = [f"checkpoint.every_steps={steps}", f"checkpoint.every_minutes={minutes}"]
    cadence += [f"train.eval_every={steps}", f"train.eval_every_minutes={minutes}"]
    run = run_schedule(settings(*cadence), 36.0, 1, 1, 0)
    assert run.checkpoint_hours == run.eval_hours == (hours and pytest.approx(hours))


@pytest.mark.parametrize(
    "seconds, accumulation, speed, suffices",
    [(80, 4, 2, True), (80, 1, 2, False), (80, 4, 1, False), (80, 4, 0, None), (130, 1, 0, False)],
)
def test_the_notice_must_suffice_for_a_micro_batch_and_a_save(seconds, accumulation, speed, suffices):
    """Of 120 s: 120 GB take 60 s at 2 GB/s."""
    run = run_schedule(settings(f"cluster.storage_speed={speed}"), seconds, accumulation, 8, 120 * 10**9)
    assert run.micro_batch_seconds == seconds / accumulation and run.notice_suffices is suffices
    assert run.save_seconds == (120 / speed if speed else None)


def test_ten_billion_parameters(request):
    """A checkpoint has 12 bytes a parameter: master weights and two moments, and 4 more with a moving average."""
    file = request.config.rootpath / "fleet_configs/10b.yaml"
    overrides = ["cluster.nodes=4", "cluster.storage_speed=10", "train.ema_decay=0"]
    plan = estimate(config.resolve(config.Pretraining, file, overrides), PAPER, 0.4)
    assert plan.run.days == pytest.approx(300_000 * plan.seconds / 86400)
    assert plan.run.save_seconds == pytest.approx(12 * plan.parameters / 10e9)
    assert plan.run.micro_batch_seconds == pytest.approx(plan.seconds / 4)
    assert plan.run.checkpoint_hours <= 1 and plan.run.eval_hours <= 6
