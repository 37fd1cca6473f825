"""How long a whole run takes, how far apart its checkpoints and evaluations are, and whether it can save in time."""

from dataclasses import dataclass

from vilg import config

_HOUR = 3600.0


@dataclass(frozen=True)
class RunSchedule:
    """Estimates of a run whose steps all take the estimated time. Evaluations, saves and restarts are not included.

    - days: for train.steps steps; the batches of a ramp-up take less time
    - device_hours: of all devices; cost: the same x cluster.device_hour_price, None without a price
    - checkpoint_hours, eval_hours: between two of them; None: only at the end, or never
    - save_seconds: to write a checkpoint at cluster.storage_speed; None if that is not set
    - micro_batch_seconds: after a SIGTERM a run computes at most one more micro-batch before it saves
    - notice_suffices: whether a micro-batch and a save fit into cluster.grace_period; None if save_seconds is not known
      and the micro-batch alone fits
    """

    days: float
    device_hours: float
    cost: float | None
    checkpoint_hours: float | None
    eval_hours: float | None
    save_seconds: float | None
    micro_batch_seconds: float
    notice_seconds: int
    notice_suffices: bool | None


def run_schedule(
    settings: config.Pretraining, step_seconds: float, accumulation: int, devices: int, stored_bytes: int
) -> RunSchedule:
    """step_seconds: of a step of train.global_batch samples. stored_bytes: the size of a checkpoint."""
    train, cluster, saving = settings.train, settings.cluster, settings.checkpoint
    hours = train.rampup.ahead(train.steps) / train.global_batch * step_seconds / _HOUR
    save = stored_bytes / (cluster.storage_speed * 1e9) if cluster.storage_speed else None
    micro_batch = step_seconds / accumulation
    in_time = micro_batch + (save or 0.0) <= cluster.grace_period
    return RunSchedule(
        days=hours / 24,
        device_hours=hours * devices,
        cost=hours * devices * cluster.device_hour_price if cluster.device_hour_price else None,
        checkpoint_hours=_hours_between(saving.every_steps, saving.every_minutes, step_seconds),
        eval_hours=_hours_between(train.eval_every, train.eval_every_minutes, step_seconds),
        save_seconds=save,
        micro_batch_seconds=micro_batch,
        notice_seconds=cluster.grace_period,
        notice_suffices=None if save is None and in_time else in_time,
    )


def _hours_between(steps: int, minutes: float, step_seconds: float) -> float | None:
    """By the clock something happens after the first step that ends later than `minutes`."""
    found = [steps * step_seconds / _HOUR] if steps else []
    found += [max(minutes * 60, step_seconds) / _HOUR] if minutes else []
    return min(found, default=None)
