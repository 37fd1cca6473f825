"""Environment that has to be set before Paddle is imported: threads, MKL code path, allocator, denormals,
transposition, and deterministic kernels on GPUs.

Without it, Paddle's CPU wheel is several times slower; docs/performance.md has measurements. Variables that the user
has set are not changed. No setting changes results by more than rounding.

Child processes would inherit these settings, including the number of threads. Programs that start fleetrun pass
`environment_before()` instead.
"""

import ctypes
import os
import platform
from importlib import metadata
from pathlib import Path

_set_here: set[str] = set()

_MALLOC_TRIM_THRESHOLD, _MALLOC_TOP_PAD, _MALLOC_MMAP_MAX = -1, -2, -4  # malloc.h, glibc
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 1 << 15, 1 << 6  # bits of the register MXCSR of x86-64


def prepare() -> None:
    """Set what is not set yet. Can be called several times; has no effect after Paddle was imported."""
    _set("GLOG_minloglevel", "1")  # Paddle's log lines about sockets and flags do not help users
    _set("OMP_NUM_THREADS", str(threads_for_this_process()))
    mkl_path = mkl_path_for(_cpu_vendor_and_flags())
    if mkl_path is not None:
        _set("MKL_DEBUG_CPU_TYPE", mkl_path)
    flush_denormals()
    if may_use_gpu():
        # Otherwise the gradients of embeddings and of convolutions are sums in an order that changes from run to run.
        _set("FLAGS_embedding_deterministic", "1")
        _set("FLAGS_cudnn_deterministic", "1")
        return
    if not any(name.startswith("MALLOC_") for name in os.environ):
        keep_freed_memory()
    # With stride views, CPU kernels copy element by element: a transposition takes 40 times as long as with the older
    # kernel.
    _set("FLAGS_use_stride_kernel", "0")


def environment_before() -> dict[str, str]:
    """The environment as the user provided it, for child processes that choose their own settings."""
    return {name: value for name, value in os.environ.items() if name not in _set_here}


def _set(name: str, value: str) -> None:
    if name not in os.environ:
        os.environ[name] = value
        _set_here.add(name)


def threads_for_this_process() -> int:
    """The available cores divided by the number of processes that fleetrun started on this host.

    Paddle sets OMP_NUM_THREADS=1 if it is unset, which leaves all other cores of a single process idle.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("PADDLE_LOCAL_SIZE", "1"))
    return max(1, cores // max(1, processes))


def mkl_path_for(cpu: tuple[str, frozenset[str]]) -> str | None:
    """The MKL_DEBUG_CPU_TYPE with the fastest kernels for an AMD processor; None for others.

    MKL uses its slowest code path on processors of other vendors. 7 is AVX-512 (5 times faster here), 5 is AVX2 (2.5
    times). 6 is AVX-512 of another chip and fails with an illegal instruction in a division.
    """
    vendor, flags = cpu
    if vendor != "AuthenticAMD":
        return None
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "7"
    return "5" if "avx2" in flags else None


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the kernel.

    Otherwise every large temporary is a new mapping, and page faults take 3 to 10 times as long as the arithmetic of an
    elementwise operator. As a consequence, resident memory stays at its peak. A rank on a GPU computes nothing large in
    host memory, but at times holds much there (a checkpoint while it is written), so it must give that memory back.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl, macOS
        return
    mallopt(_MALLOC_MMAP_MAX, 0)
    mallopt(_MALLOC_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_MALLOC_TOP_PAD, 64 * 2**20)


def flush_denormals() -> None:
    """Make the processor treat denormal numbers (below 1.2e-38 in fp32) as zero.

    Intel processors need about a hundred cycles for each of them. Adam's moments of rarely used rows and gradients of
    saturated softmaxes become denormal, and training steps then take up to three times as long. Applies to this thread
    and all threads that it starts, including those of Paddle and MKL.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    try:
        libm = ctypes.CDLL("libm.so.6")
        environment = (ctypes.c_uint32 * 8)()  # fenv_t: the x87's 28 bytes, then MXCSR
        libm.fegetenv(environment)
        environment[7] |= _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO
        libm.fesetenv(environment)
    except (OSError, AttributeError):  # musl, macOS
        return


def may_use_gpu() -> bool:
    """Whether Paddle is built for GPUs and none are hidden. Known without importing Paddle."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() not in ("", "-1") and _has_gpu_wheel()


def _has_gpu_wheel() -> bool:
    try:
        metadata.distribution("paddlepaddle-gpu")
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_vendor_and_flags() -> tuple[str, frozenset[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "", frozenset()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split())
