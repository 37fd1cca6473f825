"""What a resumed run prints, what it refuses, and that a restart with the same settings is never refused."""

import logging
import shutil
from pathlib import Path

import pytest

from tests.processes import metrics
from vilg import checkpoint, config
from vilg.config import known_keys
from vilg.config.resume import ALLOWED
from vilg.errors import SettingsError, UserError
from vilg.training.entry_points import pretrain
from vilg.training.resume_checks import check_no_steps_are_lost, check_run_dir, check_steps_left
from vilg.training.settings_changes import Change, changed_settings, group_by_effect, refused_changes

CONFIGS = sorted(Path("fleet_configs").glob("*.yaml"))
BEFORE = ["train.steps=100", "train.lr=0.001", "train.warmup=10", "train.min_lr_ratio=0.05"]


def pretraining(*overrides: str) -> config.Pretraining:
    return config.resolve(config.Pretraining, None, [*BEFORE, *overrides])


def tokenizer(*overrides: str) -> config.ImageTokenizerTraining:
    return config.resolve(config.ImageTokenizerTraining, None, [*BEFORE, *overrides])


def with_(settings: config.Pretraining, *overrides: str) -> config.Pretraining:
    """The settings with `overrides`, as if the run were started again."""
    return config.resolve(config.Pretraining, settings.run.folder / "settings.yaml", overrides)


def refused(old, new, step=50, consumed=1600) -> dict[str, str]:
    return {refusal.name: refusal.reason for refusal in refused_changes(old, new, step, consumed)}


def test_every_changed_setting_is_listed_under_what_it_affects():
    new = ["train.lr=0.002", "train.beta2=0.95", "train.global_batch=64", "loss.image_to_text=0.5", "model.dropout=0.1"]
    new += ["data.image_size=64", "distributed.stage=2", "train.micro_batch=8", "cluster.environment={NCCL_ALGO: Ring}"]
    groups = group_by_effect(changed_settings(pretraining("train.stop_at=3"), pretraining(*new, "resume=auto")))
    assert {effect: [str(change) for change in changes] for effect, changes in groups.items()} == {
        "training": ["train.lr: 0.001 -> 0.002", "train.beta2: 0.99 -> 0.95"],
        "batch": ["train.global_batch: 32 -> 64"],
        "losses and regularization": ["model.dropout: 0.0 -> 0.1", "loss.image_to_text: 1.0 -> 0.5"],
        "model and data": ["data.image_size: 256 -> 64"],
        "hardware, files and reports": [
            "train.micro_batch: 16 -> 8",
            "train.stop_at: 3 -> 0",
            "distributed.stage: 0 -> 2",
            "cluster.environment.NCCL_ALGO: None -> Ring",
        ],
    }


