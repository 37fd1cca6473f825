"""Time, memory and what the machine can do, measured in one process."""

import gc
import time
from collections.abc import Callable

import paddle
from paddle.base import core

_AT_LEAST = 0.25  # seconds


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """The shortest of at least `repeats` calls: what the work takes when nothing else disturbs it.

    Short calls are repeated for a quarter of a second: memory that is still growing takes longer.
    """
    call()
    taken = [_once(call) for _ in range(repeats)]
    while sum(taken) < _AT_LEAST:
        taken.append(_once(call))
    return min(taken) * 1e3


def _once(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def matmul_rate(size: int = 2048, repeats: int = 10) -> float:
    """GFLOP/s of a large fp32 product by Paddle: what "as fast as the machine" means here."""
    a, b = paddle.randn([size, size]), paddle.randn([size, size])
    return 2 * size**3 / milliseconds(lambda: paddle.matmul(a, b), repeats) / 1e6


def extra_bytes(call: Callable[[], object]) -> int:
    """Peak of what the CPU allocator gave out during a call, above what was there before."""
    call()  # what is computed once and kept is not the call's
    gc.collect()  # nor is what earlier work has left behind, and would be freed in the middle of it
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    before = core.host_memory_stat_current_value("Allocated", 0)
    call()
    return core.host_memory_stat_peak_value("Allocated", 0) - before
