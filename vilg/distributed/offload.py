"""Optimizer offload with stage 3: masters and moments are in host memory, and are updated there.

The paper combines it with gradient accumulation to reduce the communication between CPU and GPU.
Paddle's stage 3 with offload also keeps the shards of parameters and gradients in host memory and copies both in every
forward and backward pass. Here they stay on the device, and a step copies each gradient to the host and each updated
parameter back once, however many micro-batches it has.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paddle
from paddle import nn
from paddle.distributed.communication.group import Group
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_stage3
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage3 import GroupShardedStage3


class OffloadedOptimizerStage3(GroupShardedStage3):
    """Paddle's stage 3, whose attribute `_offload` is true only while it is built and while the optimizer updates.

    Otherwise Paddle's hooks handle parameters and gradients as they do without offload.
    """

    def __init__(
        self,
        model: nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        group: Group,
        replica_group: Group | None,
        segment_size: int,
    ):
        super().__init__(
            model,
            optimizer,
            group,
            device=paddle.get_device().partition(":")[0],
            segment_size=segment_size,
            offload=True,
            sync_comm=True,
            dp_group=replica_group,
        )
        self._offload = False
        self._parameters_to_device(self._sharded())

    def _sharded(self) -> list[paddle.Tensor]:
        return [parameter for parameter in self._layer.parameters() if hasattr(parameter, "fw_storage")]

    def _sharded_and_trained(self) -> list[paddle.Tensor]:
        return [parameter for parameter in self._sharded() if parameter.trainable]

    @contextmanager
    def _as_offloaded(self) -> Iterator[None]:
        self._offload = True
        try:
            yield
        finally:
            self._offload = False

    @paddle.no_grad()
    def _parameters_to_device(self, parameters: list[paddle.Tensor]) -> None:
        for parameter in parameters:
            parameter.fw_storage = group_sharded_stage3._cpu2device(parameter)

    def _get_allreduce_fn(self, param: paddle.Tensor) -> Callable[..., None]:
        """Paddle's hook, which reduces the gradient of one backward pass. Passes are added here in fp32, on the device.

        In Paddle without offload, the sum would have the type of the parameter.
        """
        reduce = super()._get_allreduce_fn(param)

        @paddle.no_grad()
        def accumulate(*arguments) -> None:
            before, param.bw_storage = param.bw_storage, None
            reduce(*arguments)
            if param.bw_storage is None:
                param.bw_storage = before
                return
            own = param.bw_storage.astype("float32")
            param.bw_storage = own if before is None else before.add_(own)

        return accumulate

    @paddle.no_grad()
    def _update_params(self) -> list[paddle.Tensor]:
        """Called before the update, which gets the master weight as the parameter, and the gradient on the host."""
        for parameter in self._sharded_and_trained():
            parameter.bw_storage = group_sharded_stage3._device2cpu(parameter.bw_storage)
            parameter.fw_storage._clear_data()
            parameter.master_weight._share_buffer_to(parameter.fw_storage)
        with self._as_offloaded():
            return super()._update_params()

    def _clear_gradients(self) -> None:
        """Called after the update."""
        with self._as_offloaded():
            super()._clear_gradients()
        self._parameters_to_device(self._sharded_and_trained())
