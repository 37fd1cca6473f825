"""Nearest-code tokenizers that start as an autoencoder; test_dvae.py covers the dVAE."""

import numpy as np
import paddle
import pytest

from tests.processes import metrics
from vilg import checkpoint
from vilg.distributed.world import World
from vilg.errors import SettingsError, UserError
from vilg.image.kmeans import kmeans
from vilg.training.entry_points import train_image_tokenizer
from vilg.training.vqgan import VQGANTraining
from vilg.training.vqvae import VQVAETraining

TRAININGS = {"vqvae": VQVAETraining, "vqgan": VQGANTraining}
NEAREST = ["vqgan.quantizer=nearest", "autoencoder.until=0.5"]
kinds = pytest.mark.parametrize("kind", list(TRAININGS))


@kinds
@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_half_of_the_steps_are_not_quantized(small_tokenizer, kind, update):
    settings = small_tokenizer(kind, *NEAREST, f"codebook.update={update}", "discriminator.start=1", "train.steps=80")
    train_image_tokenizer(settings)
    lines = metrics(settings.run.folder)
    assert [line["step"] for line in lines if "codebook_used" in line] == list(range(44, 81, 4))
    assert [line["step"] for line in lines if "heldout_psnr" in line] == list(range(50, 81, 10))
    error = "reconstruction" if kind == "vqvae" else "l1"
    assert lines[39][error] < 0.9 * lines[0][error]
    assert lines[-1][error] < lines[0][error]


@kinds
@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_the_initial_codes_are_kmeans_of_the_first_features(small_tokenizer, kind, update):
    objective = TRAININGS[kind](small_tokenizer(kind, *NEAREST, f"codebook.update={update}"), World())
    model = objective.model
    positions = np.prod(model.grid(16))
    batches = range(-(-32 * 128 // (4 * positions)))  # of four images, until there are 128 features for each code
    seen = [objective.prepare_batch(batch).images for batch, _ in zip(objective.batches(0), batches, strict=False)]
    objective.on_step_begin(10)
    features = model.features(paddle.concat(seen)).flatten(0, 2)
    objective.on_step_begin(11)
    means, _ = kmeans(features[: 32 * 128], 32, seed=objective.settings.run.seed)
    assert np.allclose(model.quantizer.codebook.numpy(), means.numpy(), atol=1e-5)
    if update == "ema":
        assert np.array_equal(objective.codebook.ema.sums.numpy(), model.quantizer.codebook.numpy())
        assert (objective.codebook.ema.counts.numpy() == 1).all()
    before = model.quantizer.codebook.numpy()
    objective.on_step_begin(12)
    assert np.array_equal(model.quantizer.codebook.numpy(), before)


@pytest.mark.parametrize("first, revived", [(12, 16), (13, 16), (14, 20)])
def test_no_code_is_dead_before_a_complete_window(small_tokenizer, first, revived):
    """Windows end after every fourth step. A code that no feature of one step chose is not dead yet."""
    until = (first - 1) / 20
    train_image_tokenizer(
        settings := small_tokenizer(
            "vqvae", f"autoencoder.until={until}", "dead_codes.until=1", "dead_codes.threshold=1"
        )
    )
    lines = metrics(settings.run.folder)
    assert settings.first_quantized_step == first
    assert next(line["step"] for line in lines if "codebook_used" in line) == -(-first // 4) * 4
    assert next(line["step"] for line in lines if "codes_restarted" in line) == revived


@kinds
def test_before_quantization_images_are_decoded_from_the_features(small_tokenizer, kind):
    """The gradient of the encoder is that of the pixel loss alone."""
    objective = TRAININGS[kind](small_tokenizer(kind, *NEAREST), World())
    inputs = objective.prepare_batch(next(objective.batches(0)))
    model = objective.model
    objective.on_step_begin(1)
    sum(loss for _, loss in objective.losses(inputs, model)).backward()
    found = {name: parameter.grad.numpy() for name, parameter in model.encoder.named_parameters()}
    model.clear_gradients()
    images = inputs.images * 2.0 - 1.0
    drawn = (model.decode_raw if kind == "vqgan" else model._decode_raw)(model.features(inputs.images))
    difference = drawn - images
    error = difference.square() if kind == "vqvae" else difference.abs()
    (error.mean() * len(inputs.names)).backward()
    for name, parameter in model.encoder.named_parameters():
        assert np.allclose(found[name], parameter.grad.numpy(), atol=1e-5), name


@kinds
@pytest.mark.parametrize("until", [0.35, 0.4])
def test_resume_is_exact(small_tokenizer, kind, until):
    """Immediately before the end of the autoencoder phase, and inside it."""
    whole, part, rest = (
        small_tokenizer(kind, *NEAREST, f"autoencoder.until={until}", "codebook.update=ema", f"run.name={name}", *more)
        for name, more in (("whole", []), ("parts", ["train.stop_at=7"]), ("parts", ["resume=auto"]))
    )
    for one in (whole, part, rest):
        train_image_tokenizer(one)
    last = [checkpoint.load(s.run.folder / "checkpoints" / "step-00000020")[1] for s in (whole, rest)]
    assert all(np.array_equal(last[0][name], last[1][name]) for name in last[0])
    one, two = (
        [[line.get(name) for name in ("loss", "grad_norm", "codebook_used")] for line in metrics(s.run.folder)]
        for s in (whole, rest)
    )
    assert one == two


def test_a_checkpoint_with_another_first_quantized_step_is_refused(small_tokenizer):
    train_image_tokenizer(small_tokenizer("vqvae", "train.stop_at=10"))
    with pytest.raises(UserError, match="quantizes from step 1 on; .* would be step 11"):
        train_image_tokenizer(small_tokenizer("vqvae", "autoencoder.until=0.5", "resume=auto"))


def test_gumbel_quantizes_from_the_first_step(small_tokenizer):
    with pytest.raises(SettingsError, match="autoencoder.until=0.5: with vqgan.quantizer=gumbel codes are chosen"):
        VQGANTraining(small_tokenizer("vqgan", "vqgan.quantizer=gumbel", "autoencoder.until=0.5"), World())
