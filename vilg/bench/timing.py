"""Measures time, memory, and the rate of matrix products."""

import gc
import time
from collections.abc import Callable

import paddle
from paddle.base import core

_AT_LEAST = 0.25  # seconds


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """The shortest of at least `repeats` calls, which is least disturbed by other work.

    Short calls are repeated for a quarter of a second, because calls are slower while memory is still being allocated.
    """
    call()
    seconds = [_once(call) for _ in range(repeats)]
    while sum(seconds) < _AT_LEAST:
        seconds.append(_once(call))
    return min(seconds) * 1e3


def _once(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def matmul_rate(size: int = 2048, repeats: int = 10) -> float:
    """GFLOP/s of a large fp32 matrix product with Paddle, the reference for all relative rates."""
    a, b = paddle.randn([size, size]), paddle.randn([size, size])
    return 2 * size**3 / milliseconds(lambda: paddle.matmul(a, b), repeats) / 1e6


def extra_bytes(call: Callable[[], object]) -> int:
    """Peak memory of the CPU allocator during a call, minus what was allocated before."""
    call()  # do not count what is computed once and cached
    gc.collect()  # nor garbage of earlier work, which could be freed during the call
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    before = core.host_memory_stat_current_value("Allocated", 0)
    call()
    return core.host_memory_stat_peak_value("Allocated", 0) - before
