"""The sharding stages: Paddle's data parallelism and sharding with one interface.

stage  what each rank holds only a shard of          Paddle
0      nothing; gradients are averaged once a step   fused_allreduce_gradients
1      optimizer states                              DygraphShardingOptimizer
2      and gradients                                 group_sharded_parallel("os_g")
3      and parameters, gathered layer by layer       group_sharded_parallel("p_g_os")
"""

from collections.abc import Iterable
from typing import Literal, Protocol

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.distributed import fleet
from paddle.distributed.fleet.meta_optimizers.dygraph_optimizer.dygraph_sharding_optimizer import (
    DygraphShardingOptimizer,
)
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_utils import GroupShardedScaler
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients_with_group
from paddle.distributed.parallel import sync_params_buffers
from paddle.distributed.sharding import group_sharded_parallel

from vilg import config
from vilg.distributed.clipping import GlobalNormClip
from vilg.distributed.main_gradients import with_main_gradients
from vilg.distributed.offload import OffloadedOptimizerStage3
from vilg.distributed.states import ShardedParameter
from vilg.distributed.world import World


class Stage(Protocol):
    """The interface that the engine uses."""

    model: nn.Layer  # call this instead of the model
    optimizer: paddle.optimizer.Optimizer  # step() also gathers the parameters
    scaler: paddle.amp.GradScaler | None
    clip: GlobalNormClip

    def reduce(self) -> None:
        """Complete the reduction of the gradients before the optimizer step."""

    def clear(self) -> None:
        """Reset the gradients."""

    def broadcast(self) -> None:
        """Send the parameters that this rank updates to the ranks that hold them without updating them."""

    def sharded_parameter(self, name: str, parameter: paddle.Tensor) -> ShardedParameter:
        """The part of a parameter that this rank holds between two steps."""


class DataParallel:
    """Stage 0. Ranks communicate once a step, after the last micro-batch."""

    def __init__(
        self,
        world: World,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        max_norm: float,
        scaler: paddle.amp.GradScaler | None,
    ):
        self.model, self.scaler, self._world, self._inner = model, scaler, world, optimizer
        self.clip = optimizer._grad_clip = GlobalNormClip(max_norm, may_overflow=scaler is not None)
        self.optimizer = with_main_gradients(optimizer)
        if world.ranks > 1:
            sync_params_buffers(model)

    def reduce(self) -> None:
        if self._world.ranks > 1:
            fused_allreduce_gradients_with_group(self._inner._parameter_list, None)

    def clear(self) -> None:
        self.optimizer.clear_grad()

    def broadcast(self) -> None:
        pass

    def sharded_parameter(self, name: str, parameter: paddle.Tensor) -> ShardedParameter:
        return _unsharded(name, parameter, _master_weight(self._inner, parameter), self._world.all_ranks)


