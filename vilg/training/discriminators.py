"""The models that an objective trains against its own, such as the discriminator of a VQGAN."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import paddle
from paddle import nn

from vilg.distributed.engine import Engine
from vilg.distributed.states import TensorShard
from vilg.distributed.world import World
from vilg.errors import UserError

_PREFIX = "rival/"  # of their states in a checkpoint: rival/NAME/model/.., rival/NAME/moment1/..

Shapes = dict[str, list[int]]


class Adversaries:
    """An engine, and so an optimizer, for each. Their gradients come with those of the objective's own model, whose
    engine goes backward through all losses."""

    def __init__(
        self,
        world: World,
        models: dict[str, nn.Layer],
        make_optimizer: Callable[[nn.Layer], paddle.optimizer.Optimizer],
        clip: float,
    ):
        self.engines = {name: Engine(world, model, make_optimizer, clip) for name, model in models.items()}

    def step(self, lr: float, losses: dict[str, float]) -> dict[str, float]:
        """Update those that had a loss, and return the norms of their gradients: `grad_norm_NAME`."""
        return {f"grad_norm_{name}": engine.step(lr) for name, engine in self.engines.items() if name in losses}

    def state(self) -> list[TensorShard]:
        return [
            replace(part, name=f"{_PREFIX}{name}/{part.name}")
            for name, engine in self.engines.items()
            for part in engine.state()
        ]

    @staticmethod
    def partition(shapes: Shapes) -> tuple[Shapes, Shapes]:
        """What is in a checkpoint: (the adversaries', the rest)."""
        adversaries = {name: shape for name, shape in shapes.items() if name.startswith(_PREFIX)}
        return adversaries, {name: shape for name, shape in shapes.items() if name not in adversaries}

    def load_state(self, given: Shapes, read: Callable[[str, int, int], np.ndarray]) -> None:
        """See Engine.load_state. UserError if the checkpoint's adversaries are others."""
        there = {name.split("/")[1] for name in given}
        if there != set(self.engines):
            raise UserError(f"a checkpoint with {_named(there)}; these settings train with {_named(self.engines)}")
        for name, engine in self.engines.items():
            prefix = f"{_PREFIX}{name}/"
            own = {one.removeprefix(prefix): shape for one, shape in given.items() if one.startswith(prefix)}
            try:
                engine.load_state(own, lambda one, *ends, prefix=prefix: read(prefix + one, *ends))
            except UserError as error:
                raise UserError(f"{name}: {error}") from None


def _named(names) -> str:
    return ", ".join(sorted(names)) or "no adversarial model"
