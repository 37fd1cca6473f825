"""What changes in the course of a relaxed choice of codes: temperature and KL weight (arXiv 2102.12092, appendix A.2).

`done` is the share that is behind of the steps in which codes are chosen.
"""

import math

from vilg import config


def temperature(settings: config.Relaxation, done: float) -> float:
    """From `start` along half a cosine to `end`."""
    fall = 0.5 * (1 + math.cos(math.pi * _part(done, settings.until)))
    return settings.end + (settings.start - settings.end) * fall


def kl_weight(settings: config.Relaxation, done: float) -> float:
    """From 0 along a line to `kl_weight`."""
    return settings.kl_weight * _part(done, settings.kl_until)


def _part(done: float, until: float) -> float:
    return min(1.0, done / until) if until else 1.0
