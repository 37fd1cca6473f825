"""How much of the states each rank holds: Paddle's own data parallelism and sharding behind one interface.

stage 0   everything; gradients are averaged once a step                        fused_allreduce_gradients
stage 1   a share of the optimizer's states                                     DygraphShardingOptimizer
stage 2   a share of the gradients too                                          group_sharded_parallel("os_g")
stage 3   a share of the parameters too, put together layer by layer while used group_sharded_parallel("p_g_os")
"""

from collections.abc import Iterable
from typing import Protocol

import paddle
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer.dygraph_sharding_optimizer import (
    DygraphShardingOptimizer,
)
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group
from paddle.distributed.parallel import sync_params_buffers
from paddle.distributed.sharding import group_sharded_parallel

from vilg import config
from vilg.distributed.clipping import GlobalNormClip
from vilg.distributed.states import Held
from vilg.distributed.world import World


class Stage(Protocol):
    """What the engine asks of a stage."""

    model: nn.Layer  # to be called instead of the model
    optimizer: paddle.optimizer.Optimizer  # its step() updates, and puts the parameters together where they are split
    scaler: paddle.amp.GradScaler | None
    clip: GlobalNormClip

    def reduce(self) -> None:
        """What is left to do with the gradients of a step before the optimizer sees them."""

    def clear(self) -> None:
        """Forget the gradients."""

    def held(self, name: str, parameter: paddle.Tensor) -> Held:
        """What this rank holds of a parameter, between two steps."""


class Replicated:
    """Stage 0. Nothing is said between ranks before the last micro-batch."""

    def __init__(
        self,
        world: World,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        limit: float,
        scaler: paddle.amp.GradScaler | None,
    ):
        self.model, self.optimizer, self.scaler, self._world = model, optimizer, scaler, world
        self.clip = optimizer._grad_clip = GlobalNormClip(limit, may_overflow=scaler is not None)
        if world.ranks > 1:
            sync_params_buffers(model)

    def reduce(self) -> None:
        if self._world.ranks > 1:
            fused_allreduce_gradients_with_group(self.optimizer._parameter_list, None)

    def clear(self) -> None:
        self.optimizer.clear_grad()

    def held(self, name: str, parameter: paddle.Tensor) -> Held:
        return _whole(name, parameter, _exact(self.optimizer, parameter), self._world.everybody)


class OptimizerSharded:
    """Stage 1. Each parameter has an owner in the sharding group, who updates it and sends it to the others."""

    def __init__(
        self,
        world: World,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        limit: float,
        scaler: paddle.amp.GradScaler | None,
    ):
        self.model, self._world = model, world
        self.scaler = scaler and fleet.distributed_scaler(scaler)  # whose ranks agree on what has overflowed
        self.clip = optimizer._grad_clip = GlobalNormClip(
            limit, world.sharding_group, lambda parameter: False, scaler is not None
        )
        sync_params_buffers(model)
        self.optimizer = DygraphShardingOptimizer(optimizer, world.fleet_groups)
        self._owned = self.optimizer._rank2params[world.shard]

    def reduce(self) -> None:
        self.optimizer.reduce_gradients(self.optimizer._origin_parameter_list, self._world.fleet_groups)
        if self._world.topology.replicas > 1:
            fused_allreduce_gradients_with_group(self._owned, self._world.replica_group)

    def clear(self) -> None:
        self.optimizer.clear_grad(set_to_zero=False)

    def held(self, name: str, parameter: paddle.Tensor) -> Held:
        owner = self.optimizer._param2rank[parameter.name]
        exact = _exact(self.optimizer._inner_opt, parameter)
        return _whole(name, parameter, exact, self._world.topology.replica_group(owner))


class _GroupSharded:
    """What stages 2 and 3 share. Gradients go to their owners in every backward pass: no rank has room for all."""

    level: str

    def __init__(
        self,
        world: World,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        limit: float,
        scaler: paddle.amp.GradScaler | None,
        settings: config.Distributed,
    ):
        self._world, self._inner, self._offload = world, optimizer, settings.offload
        # Of stage 2 each parameter has one owner; stage 3 leaves small ones whole and marks them.
        self.clip = optimizer._grad_clip = GlobalNormClip(
            limit, world.sharding_group, lambda parameter: hasattr(parameter, "unslice"), scaler is not None
        )
        sync_params_buffers(model)
        self.model, self.optimizer, self.scaler = group_sharded_parallel(
            model,
            optimizer,
            self.level,
            scaler,
            world.sharding_group,
            offload=settings.offload,
            dp_group=world.replica_group if world.topology.replicas > 1 else None,
            # A bucket of gradients is sent once all of them are there, but neither direction uses the other's head.
            buffer_max_size=1,
            segment_size=settings.segment_size,
            # Fetching the next layer ahead follows the order of the first step. The directions differ in theirs, and a
            # layer that was fetched and then not used would be used later as it was.
            sync_comm=True,
        )

    def reduce(self) -> None:
        pass

    def clear(self) -> None:
        self.optimizer.clear_grad()


class GradientsSharded(_GroupSharded):
    """Stage 2."""

    level = "os_g"

    def held(self, name: str, parameter: paddle.Tensor) -> Held:
        owner = self.optimizer.param2rank[parameter.name]
        exact = _exact(self._inner, parameter)
        return _whole(name, parameter, exact, self._world.topology.replica_group(owner))


class ParametersSharded(_GroupSharded):
    """Stage 3. Of a parameter larger than `segment_size` each rank has the same share, padded at the end."""

    level = "p_g_os"

    def held(self, name: str, parameter: paddle.Tensor) -> Held:
        world = self._world
        if not hasattr(parameter, "fw_storage"):
            exact = parameter.master_weight if self._offload else _exact(self._inner, parameter)
            return _whole(name, parameter, exact, world.everybody)
        size, room = parameter.size, self.model._param2buffer_size[parameter.name] // world.topology.shards
        start = min(world.shard * room, size)
        key = f"slice@{parameter.name}"
        exact = parameter.master_weight if self._offload else self._inner._master_weights.get(key)
        tensors = [parameter.fw_storage] if exact is None else [exact, parameter.fw_storage]
        return Held(
            name,
            key,
            parameter.shape,
            tensors,
            start,
            min(start + room, size),
            tuple(world.topology.replica_group(world.rank)),
        )


def _exact(optimizer: paddle.optimizer.Optimizer, parameter: paddle.Tensor) -> paddle.Tensor:
    """The fp32 master of a parameter in 16 bits, once there is one, else the parameter."""
    return optimizer._master_weights.get(parameter.name, parameter)


def _whole(name: str, parameter: paddle.Tensor, exact: paddle.Tensor, holders: Iterable[int]) -> Held:
    tensors = [parameter] if exact is parameter else [exact, parameter]
    return Held(name, parameter.name, parameter.shape, tensors, 0, parameter.size, tuple(holders))


def build(
    world: World,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    limit: float,
    scaler: paddle.amp.GradScaler | None,
    settings: config.Distributed,
) -> Stage:
    """The stage of the settings. With one shard there is nothing to split, and any stage is stage 0."""
    if world.topology.shards == 1:
        return Replicated(world, model, optimizer, limit, scaler)
    if settings.stage == 1:
        return OptimizerSharded(world, model, optimizer, limit, scaler)
    stage = GradientsSharded if settings.stage == 2 else ParametersSharded
    return stage(world, model, optimizer, limit, scaler, settings)
