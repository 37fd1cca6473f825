"""Training a VQ-VAE with the common loop."""

import numpy as np
import pytest

from tests.conftest import pair, write_shard
from tests.processes import metrics
from vilg import checkpoint, config, image
from vilg.errors import UserError
from vilg.training.entry_points import train_image_tokenizer


@pytest.fixture
def settings(tmp_path, shards):
    return config.resolve(
        config.ImageTokenizerTraining,
        None,
        [
            f"run.dir={tmp_path}/runs",
            f"data.shards=['{shards[0]}']",
            f"data.heldout=['{tmp_path}/part-1.tar']",
            "data.image_size=16",
            "vqvae.base_channels=32",
            "vqvae.residual_blocks=1",
            "vqvae.codebook_size=32",
            "vqvae.code_dim=8",
            "dead_codes.every=4",
            "train.steps=60",
            "train.global_batch=8",
            "train.micro_batch=4",
            "train.lr=0.003",
            "train.warmup=2",
            "train.eval_every=30",
            "train.sample_images_every=60",
            "checkpoint.every_steps=10",
        ],
    )


def with_(settings, *overrides):
    tree = config.as_tree(settings)
    for override in overrides:
        key, value = override
        section, _, name = key.partition(".")
        if name:
            tree[section] = tree[section] | {name: value}
        else:
            tree[section] = value
    return config.from_tree(config.ImageTokenizerTraining, tree, "test")


def test_the_loss_falls_dead_codes_restart_and_a_tokenizer_is_saved(settings):
    train_image_tokenizer(settings)
    lines = metrics(settings.run.folder)
    assert lines[-1]["reconstruction"] < 0.8 * lines[0]["reconstruction"]
    assert lines[-1]["heldout_psnr"] > lines[29]["heldout_psnr"] - 0.5
    windows = [line for line in lines if "codebook_used" in line]
    assert [line["step"] for line in windows] == list(range(4, 61, 4))
    assert sum(line.get("codes_restarted", 0) for line in windows) > 0
    assert all("codes_restarted" not in line for line in windows if line["step"] > 42)  # the codebook converges
    tokenizer = image.load(settings.run.folder / "image_tokenizer")
    assert tokenizer.codebook_size == 32 and tokenizer.grid(16) == (4, 4)


def test_micro_batches_of_a_step_equal_one_batch(settings):
    """Dead codes are restarted at features of all micro-batches."""
    runs = []
    for name, size in (("whole", 8), ("parts", 2)):
        one = with_(settings, ("run.name", name), ("train.micro_batch", size), ("train.steps", 8))
        train_image_tokenizer(one)
        runs.append(metrics(one.run.folder))
    assert sum(line.get("codes_restarted", 0) for line in runs[0]) > 0
    assert [line.get("codes_restarted") for line in runs[0]] == [line.get("codes_restarted") for line in runs[1]]
    assert np.allclose([line["loss"] for line in runs[0]], [line["loss"] for line in runs[1]], atol=1e-4)


def test_unusable_heldout_images_are_a_one_line_error(settings, tmp_path):
    write_shard(tmp_path / "broken.tar", pair(30) | {"00030.png": b"broken"})
    with pytest.raises(UserError, match="data.heldout: contains no usable image"):
        train_image_tokenizer(with_(settings, ("data.heldout", [str(tmp_path / "broken.tar")])))


def test_resume_is_exact_in_the_middle_of_a_window(settings):
    """The checkpoint at step 10 is between the windows that end at 8 and 12."""
    whole = with_(settings, ("run.name", "whole"))
    parts = with_(settings, ("run.name", "parts"))
    train_image_tokenizer(whole)
    train_image_tokenizer(with_(parts, ("train.stop_at", 10)))
    train_image_tokenizer(with_(parts, ("resume", "auto")))
    names = ("loss", "grad_norm", "codebook_used", "codebook_perplexity", "codes_restarted")
    one, two = ([[line.get(name) for name in names] for line in metrics(s.run.folder)] for s in (whole, parts))
    assert one == two
    last = [checkpoint.load(s.run.folder / "checkpoints" / "step-00000060")[1] for s in (whole, parts)]
    assert all(np.array_equal(last[0][name], last[1][name]) for name in last[0])
