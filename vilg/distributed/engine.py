"""Trains a model on all ranks with the sharding stage, precision and recompute of the settings."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import paddle
from paddle import nn
from paddle.nn.layer.norm import _BatchNormBase

from vilg import config
from vilg.arrays import to_numpy
from vilg.distributed import precision, stages, states
from vilg.distributed.clipping import NonFiniteGradientError, RefusedGradientError
from vilg.distributed.layer_groups import layer_groups
from vilg.distributed.main_gradients import gradient
from vilg.distributed.recompute import apply_recompute
from vilg.distributed.weight_average import PREFIX, WeightAverage
from vilg.distributed.world import World
from vilg.errors import UserError

log = logging.getLogger(__name__)

Losses = Callable[[nn.Layer], Iterator[tuple[str, paddle.Tensor]]]


class Engine:
    """One training step is any number of `micro_step` calls followed by one `step` call.

    make_optimizer: function from the model to its optimizer. clip: largest global norm of the gradient, 0 for no
    clipping. Without settings every rank holds the whole model in fp32. Parameters with `stop_gradient` are frozen:
    they are stored, but have no gradients and no optimizer states. ema_decay: decay per step of the moving average of
    the weights, 0 for none.
    """

    def __init__(
        self,
        world: World,
        model: nn.Layer,
        make_optimizer: Callable[[nn.Layer], paddle.optimizer.Optimizer],
        clip: float,
        settings: config.Distributed | None = None,
        ema_decay: float = 0.0,
    ):
        settings = settings or config.Distributed(precision="fp32")
        self.world = world
        self._parameters = dict(model.named_parameters())
        self._trained = {name: value for name, value in self._parameters.items() if not value.stop_gradient}
        self._buffers = {name: value for name, value in model.state_dict().items() if name not in self._parameters}
        self.precision = precision.resolve_precision(settings, paddle.get_device(), world)
        if settings.recompute != "none":
            apply_recompute(model.blocks, settings.recompute)
        self.precision.convert(model)
        self._optimizer = make_optimizer(model)
        groups = {self._parameters[name].name: group for name, group in layer_groups(self._trained).items()}
        self.stage = stages.build(world, model, self._optimizer, clip, self.precision.scaler(), settings)
        # Memory of the whole model in fp32, from before it was converted and divided, which Paddle would keep.
        paddle.device.cuda.empty_cache()
        self.stage.clip.groups = groups
        self.average = WeightAverage(self._sharded_parameters(), world.rank, ema_decay) if ema_decay else None
        self._reduces_at_end = world.ranks > 1 and (world.topology.shards == 1 or settings.stage == 1)
        self.reduction_seconds: float | None = None
        self.refused = False  # whether the last step was not made because `accepts` was false
        self._has_gradients = self._is_reduced = False
        self._statistics = _running_statistics(model)
        self._statistics_before: list[paddle.Tensor] = []

    def begin_step(self) -> None:
        """Call it before the micro-steps. Remembers what forward passes change, for `discard_step`."""
        self._statistics_before = [value.clone() for value in self._statistics]

    def micro_step(self, losses: Losses, factors: dict[str, float]) -> dict[str, float]:
        """Accumulate the gradients of the sum of factor x loss, and return the losses.

        `losses(model)` yields (name, loss) one at a time; each loss is backpropagated before the next is computed.
        Gradients are averaged over ranks, so for a mean over all ranks the factor has to include the number of ranks.
        """
        values = {}
        self._has_gradients = True
        for name, loss in losses(self.stage.model):
            scaled = loss * factors[name]
            (self.stage.scaler.scale(scaled) if self.stage.scaler else scaled).backward()
            values[name] = float(loss)
        return values

    def step(self, lr: float, accepts: Callable[[float], bool] | None = None) -> float:
        """Reduce, clip and update with learning rate `lr`. Returns the global gradient norm before clipping.

        accepts(norm): asked before anything is updated. If it is false on any rank, `refused` is true and nothing was
        updated. If the norm is not finite, nothing was updated either. With fp16 this is expected now and then, and the
        next step uses a smaller loss scale.
        """
        self.stage.optimizer.set_lr(lr)
        return self._apply(accepts)

    def discard_step(self) -> None:
        """Undo the micro-steps since `begin_step`. All ranks call this.

        Does what `step` does except for the update, because Paddle's stages reset gradients only after reducing them.
        """
        if self._has_gradients:
            self._apply(lambda norm: False)
        for value, before in zip(self._statistics, self._statistics_before):
            value.set_value(before)

    def gradient_norm(self) -> float:
        """Reduce the gradients and return their global norm. The next `step` does not reduce them again. Stage 0 only,
        where each rank has all gradients.
        """
        self._reduce()
        self._is_reduced = True
        gradients = [(value, gradient(value)) for value in self._trained.values()]
        pairs = [(value, own) for value, own in gradients if own is not None]
        return self.stage.clip.measure(pairs)

    def clear_gradients(self) -> None:
        """Reset the gradients without reducing them. Stage 0 only."""
        self.stage.clear()
        self._has_gradients = self._is_reduced = False

    def _apply(self, accepts: Callable[[float], bool] | None) -> float:
        stage = self.stage
        stage.clip.norm, stage.clip.group_norms = float("inf"), {}  # for a step that the scaler skips
        stage.clip.accepts, self.refused = accepts, False
        if not self._is_reduced:
            self._reduce()
        updated = True
        try:
            if stage.scaler is None:
                stage.optimizer.step()
            else:
                stage.scaler.step(stage.optimizer)
                stage.scaler.update()
        except (NonFiniteGradientError, RefusedGradientError) as error:
            self.refused, updated = isinstance(error, RefusedGradientError), False
            if stage.scaler is not None:
                stage.scaler._optimizer_states.clear()  # Paddle's scaler expects a step to be completed
        stage.clear()
        if updated and self.average and math.isfinite(stage.clip.norm):
            self.average.update(self._sharded_parameters())
        self._has_gradients = self._is_reduced = False
        return stage.clip.norm

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """In this context the model has the moving average of its weights, if there is one. All ranks enter it.

        No training step may be taken in it.
        """
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def _swap_average(self) -> None:
        if self.average:
            self.average.swap(self._sharded_parameters())
            self.stage.broadcast()

    def _reduce(self) -> None:
        """Complete the reduction of the gradients, and measure it where nothing else runs meanwhile.

        `reduction_seconds` includes waiting for slower ranks. It stays None in stages 2 and 3, where Paddle reduces
        during the backward pass and a clock on the host would measure that pass.
        """
        if not self._reduces_at_end:
            self.stage.reduce()
            return
        _wait_for_device()
        began = time.perf_counter()
        self.stage.reduce()
        _wait_for_device()
        self.reduction_seconds = time.perf_counter() - began

    @property
    def group_norms(self) -> dict[str, float]:
        """The gradient norm of each group of parameters (see layer_groups) before clipping, in the last step. Empty if
        the fp16 scaler skipped it.
        """
        return self.stage.clip.group_norms

    @property
    def may_overflow(self) -> bool:
        """Whether a non-finite gradient is expected now and then (fp16)."""
        return self.stage.scaler is not None

    def state(self) -> list[states.TensorShard]:
        """The tensor shards of this rank: parameters, buffers, moments and moving averages, named `model/NAME`,
        `moment1/NAME`, `ema/NAME`, ..
        """
        parameters = self._sharded_parameters()
        shards = states.tensor_shards(parameters, self._optimizer, self.world.rank)
        shards += self.average.tensor_shards(parameters) if self.average else []
        return shards + [
            states.replicated(f"model/{name}", to_numpy(value), self.world.ranks)
            for name, value in self._buffers.items()
        ]

    def load_state(self, stored: dict[str, list[int]], read: Callable[[str, int, int], np.ndarray]) -> None:
        """Load what `state` returned on all ranks of this or another job.

        stored: {name: global shape}. read(name, start, stop) returns elements of a flattened tensor. Raises UserError,
        and changes nothing, if a name or a shape does not fit. Which parameters were frozen may differ, and whether
        there is a moving average.
        """
        parameters = self._sharded_parameters()
        averages = {name for name in stored if name.startswith(PREFIX)}
        stored = {name: shape for name, shape in stored.items() if name not in averages}
        stored, fresh = states.match_moments(parameters, stored)
        expected = states.shapes([replace(one, trained=one.trained and one.name not in fresh) for one in parameters])
        expected |= {f"model/{name}": value.shape for name, value in self._buffers.items()}
        if expected != stored:
            raise UserError(_difference(expected, stored))
        if fresh and self.world.is_rank_zero:
            log.info("the checkpoint has no optimizer states of %d parameters; they start anew", len(fresh))
        states.load(parameters, self._optimizer, self.world.rank, read, fresh)
        if self.average:
            self.average.load(self._sharded_parameters(), averages, read)
        if self.world.is_rank_zero and bool(averages) != bool(self.average):
            log.info(
                "%s",
                "the checkpoint has no moving average; it starts from the weights"
                if self.average
                else "the moving average of the checkpoint is left out, because train.ema_decay is 0",
            )
        for name, value in self._buffers.items():
            value.set_value(read(f"model/{name}", 0, value.size).reshape(value.shape))

    @property
    def loss_scale(self) -> dict:
        """The state of the fp16 loss scaler in JSON types, for checkpoints; empty in other precisions."""
        state = dict(self.stage.scaler.state_dict()) if self.stage.scaler else {}
        return {name: np.asarray(value).tolist() for name, value in state.items()}

    @loss_scale.setter
    def loss_scale(self, state: dict) -> None:
        if self.stage.scaler and state:
            self.stage.scaler.load_state_dict(state)  # type: ignore[arg-type]  # a TypedDict of Paddle

    def _sharded_parameters(self) -> list[states.ShardedParameter]:
        return [
            replace(self.stage.sharded_parameter(name, value), trained=name in self._trained)
            for name, value in self._parameters.items()
        ]


def _wait_for_device() -> None:
    """Kernels on a GPU run after the host has started them."""
    if paddle.get_device().startswith("gpu"):
        paddle.device.synchronize()


def _running_statistics(model: nn.Layer) -> list[paddle.Tensor]:
    """The means and variances of batch norm, the only tensors that a forward pass changes."""
    layers = [layer for layer in model.sublayers(include_self=True) if isinstance(layer, _BatchNormBase)]
    return [value for layer in layers for value in (layer._mean, layer._variance)]


def _difference(expected: dict[str, list], stored: dict[str, list]) -> str:
    for name in sorted(expected | stored, key=lambda name: (not name.startswith("model/"), name)):
        if expected.get(name) != stored.get(name):
            return (
                f"a checkpoint of another model: {name.removeprefix('model/')} is "
                f"{stored.get(name, 'missing')} there and {expected.get(name, 'missing')} here"
            )
    raise AssertionError("no difference")
