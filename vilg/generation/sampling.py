"""Choosing the next token from logits."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vilg.errors import UserError

SEEDS = 2**63  # so many there are: they are written down, and counted on from, as int64

# float32 logits [rows, classes] -> int64 [rows], the chosen tokens.
Choice = Callable[[np.ndarray], np.ndarray]


class Sampling(Protocol):
    """How tokens are chosen."""

    def start(self, sources: int, samples: int) -> Choice:
        """For `samples` continuations of each of `sources`, those of one source behind each other."""


@dataclass(frozen=True)
class Sampler:
    """Temperature, top-k and top-p sampling, or the most likely token where `greedy`.

    Sample i of a source draws from a generator seeded by seed + i: it is the first sample of that seed, and the same
    alone and in any batch.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    greedy: bool = False
    top_p: float = 1.0  # 1: all

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"--temperature {self.temperature}: must be positive (--greedy takes the likeliest token)")
        if not 0 <= self.seed < SEEDS:
            raise UserError(f"--seed {self.seed}: must be between 0 and 2^63 - 1")
        if self.top_k < 0:
            raise UserError(f"--top-k {self.top_k}: must not be negative")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: must be in (0, 1]")
        if self.greedy and replace(self, seed=0, greedy=False) != Sampler():
            raise UserError("--greedy: nothing is left to chance; leave out --temperature, --top-k and --top-p")

    def start(self, sources: int, samples: int) -> Choice:
        if self.greedy:
            return lambda logits: logits.argmax(-1)
        generators = [np.random.default_rng(self.seed + sample) for _ in range(sources) for sample in range(samples)]

        def choose(logits: np.ndarray) -> np.ndarray:
            uniform = np.array([generator.random() for generator in generators])
            cumulated = np.cumsum(probabilities(logits, self.temperature, self.top_k, self.top_p), axis=-1)
            # The last sum may fall short of 1 by rounding.
            return np.minimum((cumulated <= uniform[:, None] * cumulated[:, -1:]).sum(-1), logits.shape[-1] - 1)

        return choose


@dataclass(frozen=True)
class PerSampleSampler:
    """A sampler for each source."""

    samplers: list[Sampler]

    def start(self, sources: int, samples: int) -> Choice:
        assert sources == len(self.samplers)
        choices = [sampler.start(1, samples) for sampler in self.samplers]
        return lambda logits: np.concatenate(
            [choose(logits[row * samples : (row + 1) * samples]) for row, choose in enumerate(choices)]
        )


def probabilities(logits: np.ndarray, temperature: float, top_k: int, top_p: float = 1.0) -> np.ndarray:
    """softmax(logits / temperature) in float64 over the `top_k` largest logits (0: all) of each row [B, classes], and
    of these over the likeliest that together reach `top_p`; the likeliest always stays."""
    scaled = logits.astype(np.float64)
    # In this order no temperature is too low; one that is no normal number counts as 0 (runtime.py).
    scaled = (scaled - scaled.max(-1, keepdims=True)) / max(temperature, sys.float_info.min)
    if 0 < top_k < scaled.shape[-1]:
        threshold = np.partition(scaled, -top_k, axis=-1)[:, -top_k, None]
        scaled = np.where(scaled < threshold, -np.inf, scaled)
    weights = np.exp(scaled)
    weights /= weights.sum(-1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-weights, axis=-1, kind="stable")
        ordered = np.take_along_axis(weights, order, -1)
        before = np.cumsum(ordered, axis=-1) - ordered
        np.put_along_axis(weights, order, np.where(before < top_p, ordered, 0.0), -1)
        weights /= weights.sum(-1, keepdims=True)
    return weights


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log softmax(logits) in float64 of each row [B, classes]."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
