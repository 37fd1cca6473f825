"""With every kind of image tokenizer, trained or imported, an export behaves like its checkpoint."""

import numpy as np
import paddle
import pytest

from tests.conftest import small_settings, write_shards
from tests.image.reference import OWN
from vilg import config
from vilg.export import Predictor
from vilg.export.exporter import export
from vilg.generation.from_checkpoint import load_checkpoint_pipeline
from vilg.generation.sampling import Sampler
from vilg.image.dvae import DVAE
from vilg.image.importing import import_tokenizer
from vilg.image.vqgan import VQGAN
from vilg.image.vqvae import VQVAE
from vilg.training.entry_points import pretrain

TEXTS = ["红苹果", "大象"]


def ours(kind, settings, **sizes):
    def make(folder):
        paddle.seed(0)
        tokenizer = kind(settings(residual_blocks=1, codebook_size=16, code_dim=8, **sizes))
        tokenizer.save(folder)
        return tokenizer

    return make


def taming(name):
    return lambda folder: import_tokenizer("taming", [OWN / name / "last.ckpt"], OWN / name / "config.json", folder)


def openai(folder):
    files = [OWN / "dvae_openai" / "encoder.pkl", OWN / "dvae_openai" / "decoder.pkl"]
    return import_tokenizer("openai-dvae", files, None, folder)


VQGAN_SIZES = {"base_channels": 32, "channel_multipliers": [1, 2], "attention_factors": [2], "latent_channels": 12}
KINDS = {
    "vqvae": ours(VQVAE, config.VQVAE, base_channels=32),
    "vqgan-nearest": ours(VQGAN, config.VQGAN, quantizer="nearest", **VQGAN_SIZES),
    "vqgan-gumbel": ours(VQGAN, config.VQGAN, quantizer="gumbel", **VQGAN_SIZES),
    "dvae": ours(DVAE, config.DVAE, downsamplings=2, base_channels=8),
    "taming-VQModel": taming("vqgan_vq"),
    "taming-GumbelVQ": taming("vqgan_gumbel"),
    "openai-dvae": openai,
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_an_export_behaves_like_its_checkpoint(make, tmp_path):
    tokenizer = make(tmp_path / "tokenizer")
    image_size = 4 * tokenizer.factor
    write_shards(tmp_path)
    # The learning rate is so large that samples and captions depend on their inputs after a few steps.
    settings = small_settings(
        tmp_path,
        f"image_tokenizer.path={tmp_path}/tokenizer",
        f"data.image_size={image_size}",
        "model.layers=1",
        "train.steps=4",
        "train.warmup=0",
        "train.lr=0.03",
    )
    pretrain(settings)
    export(settings.run.folder, tmp_path / "export")
    trained, predictor = load_checkpoint_pipeline(settings.run.folder), Predictor(tmp_path / "export")

    images = np.random.default_rng(0).random([3, 3, image_size, image_size], dtype=np.float32)
    codes = tokenizer.encode(paddle.to_tensor(images)).numpy()
    assert codes.shape == (3, 4, 4) and len(np.unique(codes)) > 1
    assert np.array_equal(predictor.encode(images), codes)

    expected, found = (one.sample(TEXTS, Sampler(seed=3), 2) for one in (trained, predictor))
    assert np.array_equal(found.codes, expected.codes) and np.allclose(found.scores, expected.scores, atol=1e-4)
    pictures = predictor.generate(TEXTS, n=2, seed=3)
    assert pictures.shape == (2, 2, 3, image_size, image_size) and np.ptp(pictures) > 0
    assert np.allclose(pictures, trained.generate(TEXTS, n=2, seed=3), atol=1e-5)
    own = tokenizer.decode(paddle.to_tensor(expected.codes.reshape([-1, 4, 4]))).numpy()
    assert np.allclose(pictures, own.reshape(pictures.shape), atol=1e-5)
    assert np.allclose(predictor.decode(expected.codes[1]), pictures[1], atol=1e-5)  # fewer than in the previous call

    captions = []
    for asked in ({"greedy": False, "seed": 5}, {"greedy": False, "seed": 6}, {"beams": 2}):
        captions += predictor.caption(images, **asked)
        assert captions[-len(images) :] == trained.caption(images, **asked)
    assert any(captions)
    assert np.allclose(predictor.score(images[:2], TEXTS), trained.score(images[:2], TEXTS), atol=1e-4)
