"""Patches for Paddle's stages 2 and 3 on CPUs. File names refer to fleet/meta_parallel/sharding in Paddle 3.3.1."""

from types import ModuleType

import paddle
from paddle.distributed.fleet.meta_parallel.sharding import (
    group_sharded_optimizer_stage2,
    group_sharded_stage3,
    group_sharded_storage,
)
from paddle.distributed.sharding import group_sharded
from paddle.framework import core

_GPU_ALIGNMENT = 256  # bytes


class _ModuleProxy(ModuleType):
    """A module with some attributes replaced by `overrides`."""

    def __init__(self, real: ModuleType, **overrides):
        super().__init__(real.__name__)
        self.__dict__.update(overrides, _real=real)

    def __getattr__(self, name):
        return getattr(self._real, name)


def install() -> None:
    # group_sharded.py, group_sharded_parallel: "only support gpu, xpu and custom_device now".
    custom = _ModuleProxy(paddle.device, get_all_custom_device_type=lambda: ["cpu"])
    group_sharded.paddle = _ModuleProxy(paddle, device=custom)

    # Both __init__s assert core.is_compiled_with_cuda().
    with_cuda = _ModuleProxy(core, is_compiled_with_cuda=lambda: True)
    group_sharded_optimizer_stage2.core = group_sharded_stage3.core = with_cuda

    # group_sharded_optimizer_stage2.py, __init__: `paddle.get_device().split(":")[1]`.
    group_sharded_optimizer_stage2.paddle = _ModuleProxy(paddle, get_device=lambda: "cpu:0")

    # Paddle pads parameters to 4096 bytes on a CPU. 256 bytes, as on a GPU, give the same shapes as on a GPU.
    group_sharded_optimizer_stage2.alignment["cpu"] = group_sharded_stage3.alignment["cpu"] = _GPU_ALIGNMENT

    # group_sharded_storage.py, _add_param_as_view: `param.cpu()` is the same memory here, which the next line frees.
    # With convert_gpu=False, meant for parameters in host memory, the class does not make this copy.
    storage = group_sharded_storage.ParamStorage
    if not hasattr(storage.add_rank_params, "keeps_cpu_parameters"):
        storage.add_rank_params = _on_host(storage.add_rank_params)  # type: ignore[method-assign]

    # group_sharded_stage3.py, _device2cpu: `.cpu()` is the same memory here, too, and is freed.
    group_sharded_stage3._device2cpu = _device_to_host

    # group_sharded_stage3.py, _cpu2device and _clear_gradients: "cpu:0" is not a device, but a custom device is
    # addressed by its place.
    group_sharded_stage3.paddle = _ModuleProxy(
        paddle, get_device=lambda: "cpu:0", device=custom, CustomPlace=lambda name, number: paddle.CPUPlace()
    )


def _on_host(add_rank_params):
    def add(self, params, param2align, convert_gpu=True):
        return add_rank_params(self, params, param2align, False)

    add.keeps_cpu_parameters = True  # type: ignore[attr-defined]
    return add


def _device_to_host(tensor, convert_dtype=False):
    copied = paddle.cast(tensor, "float32").clone() if convert_dtype else tensor.clone()
    tensor._clear_data()
    return copied
