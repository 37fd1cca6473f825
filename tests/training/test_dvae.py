"""Training a dVAE with the common loop."""

import numpy as np
import paddle
import pytest

from tests.processes import metrics
from vilg import checkpoint, config, image
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.image.kmeans import kmeans
from vilg.image.logit_laplace import squared_error_and_nll
from vilg.training.dvae import DVAETraining
from vilg.training.entry_points import train_image_tokenizer
from vilg.training.schedules import kl_weight, temperature


def test_the_loss_falls_and_a_tokenizer_is_saved(small_tokenizer):
    settings = small_tokenizer("dvae", "train.steps=100", "train.lr=0.01")
    train_image_tokenizer(settings)
    lines = metrics(settings.run.folder)
    assert lines[-1]["nll"] < lines[0]["nll"] - 0.2
    assert lines[0]["temperature"] == 1 and abs(lines[-1]["temperature"] - 1 / 16) < 1e-6
    assert lines[0]["kl_weight"] == 0 and abs(lines[-1]["kl_weight"] - 0.5) < 1e-6
    tokenizer = image.load(settings.run.folder / "image_tokenizer")
    assert tokenizer.kind == "dvae" and tokenizer.grid(16) == (8, 8)


def test_training_can_start_as_an_autoencoder(small_tokenizer):
    """Half of the steps are not quantized. Quantization then loses little of what was learned."""
    settings = small_tokenizer(
        "dvae", "train.steps=200", "train.lr=0.01", "autoencoder.until=0.5", "train.eval_every=50"
    )
    train_image_tokenizer(settings)
    lines = metrics(settings.run.folder)
    assert lines[99]["nll"] < lines[0]["nll"] - 0.2 and lines[99]["squared_error"] < 0.5 * lines[0]["squared_error"]
    assert all(line.keys().isdisjoint(["kl", "heldout_psnr", "codebook_used"]) for line in lines[:100])
    assert lines[100]["temperature"] == 1 and abs(lines[-1]["temperature"] - 1 / 16) < 1e-6
    assert lines[100]["kl_weight"] == 0 and lines[-1]["kl_weight"] == 0.5
    assert {"heldout_psnr", "heldout_codes_used"} <= lines[199].keys()


def test_the_first_quantized_step_keeps_the_reconstruction(small_tokenizer):
    """The codes are the means of the mixtures of the first images. The most likely code is the one nearest to the
    mixture.
    """
    objective = DVAETraining(small_tokenizer("dvae", "autoencoder.until=0.5"), World())
    model = objective.model
    seen = [objective.prepare_batch(batch).images for batch, _ in zip(objective.batches(0), range(16), strict=False)]
    objective.on_step_begin(10)
    logits = model.logits(paddle.concat(seen)).transpose([0, 2, 3, 1])
    blend = model.blend(logits).flatten(0, 2)
    objective.on_step_begin(11)
    means, _ = kmeans(blend, 32, seed=objective.settings.run.seed)
    assert np.allclose(model.codebook.numpy(), means.numpy(), atol=1e-5)
    chosen = model.embed(model.encode(paddle.concat(seen))).flatten(0, 2)
    distances = (blend.unsqueeze(1) - model.codebook).square().sum(-1)
    assert np.allclose((blend - chosen).square().sum(-1).numpy(), distances.min(-1).numpy(), atol=1e-5)
    before = model.codebook.numpy()
    objective.on_step_begin(12)
    assert np.array_equal(model.codebook.numpy(), before)


def test_the_last_convolution_of_a_block_can_have_a_larger_learning_rate(small_tokenizer):
    """The first step of Adam equals the learning rate, whatever the gradient."""
    moved = []
    for factor in (1, 8):
        settings = small_tokenizer(
            "dvae", f"run.name={factor}", f"residual.lr_scale={factor}", "train.steps=1", "train.weight_decay=0"
        )
        start = DVAETraining(settings, World()).model.state_dict()
        train_image_tokenizer(settings)
        end = image.load(settings.run.folder / "image_tokenizer").state_dict()
        moved.append({name: (end[name] - start[name]).numpy() for name in start})
    one, eight = moved
    for name in one:
        factor = 8 if name.endswith("conv_4.weight") else 1
        assert abs(one[name]).max() > 0 and np.allclose(eight[name], factor * one[name], atol=1e-6), name


