"""Steps that must not be taken: how they are recognized, and that nothing of them is left."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.processes import metrics
from tests.training.test_pretraining import changed, exact, weights
from vilg import checkpoint, config
from vilg.distributed.clipping import GlobalNormClip
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.training.entry_points import _TOKENIZERS, pretrain
from vilg.training.loop import TrainingLoop
from vilg.training.pretraining import Pretraining
from vilg.training.spikes import SpikeError, Spikes

BATCH = 8  # samples of a step of `small`


def detector(tmp_path, losses, **settings):
    spikes = Spikes(config.Train(**({"spike_window": 20, "spike_threshold": 10.0} | settings)), tmp_path, World())
    for loss in losses:
        spikes.add_step(loss, 1.0)
    return spikes


def test_a_loss_is_compared_with_its_recent_median_and_deviation(tmp_path):
    normal = np.random.default_rng(0).normal(5.0, 0.1, 20)
    spikes = detector(tmp_path, normal)
    assert spikes.is_far("loss", 6.5) and not spikes.is_far("loss", 5.6) and not spikes.is_far("loss", 0.1)
    # Accepted outliers do not move the median.
    assert detector(tmp_path, [*normal[:15], 90.0, 90.0, 90.0]).is_far("loss", 6.5) is False  # window not full
    assert detector(tmp_path, [*normal[:17], 90.0, 90.0, 90.0]).is_far("loss", 7.5)
    assert detector(tmp_path, [5.0] * 20).is_far("loss", 5.1) and not detector(tmp_path, [5.0] * 20).is_far(
        "loss", 5.01
    )
    assert not detector(tmp_path, normal, spike_threshold=0.0).is_far("loss", 1e9)  # the default


def test_the_recent_values_and_the_record_are_kept_in_a_checkpoint(tmp_path):
    spikes = detector(tmp_path, np.random.default_rng(0).normal(5.0, 0.1, 30))
    spikes.add_step(5.0, math.inf)  # fp16: the scaler skipped the step
    spikes.record(SpikeError("not finite", loss=math.nan), 31, 240, 248)
    again = detector(tmp_path, [])
    again.load_state(json.loads(json.dumps(spikes.state())))
    assert again.state() == spikes.state() and len(again.state()["loss"]) == 20
    assert again.is_far("loss", 6.5) and not again.is_far("loss", 5.3)


class Poisoned:
    """Makes Pretraining's loss `value` in the steps that contain one of the samples at `positions`."""

    def __init__(self, monkeypatch, positions, value=math.nan):
        self.consumed, original, batches = None, Pretraining.losses, Pretraining.batches
        self.steps = 0

        def opened(objective, consumed):
            self.consumed = consumed
            return batches(objective, consumed)

        def losses(objective, inputs, model):
            first = self.consumed
            self.consumed += len(inputs.names)
            bad = any(first <= position < self.consumed for position in positions)
            self.steps += bad
            for name, loss in original(objective, inputs, model):
                yield name, loss * value if bad else loss

        monkeypatch.setattr(Pretraining, "batches", opened)
        monkeypatch.setattr(Pretraining, "losses", losses)


