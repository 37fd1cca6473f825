"""Schedules: learning rate, and temperature and KL weight of the Gumbel-softmax (arXiv 2102.12092, appendix A.2)."""

import math
from collections.abc import Callable

from vilg import config


def temperature(settings: config.Gumbel, progress: float) -> float:
    """From `temperature_start` along half a cosine to `temperature_end`. done: share of the quantized steps that have
    passed.
    """
    fall = 0.5 * (1 + math.cos(math.pi * _part(progress, settings.temperature_until)))
    return settings.temperature_end + (settings.temperature_start - settings.temperature_end) * fall


def kl_weight(settings: config.Gumbel, progress: float) -> float:
    """From 0 along a line to `kl_weight`. done: share of the quantized steps that have passed."""
    return settings.kl_weight * _part(progress, settings.kl_until)


def _part(progress: float, until: float) -> float:
    return min(1.0, progress / until) if until else 1.0


def learning_rate(settings: config.Train, step: int) -> float:
    """The learning rate of `step` (from 1): a linear warmup to `lr`, then `settings.schedule`, which ends at step
    `settings.steps` with `min_lr_ratio` x `lr`.

    - cosine: half a cosine (arXiv 1608.03983, without restarts)
    - linear: a line
    - constant: `lr` until the end
    - wsd: `lr`, and a line in the last `decay_steps` steps (warmup, stable, decay; arXiv 2404.06395)
    """
    if step <= settings.warmup:
        return settings.lr * step / settings.warmup
    begin = settings.steps - settings.decay_steps if settings.schedule == "wsd" else settings.warmup
    progress = max(0, step - begin) / max(1, settings.steps - begin)
    return settings.lr * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * _DECAY[settings.schedule](progress))


# The share of the way from `min_lr_ratio` x `lr` to `lr` that is left after a share of the decay.
_DECAY: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
    "wsd": lambda progress: 1 - progress,
}
