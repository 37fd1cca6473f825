"""Seeds that follow from where a run stands, so that no generator has to be stored."""

import numpy as np


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each (seed, step, rank)."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint32)[0])