@pytest.mark.parametrize("autoencoder", [0, 0.35, 0.4])
def test_resume_is_exact(small_tokenizer, autoencoder):
    """Without an autoencoder phase, immediately before its end, and inside it."""
    whole, part, rest = (
        small_tokenizer("dvae", f"run.name={name}", f"autoencoder.until={autoencoder}", *more)
        for name, more in (("whole", []), ("parts", ["train.stop_at=7"]), ("parts", ["resume=auto"]))
    )
    for one in (whole, part, rest):
        train_image_tokenizer(one)
    names = ("loss", "kl", "grad_norm", "codebook_used")
    one, two = ([[line.get(name) for name in names] for line in metrics(s.run.folder)] for s in (whole, rest))
    assert one == two
    last = [checkpoint.load(s.run.folder / "checkpoints" / "step-00000020")[1] for s in (whole, rest)]
    assert all(np.array_equal(last[0][name], last[1][name]) for name in last[0])


def test_a_checkpoint_with_another_first_quantized_step_is_refused(small_tokenizer):
    train_image_tokenizer(small_tokenizer("dvae", "autoencoder.until=0.4", "train.stop_at=10"))
    for override in ("autoencoder.until=0.6", "train.steps=40"):
        with pytest.raises(UserError, match=r"quantizes from step 9 on; .* would be step (13|17)"):
            train_image_tokenizer(small_tokenizer("dvae", "autoencoder.until=0.4", "resume=auto", override))


def test_the_autoencoder_loss_against_numpy(small_tokenizer):
    """Its value and its gradients: the means learn from the squared error, the scales from the likelihood."""
    mapped, least = 0.1 + 0.8 * np.random.default_rng(0).random([2, 3, 4, 4]), 0.3
    statistics = paddle.randn([2, 6, 4, 4])
    statistics.stop_gradient = False
    error, likelihood = squared_error_and_nll(paddle.to_tensor(mapped, "float32"), statistics, least)
    mean, scale = statistics.numpy()[:, :3], np.exp(statistics.numpy()[:, 3:])
    off = np.log(mapped / (1 - mapped)) - mean
    assert np.isclose(float(error), (off**2).mean(), rtol=1e-5)
    density = np.exp(-abs(off) / (scale + least)) / (2 * (scale + least) * mapped * (1 - mapped))
    assert np.isclose(float(likelihood), -np.log(density).mean(), rtol=1e-4)
    (error + likelihood).backward()
    found = statistics.grad.numpy() * off.size
    assert np.allclose(found[:, :3], -2 * off, atol=1e-4)
    assert np.allclose(found[:, 3:], (1 - abs(off) / (scale + least)) * scale / (scale + least), atol=1e-4)


def test_the_lower_bound_against_numpy(small_tokenizer, monkeypatch):
    """With the most likely code fixed: -ln p(x|z) of every pixel and channel plus beta KL of every code, divided by the
    number of pixels x channels.
    """
    objective = DVAETraining(small_tokenizer("dvae", "gumbel.kl_until=0", "gumbel.kl_weight=6.6"), World())
    monkeypatch.setattr(
        "vilg.training.dvae.gumbel_softmax",
        lambda logits, heat, straight_through: paddle.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]),
    )
    objective.on_step_begin(3)
    inputs, model = objective.prepare_batch(next(objective.batches(0))), objective.model
    ((name, loss),) = objective.losses(inputs, model)

    images = inputs.images.numpy().astype(np.float64)
    x = 0.8 * images + 0.1
    statistics = model.statistics(model.embed(model.encode(inputs.images))).numpy()
    mean, scale = statistics[:, :3], np.exp(statistics[:, 3:])
    density = np.exp(-abs(np.log(x / (1 - x)) - mean) / scale) / (2 * scale * x * (1 - x))
    logits = model.logits(inputs.images).numpy().astype(np.float64)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    bound = -np.log(density).sum((1, 2, 3)) + 6.6 * (share * np.log(share * 32)).sum((1, 2, 3))
    assert name == "dvae" and np.isclose(float(loss), (bound / (3 * 16 * 16)).sum(), rtol=1e-4)


def test_schedules():
    rules = config.Gumbel(
        temperature_start=1.0, temperature_end=0.0625, temperature_until=0.5, kl_weight=6.6, kl_until=0.1
    )
    assert [round(temperature(rules, done), 5) for done in (0, 0.25, 0.5, 1)] == [1, 0.53125, 0.0625, 0.0625]
    assert np.allclose([kl_weight(rules, done) for done in (0, 0.05, 0.1, 1)], [0, 3.3, 6.6, 6.6])
    assert kl_weight(config.Gumbel(kl_until=0), 0) == 6.6
