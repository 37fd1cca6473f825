"""A VQ-VAE with LPIPS in its loss."""

import logging

import paddle

from tests.processes import metrics
from vilg.distributed.world import World
from vilg.training.entry_points import train_image_tokenizer
from vilg.training.image_tokenizer import Inputs
from vilg.training.vqvae import VQVAETraining


def objective(settings, step):
    created = VQVAETraining(settings, World())
    created.step = step
    return created


def loss_and_gradient(training, images):
    ((_, loss),) = training.losses(Inputs(["x"] * len(images), images), training.model)
    loss.backward()
    gradient = training.model.decoder.parameters()[-1].grad.clone()
    training.model.clear_gradients()
    return float(loss) / len(images), gradient


def test_lpips_is_added_from_its_start_on(small_tokenizer, lpips_file):
    paddle.seed(3)
    images = paddle.rand([4, 3, 16, 16])
    overrides = [f"perceptual.path={lpips_file}", "perceptual.start=0.5", "perceptual.weight=2"]
    training = objective(small_tokenizer("vqvae", *overrides, "perceptual.vqvae=true"), step=5)
    before, gradient_before = loss_and_gradient(training, images)
    assert "lpips" not in training.parts
    training.step = 15
    after, gradient_after = loss_and_gradient(training, images)
    assert abs(after - before - 2 * float(training.parts["lpips"])) < 1e-4 * after
    assert float((gradient_after - gradient_before).abs().max()) > 1e-6
    only_metric = objective(small_tokenizer("vqvae", *overrides), step=15)
    assert abs(loss_and_gradient(only_metric, images)[0] - before) < 1e-5
    assert "lpips" not in only_metric.parts


def test_training_with_lpips(small_tokenizer, lpips_file):
    settings = small_tokenizer(
        "vqvae", f"perceptual.path={lpips_file}", "perceptual.vqvae=true", "perceptual.start=0.5"
    )
    train_image_tokenizer(settings)
    lines = metrics(settings.run.folder)
    assert ["lpips" in line for line in lines] == [False] * 10 + [True] * 10
    assert "heldout_lpips" in lines[-1]


def test_a_missing_file_is_logged(small_tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        train_image_tokenizer(small_tokenizer("vqvae", "perceptual.vqvae=true", "train.stop_at=1"))
    assert "the perceptual loss is off: perceptual.path names no weights" in caplog.text
