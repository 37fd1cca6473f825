"""Compiles the operator with g++ and stores the library next to its sources, or in the user's cache.

It is built by `pip install` if Paddle is installed (setup.py runs this file), otherwise at its first use. The library
is stored with a key of everything it depends on and is rebuilt when a source, header, flag or the Paddle version
changes. Uses the standard library only, and no network.

    python -m vilg.attention.build      builds the library and prints its path
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "csrc"
LIBRARY = "libvilg_attention.so"

# No -ffast-math: it changes results, also those of other code in the process.
_COMMON = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-Wno-psabi",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
]
_FLAGS = {
    "cpu/kernels_avx512.cc": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mprefer-vector-width=512",
    ],
    "cpu/kernels_avx2.cc": ["-mavx2", "-mfma"],
    "cpu/kernels_plain.cc": [],
    "cpu/adamw.cc": [],
    "cpu/attention.cc": [],
    "cpu/convert.cc": [],
    "cpu/instruction_set.cc": [],
    "cpu/rows.cc": [],
    "paddle/op.cc": [],
    "paddle/rows.cc": [],
}
# Kernels for 16 bits on a CPU, with a Paddle that is built for CPUs and has these libraries.
_HALF_SOURCES = tuple(
    f"paddle/half_{name}.cc" for name in ("adamw", "cast", "elementwise", "kernels", "matmul", "movement", "rows")
)
_HALF_LIBRARIES = ("libphi.so", "libphi_core.so", "libdnnl.so.3")
# With nvcc and a Paddle built for CUDA.
_CUDA_FLAGS = {"paddle/op.cc": ["-DVILG_WITH_CUDA"], "paddle/on_gpu.cc": ["-DPADDLE_WITH_CUDA"]}
_CUDA_SOURCE = "cuda/attention.cu"
CUDA_ARCHITECTURES = ("80", "90a")  # one binary kernel each; no PTX that a driver could compile for other GPUs
_NVCC = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC"] + [
    f"-gencode=arch=compute_{architecture},code=sm_{architecture}" for architecture in CUDA_ARCHITECTURES
]
_WITH_CUDA = " cuda"  # suffix of the key of a library with CUDA kernels
_ONLY_X86 = ("cpu/kernels_avx512.cc", "cpu/kernels_avx2.cc")


class BuildError(Exception):
    """The operator cannot be built. The message says what is missing, or what the compiler reported."""


def built() -> Path:
    """The path of the library, which is built if necessary. Any number of processes may call this at the same time."""
    key = build_key()
    for folder in (HERE / "lib", _cache() / key):
        if _is_current(folder, key):
            return folder / LIBRARY
    folder = HERE / "lib" if _writable(HERE) else _cache() / key
    with _locked(folder):
        if not _is_current(folder, key):
            build(folder, nvcc())
    return folder / LIBRARY


def has_gpu_kernels() -> bool:
    """Whether the library includes CUDA kernels. They remain usable where nvcc is missing, for example in an image."""
    return (built().parent / "key").read_text().endswith(_WITH_CUDA)


def has_kernel_for(capability: tuple[int, int]) -> bool:
    """Whether a library with CUDA kernels has one for GPUs of this compute capability, for example (8, 6).

    A kernel runs on its own capability and on higher ones with the same major number; with the suffix `a`, on its own
    only.
    """
    major, minor = capability
    for architecture in CUDA_ARCHITECTURES:
        digits = architecture.rstrip("a")
        of_major, from_minor = int(digits[:-1]), int(digits[-1])
        if major == of_major and (minor == from_minor or (minor > from_minor and digits == architecture)):
            return True
    return False


def why_no_half_kernels() -> str | None:
    """Why the library has no kernels for 16 bits on a CPU; None if it has."""
    if paddle_cuda_version() is not None:
        return "Paddle is built for CUDA"
    missing = [name for name in _HALF_LIBRARIES if not (_paddle() / "libs" / name).exists()]
    return f"Paddle has no {missing[0]}" if missing else None


def nvcc() -> str | None:
    """The CUDA compiler, or None if there is none that fits Paddle."""
    return None if why_no_nvcc() else _nvcc_path()


def why_no_nvcc() -> str | None:
    """Why the CUDA kernels cannot be compiled here; None if they can.

    A library of another major version of CUDA than Paddle's would bring a second CUDA runtime into the process, which
    may need a newer driver than the machine has.
    """
    wanted = paddle_cuda_version()
    if wanted is None:
        return "Paddle is not built for CUDA"
    path = _nvcc_path()
    if path is None:
        return f"there is no nvcc ({_nvcc_name()}); install CUDA {wanted} or name its nvcc in CUDACXX"
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} --version fails: {error}"
    found = re.search(r"release (\d+)\.(\d+)", output)
    if found is None:
        return f"{path} --version does not print a release of CUDA"
    if found[1] != wanted.split(".")[0]:
        return (
            f"{path} is of CUDA {found[1]}.{found[2]} and Paddle of CUDA {wanted}; install CUDA {wanted} or name its "
            "nvcc in CUDACXX"
        )
    return None


def paddle_cuda_version() -> str | None:
    """The CUDA version that Paddle is built for, for example "12.6"; None for a wheel without CUDA."""
    version = (_paddle() / "version/__init__.py").read_text()
    found = re.search(r"^cuda_version\s*=\s*'(\d[\d.]*)", version, re.MULTILINE)
    return found[1] if found else None


def _nvcc_name() -> str:
    return os.environ.get("CUDACXX", "nvcc")


def _nvcc_path() -> str | None:
    return shutil.which(_nvcc_name())


def build(folder: Path, cuda: str | None = None) -> None:
    """Compile and link into `folder`, with CUDA kernels if `cuda` names an nvcc. An existing library is replaced when
    the new one is complete.
    """
    compiler = _compiler()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        objects, running = [], []
        for source, command in _commands(compiler, cuda).items():
            objects.append(f"{scratch}/{source.replace('/', '-')}.o")
            command += ["-c", str(SOURCES / source), "-o", objects[-1]]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate()[1] for process in running]
        for process, error in zip(running, errors, strict=True):
            if process.returncode:
                raise BuildError(f"the compiler failed: {_first_error(error)}")
        linked = f"{scratch}/{LIBRARY}"
        runtime = _cuda_runtime(cuda) if cuda else []
        linking = subprocess.run(
            [compiler, "-shared", *objects, *_libraries(), *runtime, "-o", linked], capture_output=True, text=True
        )
        if linking.returncode:
            raise BuildError(f"the linker failed: {_first_error(linking.stderr)}")
        os.replace(linked, folder / LIBRARY)
    (folder / "key").write_text(build_key() + (_WITH_CUDA if cuda else ""))


def _commands(compiler: str, cuda: str | None) -> dict[str, list[str]]:
    """The compiler command for each source, without the names of source and object."""
    x86 = platform.machine() == "x86_64"
    sources = {source: flags for source, flags in _FLAGS.items() if x86 or source not in _ONLY_X86}
    if why_no_half_kernels() is None:
        sources |= {source: [] for source in _HALF_SOURCES}
    includes = _includes()
    if cuda:
        sources |= _CUDA_FLAGS
        include = cuda_root(cuda) / "include"
        includes += [f"-I{include}", f"-I{include / 'cccl'}"]  # thrust is part of cccl since CUDA 13
    commands = {source: [compiler, *_COMMON, *flags, *includes] for source, flags in sources.items()}
    return commands | ({_CUDA_SOURCE: [cuda, *_NVCC]} if cuda else {})


def cuda_root(cuda: str) -> Path:
    """The toolkit folder that nvcc reports. nvcc itself may be a script elsewhere."""
    with tempfile.TemporaryDirectory() as scratch:
        empty = Path(scratch) / "empty.cu"
        empty.touch()
        commands = subprocess.run([cuda, "--dryrun", str(empty)], capture_output=True, text=True).stderr
    for line in commands.splitlines():
        if "TOP=" in line:
            return Path(line.split("TOP=", 1)[1].strip())
    raise BuildError(
        f"{cuda} does not report the folder of its toolkit; check that `nvcc --dryrun` prints a line with TOP="
    )


def _cuda_runtime(cuda: str) -> list[str]:
    return [f"-L{cuda_root(cuda) / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]


def build_key() -> str:
    """A hash of everything that the library depends on, except whether there is an nvcc."""
    flags = [_COMMON, _FLAGS, _HALF_SOURCES, _CUDA_FLAGS, _NVCC, platform.machine(), sys.platform]
    digest = hashlib.sha256(repr(flags).encode())
    for file in sorted(SOURCES.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(SOURCES)).encode() + file.read_bytes())
    digest.update((_paddle() / "version/__init__.py").read_bytes())
    return digest.hexdigest()[:16]


def _includes() -> list[str]:
    include = _paddle() / "include"
    return [f"-I{include}", f"-I{include / 'third_party'}", f"-I{sysconfig.get_paths()['include']}"]


def _libraries() -> list[str]:
    """Paddle, and Paddle's OpenMP: two OpenMP libraries in one process would compete for the cores."""
    base, libs = _paddle() / "base", _paddle() / "libs"
    return [
        f"-L{base}",
        f"-L{libs}",
        "-Wl,--no-as-needed",
        "-l:libpaddle.so",
        *(f"-l:{name}" for name in _HALF_LIBRARIES if why_no_half_kernels() is None),
        "-Wl,--as-needed",
        "-l:libiomp5.so",
        f"-Wl,-rpath,{base}:{libs}",
    ]


def _paddle() -> Path:
    spec = importlib.util.find_spec("paddle")
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    installed = Path(sysconfig.get_paths()["purelib"]) / "paddle"  # pip hides it during a build
    if (installed / "include").is_dir():
        return installed
    raise BuildError("PaddlePaddle is not installed")


def _compiler() -> str:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BuildError(f"there is no C++ compiler ({compiler}); install g++ or name another in CXX")
    return compiler


def _is_current(folder: Path, key: str) -> bool:
    try:
        stored_key = (folder / "key").read_text()
        return (folder / LIBRARY).exists() and (
            stored_key == key + _WITH_CUDA or (stored_key == key and nvcc() is None)
        )
    except OSError:
        return False


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vilg"


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_error(output: str) -> str:
    lines = output.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")


if __name__ == "__main__":
    try:
        print(built())
        if paddle_cuda_version() is not None and not has_gpu_kernels():
            print(f"vilg: without kernels for GPUs: {why_no_nvcc()}", file=sys.stderr)
    except BuildError as error:
        sys.exit(f"vilg: the attention operator cannot be built: {error}")
