"""Choosing the next token from logits."""

from dataclasses import dataclass

import numpy as np

from vilg.errors import UserError


@dataclass
class Sampler:
    """Temperature, top-k and top-p sampling, or the most likely token where `greedy`.

    Row i of a batch draws from a generator of its own, seeded by (seed, i): it gets the same numbers in any batch.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    greedy: bool = False
    top_p: float = 1.0  # 1: all

    def __post_init__(self):
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"--temperature {self.temperature}: must be positive (--greedy takes the likeliest token)")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: must not be negative")
        if self.top_k < 0:
            raise UserError(f"--top-k {self.top_k}: must not be negative")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p}: must be in (0, 1]")
        self._generators: list[np.random.Generator] = []

    def settings(self) -> dict:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """logits [B, classes] -> int64 [B]."""
        if self.greedy:
            return logits.argmax(-1)
        while len(self._generators) < len(logits):
            self._generators.append(np.random.default_rng([self.seed, len(self._generators)]))
        uniform = np.array([generator.random() for generator in self._generators[: len(logits)]])
        cumulated = np.cumsum(probabilities(logits, self.temperature, self.top_k, self.top_p), axis=-1)
        # The last sum may fall short of 1 by rounding.
        return np.minimum((cumulated <= uniform[:, None] * cumulated[:, -1:]).sum(-1), logits.shape[-1] - 1)


def probabilities(logits: np.ndarray, temperature: float, top_k: int, top_p: float = 1.0) -> np.ndarray:
    """softmax(logits / temperature) in float64 over the `top_k` largest logits (0: all) of each row [B, classes], and
    of these over the likeliest that together reach `top_p`; the likeliest always stays."""
    scaled = logits.astype(np.float64) / temperature
    if 0 < top_k < scaled.shape[-1]:
        threshold = np.partition(scaled, -top_k, axis=-1)[:, -top_k, None]
        scaled = np.where(scaled < threshold, -np.inf, scaled)
    weights = np.exp(scaled - scaled.max(-1, keepdims=True))
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
