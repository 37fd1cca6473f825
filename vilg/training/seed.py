"""Seeds derived from the position in a run, so that checkpoints store no generator state."""

import numpy as np


def step_seed(seed: int, step: int, rank: int) -> int:
    """A distinct seed for each (seed, step, rank)."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint32)[0])