def passing_over(monkeypatch, settings, begin, end):
    """The reference: a run whose data lacks the samples at positions [begin, end)."""
    original = Pretraining.batches

    def batches(objective, consumed):
        stream, rest = original(objective, consumed), original(objective, max(end, consumed))
        before = [next(stream) for _ in range(max(0, begin - consumed) // settings.train.micro_batch)]
        rest._batches = iter([*before, *[next(rest) for _ in range(40)]])
        return rest

    with monkeypatch.context() as patched:
        patched.setattr(Pretraining, "batches", batches)
        pretrain(settings)


def without_counts(run_folder):
    return [line[:-1] for line in exact(run_folder)]


def spikes_file(settings):
    return [json.loads(line) for line in (settings.run.folder / "spikes.jsonl").read_text().splitlines()]


def test_a_skipped_step_leaves_no_trace(small, monkeypatch):
    """Later steps are those of a run that has never had this data, to the last bit; also after resuming."""
    small = changed(small, model={"dropout": 0.1}, train={"on_spike": "skip", "ema_decay": 0.9})
    passing_over(monkeypatch, changed(small, run={"name": "reference"}), 2 * BATCH, 3 * BATCH)
    Poisoned(monkeypatch, [2 * BATCH + 5])  # in the second micro-batch of the third step
    one, parts = (changed(small, run={"name": name}) for name in ("one", "parts"))
    pretrain(one)
    pretrain(changed(parts, train={"stop_at": 4}))
    pretrain(changed(parts, resume="auto"))
    expected = without_counts(small.run.folder.parent / "reference")
    assert without_counts(one.run.folder) == without_counts(parts.run.folder) == expected
    assert [line["consumed_samples"] for line in metrics(one.run.folder)] == [8, 16, 32, 40, 48, 56]
    assert [line["step"] for line in metrics(one.run.folder)] == list(range(1, 7))
    for settings in (one, parts):
        (line,) = spikes_file(settings)
        assert (line["step"], line["policy"], line["samples"]) == (3, "skip", [16, 24])
        assert line["reason"] == "not finite" and line["loss_t2i"] == "nan"
    final = [weights(small.run.folder.parent / name, 6) for name in ("reference", "one", "parts")]
    assert all(np.array_equal(final[0][name], other[name]) for other in final[1:] for name in final[0])


@pytest.mark.parametrize("norm", [math.nan, 1e9])
def test_a_gradient_norm_is_refused_before_the_update(small, monkeypatch, norm):
    far = {"spike_threshold": 1000.0, "spike_window": 2}
    small = changed(small, train={"on_spike": "skip", "ema_decay": 0.9, **far})
    passing_over(monkeypatch, changed(small, run={"name": "reference"}), 2 * BATCH, 3 * BATCH)
    calls, measure = [], GlobalNormClip.measure

    def measured(clip, params_grads):
        measure(clip, params_grads)
        calls.append(clip.norm)
        if len(calls) == 3:
            clip.norm = norm
        return clip.norm

    monkeypatch.setattr(GlobalNormClip, "measure", measured)
    pretrain(small)
    assert without_counts(small.run.folder) == without_counts(small.run.folder.parent / "reference")
    assert [line["samples"] for line in spikes_file(small)] == [[16, 24]]
    final = [weights(small.run.folder.parent / name, 6) for name in ("reference", small.run.name)]
    assert all(np.array_equal(final[0][name], final[1][name]) for name in final[0])


def test_a_loss_far_above_its_recent_values_follows_the_policy(small, monkeypatch):
    far = changed(small, train={"on_spike": "skip", "spike_threshold": 50.0, "spike_window": 2})
    Poisoned(monkeypatch, [3 * BATCH], value=100.0)
    pretrain(far)
    (line,) = spikes_file(far)
    assert line["reason"] == "far above the last 2 steps" and line["samples"] == [24, 32] and line["loss"] > 100
    with pytest.raises(UserError, match=r"step 4: far above the last 2 steps \(loss .*spike-step-00000004-rank-0"):
        pretrain(changed(far, run={"name": "stopped"}, train={"on_spike": "stop"}))
    pretrain(changed(small, run={"name": "default"}))  # by default only a loss that is not finite counts


def test_rolling_back_equals_resuming_from_the_checkpoint_with_later_data(small, monkeypatch):
    """To the last bit. A restart from the checkpoint passes over the same data, and metrics have no step twice."""
    small = changed(small, train={"on_spike": "rollback", "micro_batch": 8, "ema_decay": 0.9})
    begun = changed(small, run={"name": "begun"}, train={"stop_at": 3})
    pretrain(begun)

    class Later(checkpoint.CheckpointReader):
        def __init__(self, path):
            super().__init__(path)
            self.manifest = replace(self.manifest, consumed_samples=5 * BATCH)

    with monkeypatch.context() as patched:
        patched.setattr("vilg.training.loop.checkpoint.CheckpointReader", Later)
        start = begun.run.folder / "checkpoints" / "step-00000003"
        pretrain(changed(small, run={"name": "reference"}, resume=str(start)))
    poison = Poisoned(monkeypatch, [4 * BATCH])  # the fifth step, two steps after the checkpoint
    pretrain(small)
    assert poison.steps == 1 and [line["step"] for line in metrics(small.run.folder)] == list(range(1, 7))
    assert exact(small.run.folder)[3:] == exact(small.run.folder.parent / "reference")
    assert [line["consumed_samples"] for line in metrics(small.run.folder)] == [8, 16, 24, 48, 56, 64]
    (line,) = spikes_file(small)
    assert (line["step"], line["policy"], line["samples"]) == (5, "rollback", [24, 40])
    manifest = checkpoint.read_manifest(small.run.folder / "checkpoints" / "step-00000003")
    assert manifest.consumed_samples == 40 and manifest.spikes["records"] == [line]
    final = [weights(small.run.folder.parent / name, 6) for name in ("reference", small.run.name)]
    assert all(np.array_equal(final[0][name], final[1][name]) for name in final[0])


def test_too_many_spikes_and_a_rollback_without_a_checkpoint_stop_the_run(small, monkeypatch):
    Poisoned(monkeypatch, range(16, 200))
    limited = changed(small, train={"on_spike": "skip", "max_spikes": 2})
    with pytest.raises(UserError, match="step 3: not finite .*; 2 spikes have been passed over before"):
        pretrain(limited)
    assert [line["samples"] for line in spikes_file(limited)] == [[16, 24], [24, 32]]
    with pytest.raises(UserError, match="step 3: .* but there is no checkpoint yet"):
        pretrain(changed(small, run={"name": "none"}, train={"on_spike": "rollback"}))


@pytest.mark.parametrize(
    "kind, more",
    [
        ("vqvae", ["codebook.update=ema"]),
        ("vqgan", ["discriminator.start=0"]),
        ("dvae", []),
    ],
)
def test_nothing_of_an_image_tokenizer_changes_in_a_step_that_is_not_taken(small_tokenizer, kind, more):
    """Weights, moments, the discriminator and its batch norm, codebooks, averages and counts of codes. The next step is
    that of a run that has never had the data.
    """
    world, settings = World(), small_tokenizer(kind, "train.on_spike=skip", *more)
    loop, reference = (TrainingLoop(settings, _TOKENIZERS[kind](settings, world), world) for _ in range(2))
    batches, others = (one.objective.batches(0) for one in (loop, reference))

    def state(of=loop):
        parts = {part.name: part.read().copy() for part in of.engine.state() + of.adversaries.state()}
        return parts | of.objective.state()

    loop._train_step(batches)
    reference._train_step(others)
    before, losses = state(), loop.objective.losses
    for poisoned in [*loop.adversaries.engines, kind]:
        loop.objective.losses = lambda inputs, model, poisoned=poisoned: (
            (name, loss * (math.nan if name == poisoned else 1.0)) for name, loss in losses(inputs, model)
        )
        with pytest.raises(SpikeError):
            loop._train_step(batches)
        for _ in range(2):  # micro-batches of a step
            next(others)
        after = state()
        assert before.keys() == after.keys()
        assert [name for name in before if not np.array_equal(before[name], after[name])] == []
    loop.objective.losses = losses
    loop._train_step(batches)
    reference._train_step(others)
    after, expected = state(), state(reference)
    assert loop.step == 2 and any(not np.array_equal(before[name], value) for name, value in after.items())
    assert [name for name in expected if not np.array_equal(expected[name], after[name])] == []