@pytest.mark.parametrize("schema", [config.Pretraining, config.ImageTokenizerTraining])
def test_every_setting_belongs_to_a_group(schema):
    """A new section of settings needs a place in the printed groups, unless it only says how to start."""
    how_to_start = ("resume", "init")
    changes = [Change(key, 0, 1) for key in known_keys(schema) if key.split(".")[0] not in how_to_start]
    assert not group_by_effect(changes).get("other settings")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_equal_settings_are_never_refused(file):
    schema = config.ImageTokenizerTraining if "vq" in file.name or "dvae" in file.name else config.Pretraining
    settings = config.resolve(schema, file)
    steps = {0, 1, settings.train.warmup, settings.train.steps // 2, settings.train.steps - 1, settings.train.steps}
    for step in steps:
        assert refused(settings, settings, step, step * settings.train.global_batch) == {}
    assert changed_settings(settings, config.from_tree(schema, config.as_tree(settings), "x")) == []


@pytest.mark.parametrize(
    "name, change",
    [
        ("learning_rate", "train.lr=0.006"),
        ("learning_rate", "train.lr=0.0001"),
        ("learning_rate", "train.warmup=500"),
        ("learning_rate", "train.schedule=constant"),
        ("global_batch", "train.global_batch=96"),
        ("global_batch", "train.rampup_batch_size=[8,8,100000]"),
        ("optimizer", "train.beta2=0.95"),
        ("optimizer", "train.beta1=0"),
        ("optimizer", "train.adam_epsilon=1e-6"),
        ("optimizer", "train.weight_decay=0"),
        ("optimizer", "train.max_grad_norm=0"),
        ("losses", "loss.image_to_text=0.1"),
        ("losses", "loss.text_to_image=0"),
        ("losses", "loss.normalization=tokens"),
        ("losses", "loss.z_loss=0.0001"),
    ],
)
def test_a_jump_that_is_unlikely_to_be_meant_is_refused(name, change):
    """By more than a factor of two at the next step."""
    step = 80 if "constant" in change else 50
    reasons = refused(pretraining("train.micro_batch=8"), pretraining("train.micro_batch=8", change), step)
    assert list(reasons) == [name] and name in ALLOWED
    assert f"{change.partition('=')[0]}: " in reasons[name]


@pytest.mark.parametrize(
    "change",
    [
        *("train.lr=0.002", "train.lr=0.0005", "train.steps=120", "train.warmup=20", "train.global_batch=64"),
        *("train.beta1=0.95", "train.weight_decay=0.02", "loss.image_to_text=0.5", "input_noise.source_image=0.5"),
        *("distributed.stage=3", "train.micro_batch=2", "train.eval_every=7", "train.rampup_batch_size=[16,16,1000]"),
    ],
)
def test_smaller_changes_are_only_printed(change):
    assert refused(pretraining(), pretraining(change)) == {}


def test_a_longer_schedule_after_the_end_of_the_first_one():
    """The learning rate has fallen to its minimum and would rise again."""
    longer = pretraining("train.steps=200")
    assert (
        "would be 0.000556, not 5e-05 (train.steps: 100 -> 200)" in refused(pretraining(), longer, 100)["learning_rate"]
    )
    assert refused(pretraining(), longer, 20) == {}
    stable = ["train.schedule=wsd", "train.decay_steps=20"]
    assert refused(pretraining(*stable), pretraining(*stable, "train.steps=200"), 80) == {}


def test_losses_of_image_tokenizers():
    assert list(refused(tokenizer(), tokenizer("pixel_loss.kind=l2", "vqvae.commitment_weight=9"))) == ["losses"]


def _left(capture, *overrides, step=100, own=True, stored=()):
    capture.clear()
    with capture.at_level(logging.INFO):
        return check_steps_left(pretraining(*overrides), pretraining(*stored), Path("a/step"), step, own, logging.INFO)


def test_a_finished_run_that_is_started_again_says_so(caplog):
    """No error, because supervisors start a run again until it ends with exit code 0."""
    assert _left(caplog, step=99) and not caplog.messages
    assert not _left(caplog)
    assert caplog.messages == ["train.steps=100: the run is at step 100, so there is nothing left to train"]
    for stop in ("train.stop_at=60", "train.stop_at=40"):
        assert not _left(caplog, stop, step=60) and stop in caplog.text
    assert not _left(caplog, "train.steps=60", step=60)


def test_steps_that_cannot_be_meant_are_refused(caplog):
    with pytest.raises(
        SettingsError, match=r"train.steps=20: a/step is at step 3607.*set train.steps to more than 3607"
    ):
        _left(caplog, "train.steps=20", step=3607, own=False)
    with pytest.raises(SettingsError, match="train.stop_at=60: a/step is at step 60"):
        _left(caplog, "train.stop_at=60", step=60, own=False)
    with pytest.raises(SettingsError, match="train.steps=50: a/step is at step 60"):
        _left(caplog, "train.steps=50", step=60)


def test_the_checkpoints_of_a_run_of_the_same_name_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = ["run.name=x", f"checkpoint.folder={tmp_path}/shared"]
    first, second = pretraining(*shared, "run.dir=a"), pretraining(*shared, "run.dir=b")
    with pytest.raises(UserError, match=r"shared/x: holds checkpoints of the run a/x, not of b/x.*allow=\[run_dir\]"):
        check_run_dir(second, first)
    check_run_dir(pretraining(*shared, "run.dir=b", "resume.allow=[run_dir]"), first)
    check_run_dir(pretraining(*shared, f"run.dir={tmp_path}/a"), first)
    check_run_dir(pretraining("run.name=x", "run.dir=moved"), pretraining("run.name=x", "run.dir=a"))


@pytest.fixture
def recorded(tmp_path):
    """(last step in metrics.jsonl, overrides) -> settings of a run that was started with them, without checkpoints."""

    def record(step: int, *overrides: str) -> config.Pretraining:
        settings = pretraining(f"run.dir={tmp_path}/runs", *overrides)
        settings.run.folder.mkdir(parents=True, exist_ok=True)
        lines = [f'{{"step": {number}}}\n' for number in range(max(1, step - 5), step + 1)]
        (settings.run.folder / "metrics.jsonl").write_text("".join(lines) + '{"ste')
        config.save(settings, settings.run.folder / "settings.yaml")
        return settings

    return record


def lost(settings, step=0, *overrides):
    settings = with_(settings, *overrides)
    check_no_steps_are_lost(settings, checkpoint.location(settings.checkpoint.directory(settings.run)), step)


def checkpoint_at(folder, step):
    (folder / checkpoint.step_directory(step)).mkdir(parents=True)


def test_a_crash_before_the_first_checkpoint_is_not_refused(recorded):
    lost(recorded(999, "checkpoint.every_steps=1000"))
    lost(recorded(999, "checkpoint.every_steps=1000"), 0, "checkpoint.every_steps=10")


def test_a_crash_after_a_checkpoint_is_not_refused(recorded):
    settings = recorded(3607)
    checkpoint_at(settings.run.folder / "checkpoints", 2000)
    lost(settings, 2000)
    lost(settings, 1000)  # step 2000 is damaged


def test_metrics_that_missing_checkpoints_belong_to_are_kept(recorded):
    """The file system of the checkpoints may not be mounted."""
    settings = recorded(3607)
    with pytest.raises(UserError, match=r"has trained up to step 3607, but .*not mounted.*resume.allow=\[metrics\]"):
        lost(settings)
    lost(settings, 0, "resume.allow=[metrics]")
    for tolerated in ("checkpoint.every_steps=0", "checkpoint.on_failure=continue"):
        lost(recorded(3607, tolerated))
    (settings.run.folder / "settings.yaml").write_text("")
    check_no_steps_are_lost(pretraining(f"run.dir={settings.run.dir}"), settings.run.folder / "checkpoints", 3607)


def test_another_checkpoint_folder_is_refused_if_the_steps_are_in_the_earlier_one(recorded, tmp_path):
    settings = recorded(6)
    checkpoint_at(settings.run.folder / "checkpoints", 6)
    with pytest.raises(UserError, match=r"no checkpoint after step 0; they are in .*runs/run/checkpoints"):
        lost(settings, 0, f"checkpoint.folder={tmp_path}/other")
    shutil.copytree(settings.run.folder / "checkpoints", tmp_path / "other" / "run")
    lost(settings, 6, f"checkpoint.folder={tmp_path}/other")


def test_a_run_is_resumed_with_other_settings(small, caplog):
    """Steps 1 to 3; then what is refused, printed and allowed; then step:3 beside later checkpoints."""
    caplog.set_level(logging.INFO)

    def resume(*overrides):
        caplog.clear()
        pretrain(with_(small, *overrides))

    def steps():
        return [line["step"] for line in metrics(small.run.folder)]

    stored = small.run.folder / "checkpoints"
    small.train.stop_at = 3
    pretrain(small)
    resume("resume=auto")
    assert "resumed" in caplog.text and "at step 3, after 24 samples" in caplog.text
    assert "train.stop_at=3: the run is at step 3, so there is nothing left to train" in caplog.text
    assert "changed since" not in caplog.text and steps() == [1, 2, 3]

    with pytest.raises(SettingsError, match=r"learning rate of step 4 would be .* set resume.allow=\[learning_rate\]"):
        resume("resume=auto", "train.stop_at=0", "train.lr=0.03")
    with pytest.raises(UserError, match="resume=step:2: .* has steps 3"):
        resume("resume=step:2")
    with pytest.raises(UserError, match=r"has trained up to step 3, but .*other/run has no checkpoint after step 0"):
        resume("resume=auto", f"checkpoint.folder={small.run.dir}/other")
    with pytest.raises(SettingsError, match="train.steps=2: .* is at step 3"):
        resume("run.name=new", f"resume={stored}/step-00000003", "train.steps=2", "train.stop_at=0")
    assert steps() == [1, 2, 3]

    resume("resume=auto", "train.stop_at=0", "train.lr=0.03", "train.eval_every=6", "resume.allow=[learning_rate]")
    assert "(training): train.lr: 0.003 -> 0.03" in caplog.text
    assert "(hardware, files and reports): train.stop_at: 3 -> 0, train.eval_every: 0 -> 6" in caplog.text
    assert with_(small).resume == config.Resume("auto")  # what was allowed once is not kept
    first = metrics(small.run.folder)[3:]

    with pytest.raises(UserError, match=r"checkpoints after step 3; .*set resume.allow=\[later_checkpoints\]"):
        resume("resume=step:3")
    again = ["resume.allow=[learning_rate,later_checkpoints]", "train.steps=6"]
    resume("resume=step:3", *again, "train.stop_at=5")
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints_in(stored)] == [3, 5]
    assert steps() == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in metrics(small.run.folder)[3:]] == [line["loss"] for line in first[:2]]


def test_two_runs_of_one_name_do_not_continue_each_other(small):
    small.checkpoint.folder, small.train.stop_at = f"{small.run.dir}/shared", 1
    pretrain(small)
    with pytest.raises(UserError, match=r"holds checkpoints of the run .*allow=\[run_dir\]"):
        pretrain(with_(small, f"run.dir={small.run.dir}/other", "resume=auto"))


def test_a_path_to_the_own_checkpoint_may_be_relative(small, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(small.run.dir.removesuffix("/runs"))
    small.train.stop_at = 1
    pretrain(small)
    caplog.clear()
    pretrain(with_(small, "resume=runs/run/checkpoints/step-00000001"))
    assert "nothing left to train" in caplog.text and "saved" not in caplog.text
