"""Variables that are set before Paddle is imported. Variables of the user take precedence."""

import os
import platform
import subprocess
import sys

import pytest

from vilg import runtime

AVX512 = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    "cpu, expected",
    [
        (("AuthenticAMD", frozenset(AVX512)), "7"),
        (("AuthenticAMD", frozenset({"avx2"})), "5"),
        (("AuthenticAMD", frozenset({"avx512f", "avx2"})), "5"),
        (("AuthenticAMD", frozenset()), None),
        (("GenuineIntel", frozenset(AVX512)), None),
        (("", frozenset()), None),
    ],
)
def test_the_mkl_code_path_of_a_processor(cpu, expected):
    assert runtime.mkl_path_for(cpu) == expected


def test_threads_are_divided_among_the_processes_of_a_host(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", str(cores))
    assert runtime.threads_for_this_process() == 1
    monkeypatch.setenv("PADDLE_LOCAL_SIZE", str(8 * cores))
    assert runtime.threads_for_this_process() == 1
    monkeypatch.delenv("PADDLE_LOCAL_SIZE")
    assert runtime.threads_for_this_process() == cores


def environment_of_new_process(**variables) -> list[str]:
    """The variables that Paddle sees if vilg is imported first."""
    names = ["OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel"]
    program = f"import os, vilg, paddle; print(*[os.environ.get(n) for n in {names}])"
    environment = {k: v for k, v in os.environ.items() if k not in names} | variables
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_importing_vilg_sets_the_variables_before_paddle_is_loaded():
    cores = str(len(os.sched_getaffinity(0)))
    mkl = str(runtime.mkl_path_for(runtime._cpu_vendor_and_flags()))
    assert environment_of_new_process() == [cores, mkl, "None" if runtime.may_use_gpu() else "0"]


@pytest.mark.parametrize(
    "wheel, visible, expected",
    [(True, None, True), (True, "0,3", True), (True, "", False), (True, "-1", False), (False, None, False)],
)
def test_a_gpu_is_expected_if_the_wheel_has_cuda_and_none_hides_the_devices(monkeypatch, wheel, visible, expected):
    monkeypatch.setattr(runtime, "_has_gpu_wheel", lambda: wheel)
    monkeypatch.setattr(os, "environ", {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert runtime.may_use_gpu() == expected


def prepared(monkeypatch, gpu: bool, variables: dict[str, str]) -> tuple[dict[str, str], bool]:
    """The environment after `prepare`, and whether freed memory is kept."""
    environment, kept = dict(variables), []
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(runtime, "_set_here", set())
    monkeypatch.setattr(runtime, "_has_gpu_wheel", lambda: gpu)
    monkeypatch.setattr(runtime, "keep_freed_memory", lambda: kept.append(True))
    runtime.prepare()
    return environment, bool(kept)


def test_host_memory_is_given_back_where_paddle_uses_gpus(monkeypatch):
    assert prepared(monkeypatch, True, {})[1] is False
    assert prepared(monkeypatch, True, {"CUDA_VISIBLE_DEVICES": ""})[1] is True
    assert prepared(monkeypatch, False, {})[1] is True
    assert prepared(monkeypatch, False, {"MALLOC_ARENA_MAX": "1"})[1] is False


def test_gpus_add_gradients_in_a_fixed_order_unless_the_user_decides_otherwise(monkeypatch):
    names = ["FLAGS_embedding_deterministic", "FLAGS_cudnn_deterministic"]
    environment, _ = prepared(monkeypatch, True, {})
    assert [environment[name] for name in names] == ["1", "1"] and "FLAGS_use_stride_kernel" not in environment
    assert [prepared(monkeypatch, True, dict.fromkeys(names, "0"))[0][name] for name in names] == ["0", "0"]
    environment, _ = prepared(monkeypatch, False, {})
    assert not set(names) & set(environment) and environment["FLAGS_use_stride_kernel"] == "0"


def test_variables_of_the_user_are_kept():
    chosen = {"OMP_NUM_THREADS": "1", "MKL_DEBUG_CPU_TYPE": "5", "FLAGS_use_stride_kernel": "1"}
    assert environment_of_new_process(**chosen) == list(chosen.values())


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or platform.libc_ver()[0] != "glibc",
    reason="only done with glibc on x86-64",
)
def test_denormals_are_zero_in_every_thread():
    """Also in the gradients, which Paddle computes in separate threads if there are several."""
    program = """if True:
        import threading, vilg, numpy as np, paddle
        tiny = np.full([2**20], 2e-38, np.float32)
        products = []
        thread = threading.Thread(target=lambda: products.append(tiny * np.float32(0.1)))
        thread.start(), thread.join()
        x = paddle.to_tensor(tiny, stop_gradient=False)
        y = x * 0.1
        (gradient,) = paddle.grad(y, x, paddle.to_tensor(tiny))
        square = paddle.matmul(x.reshape([1024, 1024]), paddle.full([1024, 1024], 1e-3 / 1024))
        print(*(float(abs(np.asarray(v)).max()) for v in (tiny, *products, y, gradient, square)))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:numpy", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    first, *others = map(float, done.stdout.split())
    assert first > 0 and others == [0.0] * 4
    assert "subnormal" not in done.stderr


def test_importing_vilg_does_not_import_paddle():
    program = "import sys, vilg; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
