"""Building the operator: once, again after a change, and with a clear error where it cannot be built."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vilg.attention import build

SOURCES = Path(build.__file__).parent


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package, with a fake compiler that creates empty outputs and records its calls."""
    package = tmp_path / "package"
    shutil.copytree(SOURCES / "csrc", package / "csrc")
    compiler = tmp_path / "fake-g++"
    compiler.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/calls\n'
        'while [ $# -gt 1 ]; do shift; [ "$1" = -o ] && touch "$2"; done; exit 0\n'
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "HERE", package)
    monkeypatch.setattr(build, "SOURCES", package / "csrc")
    return tmp_path


def calls(folder):
    file = folder / "calls"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_library_is_built_once_and_rebuilt_when_a_header_changes(copy):
    first = build.built()
    assert first == copy / "package/lib" / build.LIBRARY and first.exists()
    once = calls(copy)
    assert once > 2
    assert build.built() == first and calls(copy) == once
    header = copy / "package/csrc/cpu/vector.h"
    header.write_text(header.read_text() + "\n")
    assert build.built() == first and calls(copy) == 2 * once


def test_another_paddle_version_causes_a_rebuild(copy, monkeypatch):
    build.built()
    once = calls(copy)
    other = paddle_with(copy, "full_version = '9.9'\n", build._HALF_LIBRARIES)
    monkeypatch.setattr(build, "_paddle", lambda: other)
    build.built()
    assert calls(copy) == 2 * once


def test_gpu_kernels_remain_usable_without_nvcc(copy, monkeypatch):
    """A container image is built with nvcc and runs without it."""
    assert not build.has_gpu_kernels()
    once = calls(copy)
    monkeypatch.setattr(build, "nvcc", lambda: os.environ["CXX"])
    monkeypatch.setattr(build, "cuda_root", lambda cuda: copy)
    assert build.has_gpu_kernels() and calls(copy) == 2 * once + 2  # rebuilt, with two more sources for GPUs
    monkeypatch.setattr(build, "nvcc", lambda: None)
    assert build.has_gpu_kernels() and calls(copy) == 2 * once + 2


def test_without_the_libraries_for_them_there_are_no_kernels_for_16_bits(copy, monkeypatch):
    """The rest of the library is built: for example on a processor for which Paddle has no oneDNN, or for GPUs."""
    assert build.why_no_half_kernels() is None
    build.built()
    once = calls(copy)
    other = paddle_with(copy, "full_version = '3.3.1'\n", ["libphi.so", "libphi_core.so"])
    monkeypatch.setattr(build, "_paddle", lambda: other)
    assert build.why_no_half_kernels() == "Paddle has no libdnnl.so.3"
    build.built()
    assert calls(copy) == 2 * once - len(build._HALF_SOURCES)
    line = (copy / "calls").read_text().splitlines()[-1]
    assert "-shared" in line and "libdnnl" not in line and "half" not in line
    (other / "version/__init__.py").write_text("full_version = '3.3.1'\ncuda_version = '12.6'\n")
    assert build.why_no_half_kernels() == "Paddle is built for CUDA"


def paddle_with(folder, version: str, libraries):
    """A stand-in for the folder of a Paddle wheel with this version module and these libraries."""
    (folder / "paddle/version").mkdir(parents=True)
    (folder / "paddle/version/__init__.py").write_text(version)
    (folder / "paddle/libs").mkdir()
    for name in libraries:
        (folder / "paddle/libs" / name).touch()
    return folder / "paddle"


def paddle_for_cuda(folder, version: str):
    """A stand-in for the folder of a Paddle wheel that is built for this version of CUDA."""
    return paddle_with(folder, f"full_version     = '3.3.1'\ncuda_version     = '{version}'\n", [])


