"""Loads the compiled operator into Paddle."""

import logging
from functools import cache

import paddle
from paddle import _C_ops
from paddle.base.framework import OpProtoHolder
from paddle.utils.cpp_extension.extension_utils import load_op_meta_info_and_register_op

from vilg.attention import build
from vilg.attention.layout import Layout

SEPARATE, PACKED = "vilg_block_sparse_attention", "vilg_packed_attention"
HEAD_SIZES, HEAD_SIZES_ON_GPU = (32, 64, 80, 96, 128), (32, 64, 128)

log = logging.getLogger(__name__)


@cache
def load() -> str | None:
    """None if the operator is registered, otherwise the reason why it is not available."""
    # Registering one name from two libraries aborts the process.
    if SEPARATE in OpProtoHolder.instance().op_proto_map:
        return None
    try:
        load_op_meta_info_and_register_op(str(build.built()))
    except (build.BuildError, OSError) as error:
        return str(error)
    return None


def why_no_half_kernels() -> str | None:
    """None if Paddle has kernels for bf16 and fp16 on this CPU now, otherwise the reason why it has none."""
    return load() or build.why_no_half_kernels()


def why_no_gpu_kernel(device: str) -> str | None:
    """None if the library has a kernel for this GPU ("gpu:0"), otherwise the reason why it has none."""
    if not build.has_gpu_kernels():
        return f"it was built without kernels for GPUs: {build.why_no_nvcc()}"
    capability = paddle.device.cuda.get_device_capability(device)
    if build.has_kernel_for(capability):
        return None
    name = ".".join(map(str, capability))
    kernels = ", ".join(f"sm_{architecture}" for architecture in build.CUDA_ARCHITECTURES)
    return f"this GPU has compute capability {name}, and the kernels are compiled for {kernels}"


def operator_attention(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, layout: Layout) -> paddle.Tensor:
    """block_sparse_attention with the operator. q, k, v [B, S, H, D] in fp32, fp16 or bf16; D is one of HEAD_SIZES on a
    CPU and one of HEAD_SIZES_ON_GPU on a GPU.
    """
    return _C_ops._run_custom_op(SEPARATE, q, k, v, *_arguments(layout, q.shape[-1]))[0]  # type: ignore[attr-defined]


def packed_operator_attention(qkv: paddle.Tensor, layout: Layout) -> paddle.Tensor:
    """packed_attention with the operator. qkv [B, S, 3, H, D], with the types and sizes of `operator_attention`."""
    return _C_ops._run_custom_op(PACKED, qkv, *_arguments(layout, qkv.shape[-1]))[0]  # type: ignore[attr-defined]


def _arguments(layout: Layout, head_size: int) -> tuple[paddle.Tensor, float, list[int]]:
    """Arguments of the operator: the tiles for the device's kernel, the scale of the scores, and the headers for the
    host.
    """
    packed = layout.packed_for_gpu if paddle.get_device() != "cpu" else layout.packed
    return packed.tensor.tensor(), head_size**-0.5, packed.headers
