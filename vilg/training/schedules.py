"""What changes in the course of a relaxed choice of codes: temperature and KL weight (arXiv 2102.12092, appendix A.2).

`done` is the share that is behind of the steps in which codes are chosen.
"""

import math

from vilg import config


def temperature(settings: config.Gumbel, done: float) -> float:
    """From `start` along half a cosine to `end`."""
    fall = 0.5 * (1 + math.cos(math.pi * _part(done, settings.temperature_until)))
    return settings.temperature_end + (settings.temperature_start - settings.temperature_end) * fall


def kl_weight(settings: config.Gumbel, done: float) -> float:
    """From 0 along a line to `kl_weight`."""
    return settings.kl_weight * _part(done, settings.kl_until)


def _part(done: float, until: float) -> float:
    return min(1.0, done / until) if until else 1.0


def learning_rate(settings: config.Train, step: int) -> float:
    """The rate of `step`, counted from 1: a straight line up to `lr`, then a cosine down to `final_lr` x `lr`."""
    if step <= settings.warmup:
        return settings.lr * step / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * done)))
