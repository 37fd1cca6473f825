"""Sizes of the three image tokenizers. One code represents `factor` x `factor` pixels, a power of two."""

from dataclasses import dataclass, field

from vilg.config.validation import require


@dataclass
class VQVAE:
    """Sizes of a VQ-VAE (section 3.1.1 of the paper). factor = 2^downsamplings."""

    downsamplings: int = 2
    base_channels: int = 128
    residual_blocks: int = 2
    codebook_size: int = 1024
    code_dim: int = 64
    commitment_weight: float = 0.25  # beta of van den Oord et al. (arXiv 1711.00937, equation (3)); 1 in the paper

    def __post_init__(self):
        require(self.downsamplings > 0, f"vqvae.downsamplings={self.downsamplings}: must be positive")
        require(
            self.base_channels > 0 and self.base_channels % 8 == 0,
            f"vqvae.base_channels={self.base_channels}: must be a multiple of 8",
        )
        require(self.residual_blocks >= 0, f"vqvae.residual_blocks={self.residual_blocks}: must not be negative")
        require(self.code_dim > 0, f"vqvae.code_dim={self.code_dim}: must be positive")
        require(self.codebook_size > 1, f"vqvae.codebook_size={self.codebook_size}: must be at least 2")


@dataclass
class VQGAN:
    """Sizes of a VQGAN (Esser et al., arXiv 2012.09841). The defaults are those of taming-transformers' GumbelVQ f8.

    There is one resolution level for each of `channel_multipliers`, with `base_channels` times as many channels. Each
    level has half the resolution of the previous one; factor = 2^(levels - 1).
    """

    quantizer: str = "gumbel"  # gumbel: the most likely code | nearest: the nearest code
    base_channels: int = 128
    channel_multipliers: list[int] = field(default_factory=lambda: [1, 1, 2, 4])
    residual_blocks: int = 2  # in each level; the decoder has one more
    attention_factors: list[int] = field(
        default_factory=lambda: [8]
    )  # levels with attention, given by their downsampling factor
    latent_channels: int = 256  # channels of the encoder's output
    codebook_size: int = 8192
    code_dim: int = 256
    commitment_weight: float = 0.25  # with nearest codes; see VQVAE
    # With one channel per group, normalization would remove the mean of each channel, and with it flat colours.
    norm_groups: int = 32

    def __post_init__(self):
        require(self.quantizer in ("gumbel", "nearest"), f"vqgan.quantizer={self.quantizer}: none of gumbel, nearest")
        require(
            len(self.channel_multipliers) > 1 and min(self.channel_multipliers) > 0,
            f"vqgan.channel_multipliers={self.channel_multipliers}: at least two, all positive",
        )
        for name, least in (
            ("base_channels", 1),
            ("norm_groups", 1),
            ("residual_blocks", 1),
            ("latent_channels", 1),
            ("codebook_size", 2),
            ("code_dim", 1),
        ):
            require(getattr(self, name) >= least, f"vqgan.{name}={getattr(self, name)}: must be at least {least}")
        require(
            self.base_channels % self.norm_groups == 0,
            f"vqgan.base_channels={self.base_channels}: must be a multiple of vqgan.norm_groups={self.norm_groups}",
        )
        factors = [2**level for level in range(len(self.channel_multipliers))]
        require(
            set(self.attention_factors) <= set(factors),
            f"vqgan.attention_factors={self.attention_factors}: the levels are {', '.join(map(str, factors))}",
        )


@dataclass
class DVAE:
    """Sizes of a discrete VAE (Ramesh et al., arXiv 2102.12092, appendix A). The defaults are those of OpenAI's dVAE.

    Encoder and decoder have downsamplings + 1 groups of blocks; group i of the encoder has 2^i `base_channels`
    channels. factor = 2^downsamplings.
    """

    downsamplings: int = 3
    base_channels: int = 256
    residual_blocks: int = 2  # in each group
    codebook_size: int = 8192
    code_dim: int = 128  # size of a codebook vector

    def __post_init__(self):
        require(
            self.base_channels > 0 and self.base_channels % 4 == 0,
            f"dvae.base_channels={self.base_channels}: must be a multiple of 4",
        )
        for name, least in (("downsamplings", 1), ("residual_blocks", 1), ("codebook_size", 2), ("code_dim", 1)):
            require(getattr(self, name) >= least, f"dvae.{name}={getattr(self, name)}: must be at least {least}")
