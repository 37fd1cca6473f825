"""A small run of each kind of image tokenizer."""

import pytest

from vilg import config

SIZES = {
    "vqvae": ["vqvae.base_channels=32", "vqvae.residual_blocks=1", "vqvae.codebook_size=32", "vqvae.code_dim=8"],
    "vqgan": [
        "vqgan.base_channels=32",
        "vqgan.channel_multipliers=[1,1]",
        "vqgan.residual_blocks=1",
        "vqgan.attention_factors=[]",
        "vqgan.latent_channels=16",
        "vqgan.codebook_size=32",
        "vqgan.code_dim=8",
        "discriminator.width=8",
        "discriminator.layers=2",
        "discriminator.start=0.5",
        "gumbel.temperature_until=0.5",
        "gumbel.kl_weight=0.01",
    ],
    "dvae": [
        "dvae.downsamplings=1",
        "dvae.base_channels=16",
        "dvae.residual_blocks=1",
        "dvae.codebook_size=32",
        "dvae.code_dim=8",
        "gumbel.temperature_until=0.5",
        "gumbel.kl_until=0.5",
        "gumbel.kl_weight=0.5",
    ],
}


@pytest.fixture
def small_tokenizer(tmp_path, shards):
    """(kind, overrides) -> settings of a run of a few seconds on images of 16 x 16."""

    def settings(kind: str, *overrides: str) -> config.ImageTokenizerTraining:
        return config.resolve(
            config.ImageTokenizerTraining,
            None,
            [
                f"kind={kind}",
                f"run.dir={tmp_path}/runs",
                f"data.shards=['{shards[0]}']",
                f"data.heldout=['{tmp_path}/part-1.tar']",
                "data.image_size=16",
                *SIZES[kind],
                "dead_codes.every=4",
                "train.steps=20",
                "train.global_batch=8",
                "train.micro_batch=4",
                "train.lr=0.003",
                "train.warmup=2",
                "train.eval_every=10",
                "train.sample_images_every=20",
                "checkpoint.every_steps=10",
                *overrides,
            ],
        )

    return settings
