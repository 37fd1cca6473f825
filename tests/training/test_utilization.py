"""Peaks of GPUs by the names that their drivers report."""

import paddle
import pytest

from vilg.training.utilization import known_tflops, peak_flops


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A800-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H800", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA H200", 989),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla V100S-PCIE-32GB", 130),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_gpus_are_recognized_by_their_name(name, tflops):
    assert known_tflops(name) == tflops


def test_the_setting_wins_over_the_table(monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert peak_flops(0.0, is_half=True) == 312e12
    assert peak_flops(100.0, is_half=True) == peak_flops(100.0, is_half=False) == 100e12
    assert peak_flops(0.0, is_half=False) is None


def test_a_gpu_that_is_not_known_is_named(monkeypatch, caplog):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "NVIDIA X1")
    assert peak_flops(0.0, is_half=True) is None
    assert "NVIDIA X1: its peak is not known" in caplog.text


def test_a_cpu_has_no_known_peak():
    assert peak_flops(0.0, is_half=False) is None and peak_flops(2.0, is_half=False) == 2e12
