"""Precision, recompute and the patches for CPUs, as far as one process on a CPU can show them."""

import logging
from functools import partial

import numpy as np
import paddle
import pytest
from paddle import nn

from vilg import config
from vilg.attention import operator
from vilg.attention.patterns import DIRECTIONS
from vilg.distributed import cpu, precision, stages
from vilg.distributed.cpu import half
from vilg.distributed.engine import Engine
from vilg.distributed.recompute import apply_recompute
from vilg.distributed.world import World
from vilg.errors import SettingsError, UserError
from vilg.model.loss import summed_nll
from vilg.model.transformer import Transformer, targets
from vilg.training.optimizer import adamw


def resolved(setting, device, world=None):
    return precision.resolve_precision(config.Distributed(precision=setting), device, world or World())


def test_the_precision_of_a_gpu():
    assert resolved("auto", "gpu:3").name == "bf16" and resolved("fp16", "gpu:0").dtype == "float16"
    assert resolved("fp32", "gpu:0").scaler() is None and not resolved("fp32", "gpu:0").is_half


def test_auto_is_bf16_on_a_processor_with_instructions_for_it(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    for instructions, name in ((None, "fp32"), ("amx_bf16", "bf16")):
        monkeypatch.setattr(half, "bf16_instructions", lambda instructions=instructions: instructions)
        assert resolved("auto", "cpu").name == name
    assert "precision: bf16, because this processor has amx_bf16" in caplog.text


def test_auto_is_the_same_on_all_ranks(monkeypatch):
    monkeypatch.setattr(half, "bf16_instructions", lambda: "amx_bf16")
    world = World()
    monkeypatch.setattr(world, "gather", lambda own: [own, False])  # the other rank has an older processor
    assert resolved("auto", "cpu", world).name == "fp32"


def test_the_instructions_of_a_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert half.bf16_instructions(cpuinfo) is None
    for flags, found in (
        ("avx512f avx512_bf16x", None),
        ("avx2 avx512_bf16 sse", "avx512_bf16"),
        ("amx_bf16", "amx_bf16"),
    ):
        cpuinfo.write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
        assert half.bf16_instructions(cpuinfo) == found


@pytest.mark.parametrize("setting", ["bf16", "fp16"])
def test_16_bits_on_a_cpu_need_kernels(setting, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(operator, "load", lambda: "there is no C++ compiler")
    monkeypatch.setattr(half, "bf16_instructions", lambda: "amx_bf16")
    expected = f"distributed.precision={setting}: the kernels for a CPU are missing: there is no C\\+\\+ compiler"
    with pytest.raises(SettingsError, match=expected):
        resolved(setting, "cpu")
    assert resolved("auto", "cpu").name == "fp32" and "precision: fp32" in caplog.text


def gradients(setting):
    paddle.seed(1)
    model = Transformer(config.Model(layers=4, hidden=64, heads=2, conv_kernel=3, dropout=0.2), 11, 7, 8, (4, 4))
    calls = []
    for number, block in enumerate(model.blocks):
        block.mlp.register_forward_post_hook(lambda *_, number=number: calls.append(number))
    apply_recompute(model.blocks, setting)
    rng = np.random.default_rng(0)
    text, image = paddle.to_tensor(rng.integers(0, 11, [2, 8])), paddle.to_tensor(rng.integers(0, 7, [2, 16]))
    for direction in DIRECTIONS:
        paddle.seed(2)
        summed_nll(model(direction, text, image), *targets(direction, text, image, 11)).backward()
    return [value.grad.numpy() for value in model.parameters()], [calls.count(number) for number in range(4)]


@pytest.mark.parametrize("setting, runs", [("block", [4, 4, 4, 4]), ("2", [4, 2, 4, 2]), ("3", [4, 2, 2, 4])])
def test_recomputed_gradients_are_the_same_to_the_last_bit(setting, runs):
    """With dropout. A recomputed block runs twice for each of the two directions."""
    plain, once = gradients("none")
    again, counted = gradients(setting)
    assert once == [2, 2, 2, 2] and counted == runs
    assert all(np.array_equal(one, two) for one, two in zip(plain, again, strict=True))


def test_device_memory_of_the_unsharded_model_is_released(monkeypatch):
    """After the model was divided, not before. Does nothing in Paddle's CPU wheel."""
    done, build = [], stages.build
    monkeypatch.setattr(stages, "build", lambda *arguments: done.append("divided") or build(*arguments))
    monkeypatch.setattr(paddle.device.cuda, "empty_cache", lambda: done.append("released"))
    Engine(World(), nn.Linear(2, 2), partial(adamw, config.Train()), 0.0)
    assert done == ["divided", "released"]


def test_a_paddle_that_the_patches_were_not_tested_with_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "TESTED", ("1.2.3",))
    with pytest.raises(UserError, match=f"PaddlePaddle {paddle.__version__}: several processes on CPUs need 1.2.3"):
        cpu.install()
