"""The moving average of the weights: its formula, its exchange with the weights, and runs, checkpoints and exports."""

from functools import partial

import numpy as np
import paddle
import pytest
from paddle import nn

from tests.processes import metrics
from tests.training.test_pretraining import changed, exact, weights
from vilg import checkpoint, config
from vilg.cli import main
from vilg.distributed.engine import Engine
from vilg.distributed.states import ShardedParameter
from vilg.distributed.weight_average import WeightAverage
from vilg.distributed.world import World
from vilg.errors import SettingsError
from vilg.generation.from_checkpoint import load_checkpoint_pipeline, weight_names
from vilg.plan.estimate import estimate
from vilg.plan.input_sizes import PAPER
from vilg.training.entry_points import pretrain
from vilg.training.optimizer import adamw
from vilg.training.pretraining import Pretraining


def trained(layer, decay):
    """(engine, weights before and after each of three steps)."""
    engine = Engine(World(), layer, partial(adamw, config.Train()), 0.0, ema_decay=decay)
    seen = [layer.weight.numpy()]
    for _ in range(3):
        engine.micro_step(lambda model: [("x", model(paddle.ones([1, 3])).square().sum())], {"x": 1.0})
        engine.step(0.1)
        seen.append(layer.weight.numpy())
    return engine, seen


def test_the_average_follows_its_definition():
    engine, seen = trained(nn.Linear(3, 2), 0.7)
    average = seen[0]
    for weight in seen[1:]:
        average = 0.7 * average + 0.3 * weight
    stored = {part.name: np.array(part.read()) for part in engine.state()}
    assert np.allclose(stored["ema/weight"], average.ravel(), atol=1e-6)
    assert not np.allclose(stored["ema/weight"], stored["model/weight"], atol=1e-3)


def test_the_weights_are_restored_to_the_last_bit():
    layer = nn.Linear(3, 2)
    engine, seen = trained(layer, 0.7)
    before = {part.name: np.array(part.read()) for part in engine.state()}
    with engine.averaged_weights():
        assert np.array_equal(layer.weight.numpy().ravel(), before["ema/weight"])
    assert all(np.array_equal(part.read(), before[part.name]) for part in engine.state())
    assert np.array_equal(layer.weight.numpy(), seen[-1])


def test_with_master_weights_the_average_is_in_fp32():
    """A 16-bit weight has the rounded average while it is in use, and then the rounded master weight."""
    weight = paddle.randn([4]).astype("bfloat16")
    master = weight.astype("float32") + 1e-4  # less than the precision of bf16
    held = [ShardedParameter("w", "w", [4], [master, weight], 0, 4, (0,))]
    average, first, exact_master = WeightAverage(held, 0, 0.5), weight.clone(), master.numpy()
    master.set_value(master + 2.0)
    average.update(held)
    assert np.allclose(average.tensor_shards(held)[0].read(), exact_master + 1.0, atol=1e-6)
    average.swap(held)
    assert bool((weight == paddle.to_tensor(exact_master + 1.0).astype("bfloat16")).all())
    average.swap(held)
    assert np.array_equal(master.numpy(), exact_master + np.float32(2))
    assert bool((weight == master.astype("bfloat16")).all()) and not bool((weight == first).any())


@pytest.fixture
def averaged(small):
    """A finished run of six steps with a moving average."""
    small = changed(small, train={"ema_decay": 0.5})
    pretrain(small)
    return small


def test_an_average_does_not_change_training(small, averaged):
    plain = changed(small, run={"name": "plain"}, train={"ema_decay": 0.0})
    pretrain(plain)
    assert exact(plain.run.folder) == exact(averaged.run.folder)
    one, two = weights(plain.run.folder, 6), weights(averaged.run.folder, 6)
    assert two.keys() - one.keys() == {name.replace("model/", "ema/") for name in one if name.startswith("model/")}
    assert all(np.array_equal(value, two[name]) for name, value in one.items())


