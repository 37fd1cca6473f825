"""Plain data parallelism through Fleet: every rank holds the model, gradients are averaged once a step."""

import numpy as np
import paddle
from paddle import nn
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients
from paddle.distributed.parallel import sync_params_buffers

from vilg.distributed.world import World
from vilg.errors import UserError

_MOMENTS = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")


class Engine:
    """Takes losses of micro-batches, gives optimizer updates.

    A step is any number of `backward` calls, then `gradient_norm` (which averages and clips), then `update`.
    """

    def __init__(self, world: World, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, clip: float):
        self.world, self.model, self.optimizer, self.clip = world, model, optimizer, clip
        self._parameters = {name: value for name, value in model.named_parameters() if not value.stop_gradient}
        if world.ranks > 1:
            sync_params_buffers(model)

    def backward(self, loss: paddle.Tensor) -> None:
        """Add the gradient of `loss`, which is this rank's share of a mean over all ranks."""
        loss.backward()

    @paddle.no_grad()
    def gradient_norm(self) -> float:
        """Average the gradients over all ranks, clip them, and return their global norm from before the clipping."""
        parameters = list(self._parameters.values())
        if self.world.ranks > 1:
            fused_allreduce_gradients(parameters, None)
        gradients = [value.grad for value in parameters if value.grad is not None]
        # Not paddle's clip_grad_norm_: its norm of one tensor takes 20 times as long on a CPU.
        norm = float(sum(gradient.square().sum() for gradient in gradients)) ** 0.5
        if 0 < self.clip < norm:
            for gradient in gradients:
                gradient.scale_(self.clip / norm)
        return norm

    def update(self, lr: float) -> None:
        """One optimizer step at learning rate `lr`; the gradients are gone afterwards."""
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        self.optimizer.clear_grad()

    def state(self) -> dict[str, np.ndarray]:
        """Parameters, buffers and Adam moments under structured names: `model/NAME`, `moment1/NAME`, .."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        accumulators = self.optimizer.state_dict()
        for name, parameter in self._parameters.items():
            for moment in _MOMENTS:
                tensors[f"{moment}/{name}"] = accumulators[f"{parameter.name}_{moment}_0"]
        return {name: value.numpy() for name, value in tensors.items()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Take what `state` gave, in this or another process. Nothing changes if a name or a shape does not fit."""
        own = self.model.state_dict()
        expected = {f"model/{name}": list(value.shape) for name, value in own.items()}
        for moment in _MOMENTS:
            for name, parameter in self._parameters.items():
                expected[f"{moment}/{name}"] = [1] if moment.endswith("pow_acc") else list(parameter.shape)
        given = {name: list(value.shape) for name, value in state.items()}
        if expected != given:
            raise UserError(_difference(expected, given))
        moments = {}
        for name, parameter in self._parameters.items():
            for moment in _MOMENTS:
                moments[f"{parameter.name}_{moment}_0"] = paddle.to_tensor(state[f"{moment}/{name}"])
        self.model.set_state_dict({name: state[f"model/{name}"] for name in own})
        self.optimizer.set_state_dict(moments)


def _difference(expected: dict[str, list], given: dict[str, list]) -> str:
    for name in sorted(expected | given, key=lambda name: (not name.startswith("model/"), name)):
        if expected.get(name) != given.get(name):
            return (f"a checkpoint of another model: {name.removeprefix('model/')} is "
                    f"{given.get(name, 'missing')} there and {expected.get(name, 'missing')} here")
    raise AssertionError("no difference")
