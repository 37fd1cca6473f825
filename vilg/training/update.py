"""One optimizer update of all models of an objective, or none at all."""

import math
from collections.abc import Callable, Iterable
from functools import partial

from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.training.discriminators import Adversaries
from vilg.training.interruption import StepInterruptedError, until_stopped
from vilg.training.objective import Objective
from vilg.training.spikes import NOT_FINITE, SpikeError, Spikes


class Update:
    """Computes losses and gradients of the micro-batches of a step, and updates the models if the step may be taken."""

    def __init__(self, objective: Objective, engine: Engine, adversaries: Adversaries, spikes: Spikes, world: World):
        self._objective, self._engine, self._adversaries = objective, engine, adversaries
        self._spikes, self._world = spikes, world

    def __call__(self, inputs: list, lr: float, stop: Callable[[], bool]) -> dict[str, float]:
        """Returns losses, learning rate and gradient norms, equal on all ranks.

        stop: whether this rank shall stop before the next micro-batch. Raises SpikeError or StepInterruptedError on all
        ranks, after which everything is as it was before the step.
        """
        self._engine.begin_step()
        self._adversaries.begin_step()
        try:
            return self._update(inputs, lr, stop)
        except (SpikeError, StepInterruptedError):
            self._engine.discard_step()
            self._adversaries.discard_step()
            self._objective.discard_step()
            raise

    def _update(self, inputs: list, lr: float, stop: Callable[[], bool]) -> dict[str, float]:
        losses, weights = self._losses(until_stopped(inputs, stop, self._world), self._counts(inputs))
        total = sum(weights[name] * value for name, value in losses.items() if name not in self._adversaries.engines)
        named = {f"loss_{name}": value for name, value in losses.items()}
        if not all(map(math.isfinite, losses.values())):
            raise SpikeError(NOT_FINITE, **named)
        if self._spikes.is_far("loss", total):
            raise SpikeError(self._spikes.far, loss=total, **named)
        norms = self._adversaries.gradient_norms(losses)
        if not all(map(math.isfinite, norms.values())):
            raise SpikeError(NOT_FINITE, **norms)
        norm = self._engine.step(lr, self._spikes.accepts_norm if self._spikes.compares else None)
        if not (math.isfinite(norm) or self._engine.may_overflow):
            raise SpikeError(NOT_FINITE, grad_norm=norm)
        if self._engine.refused:
            raise SpikeError(self._spikes.far, grad_norm=norm)
        self._adversaries.step(lr, losses)
        self._spikes.add_step(total, norm)
        return {"loss": total, **named, "lr": lr, "grad_norm": norm, **norms}

    def _counts(self, inputs: list) -> dict[str, float]:
        """The number of terms in each loss of the whole step, over all ranks."""
        counts: dict[str, float] = {}
        for micro_batch in inputs:
            for name, count in self._objective.loss_denominators(micro_batch).items():
                counts[name] = counts.get(name, 0.0) + count
        return self._world.sum(counts)

    def _losses(self, micro_batches: Iterable, counts: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
        """Compute gradients of the weighted sum of mean losses. Returns the means over all ranks and micro-batches, and
        their weights.
        """
        sums = dict.fromkeys(counts, 0.0)
        # The engine averages over ranks, so the factor of a mean over all ranks includes their number.
        weights = self._objective.weights(counts)
        factors = {name: weights[name] * self._world.ranks / count for name, count in counts.items()}
        for micro_batch in micro_batches:
            for name, summed in self._engine.micro_step(partial(self._objective.losses, micro_batch), factors).items():
                sums[name] += summed
        return {name: value / counts[name] for name, value in self._world.sum(sums).items()}, weights