def test_a_resumed_average_equals_the_uninterrupted_one(small, averaged):
    parts = changed(averaged, run={"name": "parts"})
    pretrain(changed(parts, train={"stop_at": 3}))
    pretrain(changed(parts, resume="auto"))
    one, two = weights(averaged.run.folder, 6), weights(parts.run.folder, 6)
    assert all(np.array_equal(value, two[name]) for name, value in one.items())


def test_an_average_can_be_switched_on_and_off(small, averaged, caplog):
    """A checkpoint without an average starts one from its weights."""
    caplog.set_level("INFO")
    plain = changed(small, run={"name": "plain"}, train={"stop_at": 3})
    pretrain(plain)
    pretrain(changed(plain, train={"ema_decay": 0.5, "stop_at": 4}, resume="auto"))
    assert "no moving average; it starts from the weights" in caplog.text
    before, after = weights(plain.run.folder, 3), weights(plain.run.folder, 4)
    name = "text_head.weight"
    expected = 0.5 * before[f"model/{name}"] + 0.5 * after[f"model/{name}"]
    assert np.allclose(after[f"ema/{name}"], expected, atol=1e-7)
    pretrain(changed(plain, train={"stop_at": 0}, resume="auto"))
    assert "is left out, because train.ema_decay is 0" in caplog.text
    assert not any(key.startswith("ema/") for key in weights(plain.run.folder, 6))


def test_sample_images_are_generated_with_the_average(small, monkeypatch):
    seen, sample = [], Pretraining.sample_images
    monkeypatch.setattr(
        Pretraining,
        "sample_images",
        lambda self: seen.append(self.model.text_head.weight.numpy()) or sample(self),
    )
    pretrain(changed(small, train={"ema_decay": 0.5, "sample_images_every": 3}))
    for step, used in zip((3, 6), seen, strict=True):
        stored = weights(small.run.folder, step)
        assert np.array_equal(used, stored["ema/text_head.weight"])
        assert not np.array_equal(used, stored["model/text_head.weight"])
    assert len(metrics(small.run.folder)) == 6


def test_generation_and_export_use_the_average_unless_raw_weights_are_asked_for(averaged, tmp_path):
    folder = averaged.run.folder
    stored = checkpoint.load(folder / "checkpoints" / "step-00000006")[1]
    for kind, raw in (("ema", False), ("model", True)):
        model = load_checkpoint_pipeline(folder, raw_weights=raw).model
        assert all(np.array_equal(value.numpy(), stored[f"{kind}/{name}"]) for name, value in model.named_parameters())
    sizes = []
    for number, options in enumerate(([], ["--raw-weights"])):
        assert main(["export", "--checkpoint", str(folder), "--out", str(tmp_path / f"e{number}"), *options]) == 0
        sizes.append((tmp_path / f"e{number}" / "transformer.safetensors").read_bytes())
        out = ["--text", "红苹果", "--out", str(tmp_path / f"{number}.png")]
        assert main(["generate", "--checkpoint", str(folder), *out, *options]) == 0
    assert sizes[0] != sizes[1]


def test_a_frozen_parameter_has_no_average():
    stored = ["model/a", "model/b", "ema/a", "moment1/a"]
    assert weight_names(stored) == {"a": "ema/a", "b": "model/b"}
    assert weight_names(stored, raw_weights=True) == {"a": "model/a", "b": "model/b"}


def test_a_plan_counts_four_bytes_a_weight():
    plans = [
        estimate(
            config.resolve(config.Pretraining, None, ["model.layers=2", "train.global_batch=256", *more]), PAPER, 0.4
        )
        for more in ([], ["train.ema_decay=0.999"])
    ]
    plain, averaged = plans
    assert averaged.states.averages == plain.states.moments // 2 > 0
    assert averaged.states.device - plain.states.device == plain.states.moments // 2
    assert averaged.saving == plain.saving * 4 // 3


def test_image_tokenizers_have_no_average():
    with pytest.raises(SettingsError, match="train.ema_decay=0.9: image tokenizers have no average"):
        config.resolve(config.ImageTokenizerTraining, None, ["train.ema_decay=0.9"])
