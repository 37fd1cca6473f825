"""The public attention functions. The model uses only these."""

import logging
from functools import cache

import paddle

from vilg.attention.blockwise import blockwise_attention
from vilg.attention.layout import Layout
from vilg.attention.reference import dense_attention
from vilg.errors import UserError

log = logging.getLogger(__name__)


@paddle.jit.not_to_static  # nothing here depends on tensor values, so tracing need not convert it
def block_sparse_attention(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, layout: Layout, backend: str = "auto"
) -> paddle.Tensor:
    """softmax(Q K^T / sqrt(D)) V over the pairs of positions that `layout` makes visible.

    q, k, v: [B, S, H, D] with S = layout.length, in the order of positions of `patterns`. backend: operator, blockwise,
    dense, or auto for the first one that is available. Returns [B, S, H, D] in the dtype of q. Raises UserError if the
    operator is requested but not available.
    """
    if q.shape[1] != layout.length:
        raise ValueError(f"{q.shape[1]} positions given, the layout has {layout.length}")
    if k.shape != q.shape or v.shape != q.shape:
        raise ValueError(f"queries {q.shape}, keys {k.shape} and values {v.shape} must be of one shape")
    chosen = choose_backend(backend, q.shape[-1], paddle.get_device())
    if chosen == "operator":
        from vilg.attention.operator import operator_attention

        return operator_attention(q, k, v, layout)
    if chosen == "blockwise":
        return blockwise_attention(q, k, v, layout)
    return dense_attention(q, k, v, layout.additive_mask.tensor())


@paddle.jit.not_to_static
def packed_attention(qkv: paddle.Tensor, layout: Layout, backend: str = "auto") -> paddle.Tensor:
    """block_sparse_attention for packed queries, keys and values: qkv [B, S, 3, H, D].

    The operator reads them in place; other backends split them first. Returns [B, S, H, D].
    """
    if qkv.shape[1] == layout.length and choose_backend(backend, qkv.shape[-1], paddle.get_device()) == "operator":
        from vilg.attention.operator import packed_operator_attention

        return packed_operator_attention(qkv, layout)
    q, k, v = qkv.unbind(2)
    return block_sparse_attention(q, k, v, layout, backend)


@cache
def choose_backend(backend: str, head_size: int, device: str) -> str:
    """The backend that runs. Logs it once, and why the operator is not used."""
    if backend in ("blockwise", "dense"):
        log.info("attention: %s", backend)
        return backend
    missing = _why_no_operator(head_size, device)
    if missing is None:
        log.info("attention: the compiled operator")
        return "operator"
    if backend == "operator":
        raise UserError(f"attention.backend=operator: {missing}")
    log.info("attention: block by block without the operator, which is slower: %s", missing)
    return "blockwise"


def _why_no_operator(head_size: int, device: str) -> str | None:
    from vilg.attention import operator

    gpu = device.startswith("gpu")
    if not gpu and device != "cpu":
        return f"it is for cpu and gpu, not for {device}"
    sizes = operator.HEAD_SIZES_ON_GPU if gpu else operator.HEAD_SIZES
    if head_size not in sizes:
        return f"the head size is {head_size}, but the operator supports only {', '.join(map(str, sizes))}"
    missing = operator.load()
    return operator.why_no_gpu_kernel(device) if missing is None and gpu else missing
