"""Models that are trained against the model of an objective, such as the discriminator of a VQGAN."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import paddle
from paddle import nn

from vilg.distributed.engine import Engine
from vilg.distributed.states import TensorShard
from vilg.distributed.world import World
from vilg.errors import UserError

_PREFIX = (
    "rival/"  # prefix in checkpoints: rival/NAME/model/.., rival/NAME/moment1/.. (the name that the format had first)
)

Shapes = dict[str, list[int]]


class Adversaries:
    """One engine, and therefore one optimizer, for each adversarial model.

    Their gradients are computed when the engine of the main model backpropagates the losses.
    """

    def __init__(
        self,
        world: World,
        models: dict[str, nn.Layer],
        make_optimizer: Callable[[nn.Layer], paddle.optimizer.Optimizer],
        clip: float,
    ):
        self.engines = {name: Engine(world, model, make_optimizer, clip) for name, model in models.items()}

    def begin_step(self) -> None:
        """See Engine."""
        for engine in self.engines.values():
            engine.begin_step()

    def gradient_norms(self, losses: dict[str, float]) -> dict[str, float]:
        """The gradient norms of the models that had a loss, as `grad_norm_NAME`. Nothing is updated yet."""
        return {f"grad_norm_{name}": engine.gradient_norm() for name, engine in self.engines.items() if name in losses}

    def step(self, lr: float, losses: dict[str, float]) -> None:
        """Update the models that had a loss."""
        for name, engine in self.engines.items():
            if name in losses:
                engine.step(lr)

    def discard_step(self) -> None:
        """Undo what the micro-batches of this step have changed."""
        for engine in self.engines.values():
            engine.clear_gradients()
            engine.discard_step()

    def state(self) -> list[TensorShard]:
        return [
            replace(part, name=f"{_PREFIX}{name}/{part.name}")
            for name, engine in self.engines.items()
            for part in engine.state()
        ]

    @staticmethod
    def partition(shapes: Shapes) -> tuple[Shapes, Shapes]:
        """Divide the tensors of a checkpoint into (those of adversarial models, others)."""
        adversaries = {name: shape for name, shape in shapes.items() if name.startswith(_PREFIX)}
        return adversaries, {name: shape for name, shape in shapes.items() if name not in adversaries}

    def load_state(self, stored: Shapes, read: Callable[[str, int, int], np.ndarray]) -> None:
        """See Engine.load_state. Raises UserError if the checkpoint has other adversarial models."""
        names = {name.split("/")[1] for name in stored}
        if names != set(self.engines):
            raise UserError(f"a checkpoint with {_named(names)}; these settings train with {_named(self.engines)}")
        for name, engine in self.engines.items():
            prefix = f"{_PREFIX}{name}/"
            own = {key.removeprefix(prefix): shape for key, shape in stored.items() if key.startswith(prefix)}
            try:
                engine.load_state(own, lambda key, *ends, prefix=prefix: read(prefix + key, *ends))
            except UserError as error:
                raise UserError(f"{name}: {error}") from None


def _named(names) -> str:
    return ", ".join(sorted(names)) or "no adversarial model"
