"""The memory that this rank has used."""

import resource

import paddle


def memory_used() -> dict[str, float]:
    """The most memory since this process started, in GB (10^9 bytes).

    On a GPU: `memory_peak_gb`, of tensors, and `memory_reserved_gb`, which Paddle's allocator held for them. On a CPU:
    `memory_peak_gb`, the resident memory of the process.
    """
    if not paddle.get_device().startswith("gpu"):
        return {"memory_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    return {
        "memory_peak_gb": paddle.device.cuda.max_memory_allocated() / 1e9,
        "memory_reserved_gb": paddle.device.cuda.max_memory_reserved() / 1e9,
    }
