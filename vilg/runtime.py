"""What must be set before Paddle is imported: threads, the MKL code path, the allocator, tiny numbers, how tensors are
transposed.

Paddle's CPU wheel is several times slower than the machine without these; docs/performance.md has what each gave.
A variable that the user has set wins. Nothing here changes a result by more than rounding.

Child processes would inherit what is set here, the number of threads too; a program that starts fleetrun gives it
`environment_before()` instead.
"""

import ctypes
import os
import platform
from importlib import metadata
from pathlib import Path

_set_here: set[str] = set()

_MALLOC_TRIM_THRESHOLD, _MALLOC_TOP_PAD, _MALLOC_MMAP_MAX = -1, -2, -4  # malloc.h, glibc
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 1 << 15, 1 << 6  # of the register MXCSR of x86-64


def prepare() -> None:
    """Set what is not set yet. Safe to call twice; of no use once Paddle is imported."""
    _set("GLOG_minloglevel", "1")  # Paddle's notes on sockets and flags are of no use to a user
    _set("OMP_NUM_THREADS", str(threads_for_this_process()))
    mkl_path = mkl_path_for(_cpu_vendor_and_flags())
    if mkl_path is not None:
        _set("MKL_DEBUG_CPU_TYPE", mkl_path)
    if not any(name.startswith("MALLOC_") for name in os.environ):
        keep_freed_memory()
    flush_denormals()
    if not _has_gpu_wheel():
        # Views of strides are copied element by element once a CPU kernel needs them: a transposition takes 40 times
        # as long as with the older kernel that moves the data at once.
        _set("FLAGS_use_stride_kernel", "0")


def environment_before() -> dict[str, str]:
    """The environment as the user gave it, for processes that shall choose for themselves."""
    return {name: value for name, value in os.environ.items() if name not in _set_here}


def _set(name: str, value: str) -> None:
    if name not in os.environ:
        os.environ[name] = value
        _set_here.add(name)


def threads_for_this_process() -> int:
    """The cores this process may use, shared out between the processes that fleetrun started on this host.

    Paddle sets OMP_NUM_THREADS=1 when it finds it unset, which wastes all other cores of a single process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("PADDLE_LOCAL_SIZE", "1"))
    return max(1, cores // max(1, processes))


def mkl_path_for(cpu: tuple[str, frozenset[str]]) -> str | None:
    """The MKL_DEBUG_CPU_TYPE that gives an AMD processor the kernels it can run; None leaves MKL alone.

    MKL picks its slowest path on a processor that is not Intel's. 7 is AVX-512 (5 times faster here), 5 is AVX2
    (2.5 times). 6 belongs to another chip's AVX-512 and dies of an illegal instruction in a division.
    """
    vendor, flags = cpu
    if vendor != "AuthenticAMD":
        return None
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "7"
    return "5" if "avx2" in flags else None


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed instead of returning it to the kernel.

    Otherwise every large temporary is a fresh mapping, and each elementwise operator pays for page faults: 3 to 10
    times its arithmetic. The price is that resident memory stays at its peak.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl, macOS: nothing to tune
        return
    mallopt(_MALLOC_MMAP_MAX, 0)
    mallopt(_MALLOC_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_MALLOC_TOP_PAD, 64 * 2**20)


def flush_denormals() -> None:
    """Have the processor take what is too small to be a normal number (below 1.2e-38 in fp32) for nought.

    Intel's needs a hundred cycles for each of them. Adam's moments of rows that are seldom met fade into that range, and
    so do gradients behind a softmax that is sure: a step of training then takes up to three times as long. Holds for this
    thread and those that it starts, Paddle's and MKL's among them.
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
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split())
