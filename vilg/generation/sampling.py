"""Chooses tokens from logits."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vilg.errors import UserError

SEEDS = 2**63  # seeds are stored as int64

# float32 logits [rows, classes] -> int64 [rows], the chosen tokens.
Choice = Callable[[np.ndarray], np.ndarray]


class Sampling(Protocol):
    """A method of choosing tokens."""

    def start(self, sources: int, samples: int) -> Choice:
        """Start choosing for `samples` continuations of each of `sources` sources, those of one source next to each
        other.
        """


@dataclass(frozen=True)
class Sampler:
    """Temperature, top-k and top-p sampling, or the most likely token if `greedy`.

    Sample i of a source uses a generator seeded with seed + i. It equals the first sample of that seed, alone and in
    any batch.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    greedy: bool = False
    top_p: float = 1.0  # 1: all

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise UserError(
                f"--temperature {self.temperature}: must be positive (--greedy takes the most likely token)"
            )
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
            # The last sum may be less than 1 because of rounding.
            return np.minimum((cumulated <= uniform[:, None] * cumulated[:, -1:]).sum(-1), logits.shape[-1] - 1)

        return choose


@dataclass(frozen=True)
class PerSampleSampler:
    """Uses one of several samplers for each source."""

    samplers: Sequence[Sampler]

    def start(self, sources: int, samples: int) -> Choice:
        assert sources == len(self.samplers)
        choices = [sampler.start(1, samples) for sampler in self.samplers]
        return lambda logits: np.concatenate(
            [choose(logits[row * samples : (row + 1) * samples]) for row, choose in enumerate(choices)]
        )


def probabilities(logits: np.ndarray, temperature: float, top_k: int, top_p: float = 1.0) -> np.ndarray:
    """softmax(logits / temperature) in float64 for logits [B, classes], restricted to likely tokens.

    top_k: keep the k largest logits (0: all). top_p: of these, keep the most likely ones that together reach p. The
    most likely token is always kept.
    """
    scaled = logits.astype(np.float64)
    # This order works for any temperature. Denormal temperatures count as 0 (runtime.py).
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
    """log softmax(logits) in float64, [B, classes]."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
