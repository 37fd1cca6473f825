"""16 bits on CPUs: kernels, which vilg/attention/csrc/paddle/half.h adds to Paddle's, and patches for the loss scaler
and for gloo.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import paddle
import paddle.distributed as dist
from paddle.amp import grad_scaler

_FASTER = ("amx_bf16", "avx512_bf16")  # instructions for products of bf16 matrices, in /proc/cpuinfo


def bf16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The instructions that make bf16 faster than fp32 on this processor, or None."""
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        return None
    return next((name for name in _FASTER if name in flags), None)


def install() -> None:
    """Apply the patches. Calling it again has no effect."""
    # grad_scaler.py, AmpScaler.__init__: "AmpScaler can only be enabled on CUDAPlace, XPUPlace and CustomPlace".
    any_place = SimpleNamespace(is_gpu_place=lambda: True)
    grad_scaler._dygraph_tracer = lambda: SimpleNamespace(_expected_place=any_place)

    # gloo adds fp16 as if it were another type (the result is infinite), and adds bf16 in bf16.
    for name in ("all_reduce", "reduce"):
        collective = getattr(dist, name)
        if not hasattr(collective, "adds_in_fp32"):
            setattr(dist, name, _in_fp32(collective))


def _in_fp32(collective: Callable) -> Callable:
    @wraps(collective)
    def call(tensor, *arguments, **options):
        if tensor.dtype not in (paddle.float16, paddle.bfloat16):
            return collective(tensor, *arguments, **options)
        wide = tensor.astype("float32")
        task = collective(wide, *arguments, **options)
        if task is not None:
            task.wait()
        paddle.assign(wide.astype(tensor.dtype), tensor)
        return task

    call.adds_in_fp32 = True  # type: ignore[attr-defined]
    return call
