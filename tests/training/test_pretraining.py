"""A small pre-training run in one process: metrics, checkpoints, exact resume, and how it stops."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import paddle
import pytest

from tests.conftest import pair, write_shard
from tests.processes import metrics
from vilg import checkpoint, config
from vilg.attention.patterns import DIRECTIONS
from vilg.cli import main
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.generation.from_checkpoint import load_checkpoint_pipeline
from vilg.image.vqvae import VQVAE
from vilg.model.transformer import targets
from vilg.training.entry_points import pretrain
from vilg.training.loop import TrainingLoop
from vilg.training.pretraining import Pretraining

EXACT = ("loss", "loss_t2i", "loss_i2t", "lr", "grad_norm", "consumed_samples")


def changed(settings, **sections):
    tree = config.as_tree(settings)
    for section, values in sections.items():
        tree[section] = tree[section] | values if isinstance(values, dict) else values
    return config.from_tree(config.Pretraining, tree, "test")


def exact(run_folder):
    return [[line[name] for name in EXACT] for line in metrics(run_folder)]


def weights(run_folder, step):
    return checkpoint.load(run_folder / "checkpoints" / f"step-{step:08d}")[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_is_stopped_is_saved(small, monkeypatch, number):
    """With a checkpoint every third step, nothing else would have saved the second one. It has a single micro-batch."""
    small = changed(small, train={"micro_batch": 8})
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Pretraining, "on_step_begin", lambda _, step: step == 2 and os.kill(os.getpid(), number))
    pretrain(small)
    assert [line["step"] for line in metrics(small.run.folder)] == [1, 2]
    names = [path.name for path in checkpoint.checkpoints_in(small.run.folder / "checkpoints")]
    assert names == [checkpoint.step_directory(2)]
    signal.signal(signal.SIGTERM, before)


def test_a_run_writes_its_metrics_and_images(small):
    pretrain(changed(small, train={"measure_every": 3, "draw_every": 6}))
    folder = small.run.folder
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert [line["consumed_samples"] for line in lines] == [8 * n for n in range(1, 7)]
    for line in lines:
        assert {
            "step",
            "loss",
            "loss_t2i",
            "loss_i2t",
            "lr",
            "grad_norm",
            "tokens_per_second",
            "seconds",
            "consumed_samples",
        } <= set(line)
        assert np.isclose(line["loss"], line["loss_t2i"] + line["loss_i2t"])
    assert [("heldout_nll_t2i" in line) for line in lines] == [False, False, True] * 2
    assert lines[-1]["loss"] < lines[0]["loss"]
    saved = config.resolve(config.Pretraining, folder / "settings.yaml")
    assert saved.model == small.model
    assert [path.name for path in checkpoint.checkpoints_in(folder / "checkpoints")] == [
        "step-00000003",
        "step-00000006",
    ]
    assert list((folder / "visualdl").iterdir())


@pytest.mark.parametrize("micro_batch, dropout", [(8, 0.0), (4, 0.1)])
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(small, micro_batch, dropout, monkeypatch):
    seen, prepare = [], Pretraining.prepare_batch
    monkeypatch.setattr(
        Pretraining, "prepare_batch", lambda self, batch: seen.append(batch.names) or prepare(self, batch)
    )
    small = changed(small, train={"micro_batch": micro_batch}, model={"dropout": dropout})
    whole = changed(small, run={"name": "whole"})
    pretrain(whole)
    of_whole = [*seen]
    seen.clear()
    parts = changed(small, run={"name": "parts"})
    pretrain(changed(parts, train={"stop_at": 3}))
    assert len(metrics(parts.run.folder)) == 3
    pretrain(changed(parts, resume="auto"))
    assert seen == of_whole and len(set(map(tuple, seen))) > 4  # which samples, in which order
    assert exact(parts.run.folder) == exact(whole.run.folder)
    one, two = weights(whole.run.folder, 6), weights(parts.run.folder, 6)
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "lost", ["model", "moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc", "consumed", "step", "random state"]
)
def test_losing_any_part_of_the_state_changes_the_run(small, lost, monkeypatch):
    """The negative control of the test above."""
    small = changed(small, model={"dropout": 0.1})
    pretrain(changed(small, run={"name": "whole"}))
    parts = changed(small, run={"name": "parts"})
    pretrain(changed(parts, train={"stop_at": 3}))

    class LosingReader(checkpoint.CheckpointReader):
        def __init__(self, path):
            super().__init__(path)
            if lost == "consumed":
                self.manifest = replace(self.manifest, consumed_samples=0)
            if lost == "step":
                self.manifest = replace(self.manifest, step=2)

        def range(self, name, start, stop):
            values = super().range(name, start, stop)
            return np.zeros_like(values) if name.startswith(lost + "/") else values

    monkeypatch.setattr("vilg.training.loop.checkpoint.CheckpointReader", LosingReader)
    if lost == "random state":
        monkeypatch.setattr("vilg.training.loop.step_seed", lambda seed, step, rank: seed)
    pretrain(changed(parts, resume="auto"))
    whole, resumed = (exact(small.run.folder.parent / name) for name in ("whole", "parts"))
    assert [line[0] for line in whole][-3:] != [line[0] for line in resumed][-3:]


def test_data_that_differ_from_the_checkpoint_are_refused(small, tmp_path):
    """Their order would be different. The same data in another folder are accepted."""
    pretrain(changed(small, train={"stop_at": 3}))
    moved = tmp_path / "moved"
    moved.mkdir()
    for shard in tmp_path.glob("part-*.tar"):
        shutil.copy(shard, moved)
    pretrain(changed(small, data={"shards": [f"{moved}/part-*.tar"]}, train={"stop_at": 4}, resume="auto"))
    write_shard(moved / "part-2.tar", pair(40))
    more = changed(small, data={"shards": [f"{moved}/part-*.tar"]}, resume="auto")
    with pytest.raises(UserError, match="shards 2 there and 3 here; sha256 .*data.may_change=true"):
        pretrain(more)
    pretrain(changed(more, data={"may_change": True}))
    assert [line["step"] for line in metrics(small.run.folder)] == list(range(1, 7))


@pytest.mark.parametrize(
    "other, said",
    [
        ({"run": {"seed": 9}}, "seed 1 there and 9 here"),
        ({"model": {"conv_kernel": 5}}, "a checkpoint of another model: model.conv_kernel is 3 there and 5 here"),
        ({"model": {"heads": 4}}, "a checkpoint of another model: model.heads is 2 there and 4 here"),
    ],
)
def test_model_settings_that_do_not_change_shapes_are_compared(small, other, said):
    pretrain(changed(small, train={"stop_at": 3}))
    with pytest.raises(UserError, match=said):
        pretrain(changed(small, **other, resume="auto"))


def test_a_checkpoint_of_another_folder_is_resumed_into_the_run(small):
    """Otherwise a restart after a crash, with resume=auto, would start from scratch."""
    pretrain(changed(small, train={"stop_at": 3}))
    foreign = small.run.folder / "checkpoints" / "step-00000003"
    mine = changed(small, run={"name": "mine"}, train={"stop_at": 4}, resume=str(foreign))
    pretrain(mine)
    found = checkpoint.checkpoints_in(mine.run.folder / "checkpoints")
    assert [checkpoint.step_of(path) for path in found] == [3, 4]
    one, two = checkpoint.load(foreign)[1], checkpoint.load(found[0])[1]
    assert all(np.array_equal(one[name], value) for name, value in two.items())
    copied = foreign.rename(foreign.with_name("best"))
    pretrain(changed(small, run={"name": "from best"}, resume=str(copied)))
    assert checkpoint.step_of(copied) is None


def test_a_failed_save_of_the_last_step_is_always_an_error(small, monkeypatch):
    """checkpoint.on_failure=continue applies to earlier steps."""

    def full(*_):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("vilg.checkpoint.save.slices.write", full)
    with pytest.raises(UserError, match="step 6 could not be saved; newest checkpoint: none; .* no space left"):
        pretrain(changed(small, checkpoint={"on_failure": "continue", "save_backoff": 0}))
    assert len(metrics(small.run.folder)) == 6


def test_saving_every_n_minutes(small, monkeypatch, caplog):
    by_clock = changed(small, checkpoint={"every_steps": 0, "every_minutes": 1e-9, "keep_last": 9})
    pretrain(by_clock)
    found = checkpoint.checkpoints_in(small.run.folder / "checkpoints")
    assert [checkpoint.step_of(path) for path in found] == [1, 2, 3, 4, 5, 6]
    never = changed(small, run={"name": "never"}, checkpoint={"every_steps": 0, "keep_last": 9})
    pretrain(never)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints_in(never.run.folder / "checkpoints")] == [6]


def test_checkpoints_in_another_folder(small, capsys):
    pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'vilg[storage]'")
    away = changed(small, checkpoint={"folder": f"memory://{small.run.folder.parent.parent.name}/checkpoints"})
    pretrain(changed(away, train={"stop_at": 3}))
    pretrain(changed(away, resume="auto"))
    whole = changed(small, run={"name": "whole"})
    pretrain(whole)
    assert exact(small.run.folder) == exact(whole.run.folder) and not (small.run.folder / "checkpoints").exists()
    assert main(["checkpoint", "list", str(small.run.folder)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["step", "3", "6"]
    assert load_checkpoint_pipeline(small.run.folder).model.settings == small.model


def test_resuming_drops_the_metrics_of_repeated_steps(small):
    pretrain(changed(small, train={"stop_at": 5}))  # checkpoints at 3 and 5
    folder = small.run.folder
    for path in checkpoint.checkpoints_in(folder / "checkpoints")[1:]:
        (path / "manifest.json").unlink()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # the state after a kill
    pretrain(changed(small, resume="auto"))
    assert [line["step"] for line in metrics(folder)] == list(range(1, 7))


def test_accumulation_gives_the_losses_of_one_large_batch(small):
    pretrain(changed(small, run={"name": "large"}, train={"micro_batch": 8}))
    pretrain(changed(small, run={"name": "pieces"}, train={"micro_batch": 2}))
    large, pieces = (np.array(exact(small.run.folder.parent / name)) for name in ("large", "pieces"))
    assert np.abs(large - pieces)[:, :3].max() < 1e-5


def test_a_growing_batch_keeps_the_order_and_resumes_from_consumed_samples(small, monkeypatch):
    """Batches of 4, 8 and 16 pairs, in the order of a run without a ramp-up."""
    seen, prepare = [], Pretraining.prepare_batch
    monkeypatch.setattr(
        Pretraining, "prepare_batch", lambda self, batch: seen.extend(batch.names) or prepare(self, batch)
    )
    growing = {"global_batch": 16, "rampup_batch_size": [4, 4, 12], "micro_batch": 2}
    grown = changed(small, run={"name": "grown"}, train=growing)
    pretrain(grown)
    lines = metrics(grown.run.folder)
    assert [line["global_batch"] for line in lines] == [4, 8, 16, 16, 16, 16]
    assert [line["consumed_samples"] for line in lines] == [4, 12, 28, 44, 60, 76]
    order = [*seen]
    seen.clear()
    pretrain(changed(small, run={"name": "fixed"}, train={"global_batch": 16, "steps": 5}))
    assert seen[:76] == order and len(order) == 76
    parts = changed(small, run={"name": "parts"}, train=growing)
    pretrain(changed(parts, train={"stop_at": 1}))
    pretrain(changed(parts, resume="auto"))
    assert exact(parts.run.folder) == exact(grown.run.folder)


def test_frozen_parameters_keep_their_values_and_have_no_moments(small):
    """They may be frozen or trained again in any continuation of the run; their moments then start at zero."""
    frozen = ["embed_text.*", "blocks.1.*", "*.bias"]
    small = changed(small, checkpoint={"keep_last": 9})
    pretrain(changed(small, train={"stop_at": 1, "freeze": frozen}))
    pretrain(changed(small, train={"stop_at": 2, "freeze": frozen}, resume="auto"))
    pretrain(changed(small, train={"stop_at": 4}, resume="auto"))
    pretrain(changed(small, train={"freeze": frozen}, resume="auto"))
    at = {step: checkpoint.load(small.run.folder / "checkpoints" / f"step-{step:08d}")[1] for step in (2, 3, 4, 6)}
    names = [name.removeprefix("model/") for name in at[2] if name.startswith("model/")]
    held = [name for name in names if name.startswith(("embed_text.", "blocks.1.")) or name.endswith(".bias")]
    assert 0 < len(held) < len(names)
    initial = dict(Pretraining(small, World()).model.named_parameters())
    for name in names:
        assert np.array_equal(at[2][f"model/{name}"], initial[name].numpy()) == (name in held), name
        assert np.array_equal(at[6][f"model/{name}"], at[4][f"model/{name}"]) == (name in held), name
        assert (f"moment1/{name}" in at[2]) == (f"moment1/{name}" in at[6]) == (name not in held)
        assert not np.array_equal(at[4][f"model/{name}"], at[2][f"model/{name}"]), name
        # After one step from zero, moment2 is (1 - beta2) x gradient^2, and moment1 (1 - beta1) x gradient.
        if name in held:
            first, second = (at[3][f"{moment}/{name}"] for moment in ("moment1", "moment2"))
            assert np.allclose(second / (1 - small.train.beta2), (first / (1 - small.train.beta1)) ** 2, rtol=1e-3)


@pytest.mark.parametrize("micro_batches", [5, 8])  # the first of the second step, and its last one
def test_a_stop_in_the_middle_of_a_step_loses_nothing(small, micro_batches, monkeypatch):
    """Each step has four micro-batches. After the last one the step is completed."""
    small = changed(small, train={"micro_batch": 2}, model={"dropout": 0.1}, checkpoint={"every_steps": 0})
    pretrain(changed(small, run={"name": "whole"}))
    computed, compute, before = [], Pretraining.losses, signal.getsignal(signal.SIGTERM)

    def losses(self, inputs, model):
        computed.append(inputs)
        if len(computed) == micro_batches:
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(self, inputs, model)

    monkeypatch.setattr(Pretraining, "losses", losses)
    stopped = changed(small, run={"name": "stopped"}, resume="auto")
    pretrain(stopped)
    signal.signal(signal.SIGTERM, before)
    assert len(computed) == micro_batches and len(metrics(stopped.run.folder)) == micro_batches // 4
    pretrain(stopped)
    whole = small.run.folder.parent / "whole"
    assert exact(stopped.run.folder) == exact(whole)
    one, two = weights(whole, 6), weights(stopped.run.folder, 6)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_run_with_checkpoints_is_not_overwritten(small):
    pretrain(small)
    with pytest.raises(UserError, match="continue it with resume=auto"):
        pretrain(small)


def test_a_checkpoint_of_another_model_is_refused(small):
    pretrain(small)
    older = checkpoint.checkpoints_in(small.run.folder / "checkpoints")[0]
    other = changed(small, run={"name": "other"}, model={"hidden": 48}, resume=str(older))
    with pytest.raises(UserError, match="a checkpoint of another model: blocks.0.attention.out.bias is"):
        pretrain(other)


def test_other_tokenizers_than_those_of_the_checkpoint_are_refused(small, tmp_path):
    """They have the same sizes, so shapes do not show the difference."""
    pretrain(changed(small, train={"stop_at": 3}))
    entries = (tmp_path / "vocab.txt").read_text("utf-8").splitlines()
    (tmp_path / "other.txt").write_text("\n".join([*entries[:5], *reversed(entries[5:])]), "utf-8")
    with pytest.raises(UserError, match="trained with another text tokenizer"):
        pretrain(changed(small, text={"vocab": str(tmp_path / "other.txt")}, resume="auto"))
    paddle.seed(99)
    VQVAE(config.VQVAE(downsamplings=2, base_channels=32, residual_blocks=1, codebook_size=16, code_dim=8)).save(
        tmp_path / "vq"
    )
    with pytest.raises(UserError, match="trained with another image tokenizer"):
        pretrain(changed(small, resume="auto"))


def test_resuming_an_older_step_next_to_newer_checkpoints_is_refused(small):
    pretrain(small)
    older = checkpoint.checkpoints_in(small.run.folder / "checkpoints")[0]
    with pytest.raises(UserError, match="this run has checkpoints after step 3"):
        pretrain(changed(small, resume=str(older)))
    pretrain(changed(small, run={"name": "branch"}, resume=str(older)))
    assert exact(small.run.folder.parent / "branch") == exact(small.run.folder)[3:]


def test_missing_heldout_data_is_reported_before_training(small):
    with pytest.raises(UserError, match="data.heldout: required by train.eval_every"):
        pretrain(changed(small, data={"heldout": []}, train={"measure_every": 6}))
    with pytest.raises(UserError, match="none.tar: no such shard"):
        pretrain(changed(small, data={"heldout": ["none.tar"]}, train={"draw_every": 6}))
    assert not small.run.folder.exists()


def test_unusable_heldout_images_are_reported_before_training(small, tmp_path):
    write_shard(tmp_path / "broken.tar", pair(30) | {"00030.png": b"broken"})
    with pytest.raises(UserError, match="data.heldout: contains no usable image"):
        pretrain(changed(small, data={"heldout": [str(tmp_path / "broken.tar")]}, train={"measure_every": 6}))
    assert not small.run.folder.exists()


def test_weights_and_means_of_the_loss_against_numpy(small):
    """L = w_t2i x mean + w_i2t x mean, each mean over the target tokens of all micro-batches of the step."""
    settings = changed(small, loss={"text_to_image": 2.0, "image_to_text": 0.25}, train={"stop_at": 1})
    objective = Pretraining(settings, World())
    batches = objective.batches(0)
    sums, counts = np.zeros(2), np.zeros(2)
    for _ in range(2):  # global batch 8, micro-batch 4
        inputs = objective.prepare_batch(next(batches))
        for number, direction in enumerate(DIRECTIONS):
            logits = objective.model(direction, *inputs.model_inputs(direction)).numpy().astype("float64")
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            ids, counted = targets(direction, inputs.text, inputs.image, objective.model.vocab_size)
            counted = counted.numpy()
            sums[number] -= (np.take_along_axis(log_p, ids.numpy()[..., None], -1)[..., 0] * counted).sum()
            counts[number] += counted.sum()
    pretrain(settings)
    line = metrics(settings.run.folder)[0]
    assert np.allclose([line["loss_t2i"], line["loss_i2t"]], sums / counts, rtol=1e-5)
    assert np.isclose(line["loss"], 2.0 * line["loss_t2i"] + 0.25 * line["loss_i2t"])


def test_a_damaged_checkpoint_named_in_resume_is_an_error(small):
    pretrain(small)
    newest = checkpoint.checkpoints_in(small.run.folder / "checkpoints")[-1]
    file = newest / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match="rank-00000.safetensors: damaged"):
        pretrain(changed(small, resume=str(newest)))


def test_a_loss_that_is_not_finite_stops_the_run_and_dumps_its_inputs(small):
    """A weight in the checkpoint is NaN. The next step must not be taken."""
    pretrain(changed(small, train={"stop_at": 3}))
    world = World()
    settings = changed(small, resume="auto")
    objective = Pretraining(settings, world)
    loop = TrainingLoop(settings, objective, world)
    loop._resume()
    bias = objective.model.image_head.bias
    bias.set_value(np.full(bias.shape, np.nan, "float32"))
    before = objective.model.text_head.weight.numpy()
    with pytest.raises(UserError, match="step 4: not finite") as caught:
        loop._train_step(objective.batches(loop.consumed))
    for part in ("loss_t2i nan", "step-00000003", "nonfinite-step-00000004-rank-00000.npz"):
        assert part in str(caught.value)
    assert np.array_equal(before, objective.model.text_head.weight.numpy())
    with np.load(small.run.folder / "nonfinite-step-00000004-rank-00000.npz") as dump:
        assert dump["0.image"].shape == (4, 16) and len(dump["1.names"]) == 4


def test_too_many_broken_samples_stop_the_run_with_their_names(small, tmp_path):
    files = {k: v for n in range(30, 40) for k, v in pair(n).items()}
    files |= {f"{n:05d}.png": b"broken" for n in range(30, 36)}
    write_shard(tmp_path / "part-9.tar", files)
    with pytest.raises(UserError, match=r"part-9.tar:0003\d: broken image .* more than max_bad_samples=2"):
        pretrain(changed(small, data={"max_bad_samples": 2}))


def test_long_captions_are_truncated_and_counted(small, tmp_path, caplog):
    write_shard(tmp_path / "part-8.tar", {k: v for n in range(20, 32) for k, v in pair(n, "红苹果" * 9).items()})
    pretrain(small)
    assert "more than text.length - 3 = 5 tokens and were truncated" in caplog.text


@pytest.mark.parametrize(
    "missing, override",
    [
        ("vocab", {"text": {"vocab": "none.txt"}}),
        ("shards", {"data": {"shards": ["none-*.tar"]}}),
        ("image tokenizer", {"image_tokenizer": {"path": "none"}}),
        ("checkpoint", {"resume": "none/step-00000001"}),
    ],
)
def test_missing_files_are_named(small, missing, override):
    with pytest.raises(UserError, match="none"):
        pretrain(changed(small, **override))


def test_the_seed_determines_the_run(small):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pretrain(changed(small, run={"name": name, "seed": seed}, train={"stop_at": 2}))
    a, b, c = (exact(small.run.folder.parent / name) for name in "abc")
    assert a == b != c


def test_evaluation_does_not_change_training(small):
    pretrain(changed(small, run={"name": "a"}, model={"dropout": 0.1}))
    pretrain(changed(small, run={"name": "b"}, model={"dropout": 0.1}, train={"measure_every": 1}))
    assert exact(small.run.folder.parent / "a") == exact(small.run.folder.parent / "b")


def test_metrics_are_json_lines_with_known_keys(small):
    pretrain(changed(small, train={"stop_at": 1}))
    line = (small.run.folder / "metrics.jsonl").read_text().splitlines()[0]
    assert all(isinstance(value, (int, float)) for value in json.loads(line).values())
