"""Schedules: learning rate, and temperature and KL weight of the Gumbel-softmax (arXiv 2102.12092, appendix A.2)."""

import math

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
    """The learning rate of `step` (from 1): linear warmup to `lr`, then a cosine down to `min_lr_ratio` x `lr`."""
    if step <= settings.warmup:
        return settings.lr * step / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * (
        settings.min_lr_ratio + (1 - settings.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    )