def nvcc_that_prints(folder, version: str) -> str:
    """A stand-in for nvcc. It creates empty objects, and answers to --version and --dryrun."""
    program = folder / "fake-nvcc"
    program.write_text(
        f'#!/bin/sh\ncase "$1" in\n--version) echo "{version}"; exit;;\n--dryrun) echo "#$ TOP={folder}" >&2; exit;;\n'
        'esac\nwhile [ $# -gt 1 ]; do shift; [ "$1" = -o ] && touch "$2"; done; exit 0\n'
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    "printed, reason",
    [
        ("Cuda compilation tools, release 12.4, V12.4.131", None),
        (
            "Cuda compilation tools, release 13.0, V13.0.88",
            "is of CUDA 13.0 and Paddle of CUDA 12.6; install CUDA 12.6",
        ),
        ("Cuda compilation tools, release 11.8, V11.8.89", "is of CUDA 11.8 and Paddle of CUDA 12.6"),
        ("no such thing", "does not print a release of CUDA"),
    ],
)
def test_nvcc_must_be_of_the_cuda_major_version_of_paddle(copy, monkeypatch, printed, reason):
    """The operator is then built without CUDA kernels, and the reason can be told."""
    paddle = paddle_for_cuda(copy, "12.6")
    monkeypatch.setattr(build, "_paddle", lambda: paddle)
    monkeypatch.setenv("CUDACXX", nvcc_that_prints(copy, printed))
    assert build.has_gpu_kernels() == (reason is None)
    once = calls(copy)
    assert build.built() and calls(copy) == once, "the library is current"
    assert build.why_no_nvcc() is None if reason is None else reason in build.why_no_nvcc()


def test_a_missing_nvcc_and_a_paddle_without_cuda_are_told(copy, monkeypatch):
    assert build.why_no_nvcc() == "Paddle is not built for CUDA"
    paddle = paddle_for_cuda(copy, "12.6")
    monkeypatch.setattr(build, "_paddle", lambda: paddle)
    monkeypatch.setenv("CUDACXX", "no-such-nvcc")
    assert build.why_no_nvcc() == ("there is no nvcc (no-such-nvcc); install CUDA 12.6 or name its nvcc in CUDACXX")


@pytest.mark.parametrize(
    "capability, expected",
    [
        ((7, 5), False),
        ((8, 0), True),
        ((8, 6), True),
        ((8, 9), True),
        ((9, 0), True),
        ((10, 0), False),
        ((12, 0), False),
    ],
)
def test_a_kernel_runs_on_gpus_of_its_own_major_capability(capability, expected):
    assert build.has_kernel_for(capability) == expected


def test_a_kernel_for_one_capability_alone_does_not_run_on_the_next(monkeypatch):
    monkeypatch.setattr(build, "CUDA_ARCHITECTURES", ("86", "90a"))
    assert not build.has_kernel_for((8, 0)) and build.has_kernel_for((8, 9)) and not build.has_kernel_for((9, 1))


def test_read_only_package_is_built_in_the_user_cache(copy, monkeypatch):
    monkeypatch.setattr(build, "_writable", lambda folder: False)
    assert build.built() == copy / "cache/vilg" / build.build_key() / build.LIBRARY


def test_interrupted_build_is_repeated(copy):
    library = build.built()
    (library.parent / "key").unlink()
    once = calls(copy)
    build.built()
    assert calls(copy) == 2 * once


def test_missing_compiler_is_reported(copy, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="no C.. compiler .no-such-compiler."):
        build.built()


def test_compiler_error_is_reported_in_one_line(copy, monkeypatch):
    monkeypatch.setenv("CXX", shutil.which("g++") or "g++")
    (copy / "package/csrc/cpu/attention.cc").write_text("this is no C++\n")
    monkeypatch.setattr(build, "_FLAGS", {"cpu/attention.cc": []})
    with pytest.raises(build.BuildError, match="the compiler failed: .*attention.cc:1:1: error") as caught:
        build.built()
    assert "\n" not in str(caught.value)
    assert not (copy / "package/lib" / build.LIBRARY).exists()


def test_two_processes_build_one_library(copy):
    """Both call `built` at the same time; one waits for the library of the other."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from vilg.attention import build; from pathlib import Path\n"
        "build.HERE = Path(sys.argv[2]); build.SOURCES = build.HERE / 'csrc'; print(build.built())"
    )
    command = [sys.executable, "-c", program, str(SOURCES.parent.parent), str(copy / "package")]
    running = [subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    alone = calls(copy)
    (copy / "package/lib/key").unlink()
    build.built()
    assert calls(copy) == 2 * alone