class ShardedOptimizer:
    """Stage 1. Each parameter has an owner in the sharding group, which updates it and broadcasts the result."""

    def __init__(
        self,
        world: World,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        max_norm: float,
        scaler: paddle.amp.GradScaler | None,
    ):
        self.model, self._world = model, world
        self.scaler = scaler and fleet.distributed_scaler(scaler)  # its ranks agree on overflows
        self.clip = optimizer._grad_clip = GlobalNormClip(
            max_norm, world.sharding_group, lambda parameter: False, scaler is not None
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

    @paddle.no_grad()
    def broadcast(self) -> None:
        # Paddle's own function sends only parameters that have a gradient.
        group = self._world.sharding_group
        for shard, parameters in self.optimizer._rank2params.items():
            for parameter in parameters:
                dist.broadcast(parameter, src=group.ranks[shard], group=group)

    def sharded_parameter(self, name: str, parameter: paddle.Tensor) -> ShardedParameter:
        if parameter.stop_gradient:
            return _unsharded(name, parameter, parameter, self._world.all_ranks)
        owner = self.optimizer._param2rank[parameter.name]
        master_weight = _master_weight(self.optimizer._inner_opt, parameter)
        return _unsharded(name, parameter, master_weight, self._world.topology.replica_group(owner))


class _GroupSharded:
    """Common part of stages 2 and 3. Gradients are reduced to their owners in every backward pass, since no rank can
    hold them all.
    """

    level: Literal["os_g", "p_g_os"]

    def __init__(
        self,
        world: World,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        max_norm: float,
        scaler: paddle.amp.GradScaler | None,
        settings: config.Distributed,
    ):
        self._world, self._inner, self._offload = world, optimizer, settings.offload
        # In stage 2 each parameter has one owner. Stage 3 replicates small parameters and marks them.
        self.clip = optimizer._grad_clip = GlobalNormClip(
            max_norm, world.sharding_group, lambda parameter: hasattr(parameter, "unslice"), scaler is not None
        )
        sync_params_buffers(model)
        replica_group = world.replica_group if world.topology.replicas > 1 else None
        if settings.offload:
            self.model: nn.Layer = OffloadedOptimizerStage3(
                model, with_main_gradients(optimizer), world.sharding_group, replica_group, settings.segment_size
            )
            self.optimizer, self.scaler = self.model._optim, scaler and GroupShardedScaler(scaler)
            return
        self.model, self.optimizer, self.scaler = group_sharded_parallel(
            model,
            with_main_gradients(optimizer),
            self.level,
            scaler,
            world.sharding_group,
            dp_group=replica_group,
            # A bucket is sent when all of its gradients exist, but neither direction uses the other's output head.
            buffer_max_size=1,
            segment_size=settings.segment_size,
            # Prefetching follows the layer order of the first step. The two directions use different orders, and a
            # layer that was prefetched but not used would be used later with outdated values.
            sync_comm=True,
        )

    def reduce(self) -> None:
        pass

    def clear(self) -> None:
        self.optimizer.clear_grad()


class ShardedGradients(_GroupSharded):
    """Stage 2."""

    level = "os_g"

    def reduce(self) -> None:
        # When Paddle adds the gradients of replicas, it leaves out those in `main_grad` (group_sharded_stage2.py,
        # _dp_allreduce). Its optimizer step divides by the number of replicas.
        if self._world.topology.replicas > 1:
            owned = [one for one in self._inner._parameter_list if getattr(one, "main_grad", None) is not None]
            fused_allreduce_gradients_with_group(owned, self._world.replica_group, scale=1.0)

    def broadcast(self) -> None:
        self.optimizer._broadcast_params()

    def sharded_parameter(self, name: str, parameter: paddle.Tensor) -> ShardedParameter:
        if parameter.stop_gradient:
            return _unsharded(name, parameter, parameter, self._world.all_ranks)
        owner = self.optimizer.param2rank[parameter.name]
        master_weight = _master_weight(self._inner, parameter)
        return _unsharded(name, parameter, master_weight, self._world.topology.replica_group(owner))


class ShardedParameters(_GroupSharded):
    """Stage 3. Each rank holds an equal share of every parameter larger than `segment_size`, padded at the end."""

    level = "p_g_os"

    def broadcast(self) -> None:
        pass

    def sharded_parameter(self, name: str, parameter: paddle.Tensor) -> ShardedParameter:
        world = self._world
        if not hasattr(parameter, "fw_storage"):
            offloaded = self._offload and not parameter.stop_gradient
            master_weight = parameter.master_weight if offloaded else _master_weight(self._inner, parameter)
            return _unsharded(name, parameter, master_weight, world.all_ranks)
        size, shard_size = parameter.size, self.model._param2buffer_size[parameter.name] // world.topology.shards
        start = min(world.shard * shard_size, size)
        key = f"slice@{parameter.name}"
        master_weight = parameter.master_weight if self._offload else self._inner._master_weights.get(key)
        tensors = [parameter.fw_storage] if master_weight is None else [master_weight, parameter.fw_storage]
        return ShardedParameter(
            name,
            key,
            parameter.shape,
            tensors,
            start,
            min(start + shard_size, size),
            tuple(world.topology.replica_group(world.rank)),
        )


def _master_weight(optimizer: paddle.optimizer.Optimizer, parameter: paddle.Tensor) -> paddle.Tensor:
    """The fp32 master weight of a 16-bit parameter if it exists already, otherwise the parameter."""
    return optimizer._master_weights.get(parameter.name, parameter)


def _unsharded(
    name: str, parameter: paddle.Tensor, master_weight: paddle.Tensor, holders: Iterable[int]
) -> ShardedParameter:
    tensors = [parameter] if master_weight is parameter else [master_weight, parameter]
    return ShardedParameter(name, parameter.name, parameter.shape, tensors, 0, parameter.size, tuple(holders))


def build(
    world: World,
    model: nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    max_norm: float,
    scaler: paddle.amp.GradScaler | None,
    settings: config.Distributed,
) -> Stage:
    """The stage that the settings ask for. With one shard every stage is stage 0."""
    if world.topology.shards == 1:
        return DataParallel(world, model, optimizer, max_norm, scaler)
    if settings.stage == 1:
        return ShardedOptimizer(world, model, optimizer, max_norm, scaler)
    group_sharded = ShardedGradients if settings.stage == 2 else ShardedParameters
    return group_sharded(world, model, optimizer, max_norm, scaler, settings)
