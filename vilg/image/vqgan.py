"""VQGAN: the autoencoder of Esser et al. (arXiv 2012.09841), with the architecture of taming-transformers.

Layers have the names of taming-transformers, so that published weights can be loaded.
"""

import math
from itertools import pairwise

import paddle
import paddle.nn.functional as F
from paddle import nn

from vilg import config
from vilg.image.gumbel import GumbelCode
from vilg.image.layers import Convolution, NearestUpsample
from vilg.image.quantizer import NearestCode
from vilg.image.tokenizer import ImageTokenizer, in_fp32


def norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, epsilon=1e-6)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding=None) -> Convolution:
    """A same-size convolution with PyTorch's initialization: weight and bias uniform in +-1/sqrt(fan in)."""
    bound = 1 / math.sqrt(inputs * kernel**2)
    start = paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))
    return Convolution(
        inputs, outputs, kernel, stride, kernel // 2 if padding is None else padding, weight_attr=start, bias_attr=start
    )


class ResidualBlock(nn.Layer):
    """x + conv(swish(norm(conv(swish(norm(x)))))). A 1 x 1 convolution changes the number of channels of x if
    necessary.
    """

    def __init__(self, groups: int, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = norm(groups, inputs), convolution(inputs, outputs)
        self.norm2, self.conv2 = norm(groups, outputs), convolution(outputs, outputs)
        self.nin_shortcut = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(nn.Layer):
    """Full self-attention over all positions, with a single head."""

    def __init__(self, groups: int, channels: int):
        super().__init__()
        self.norm = norm(groups, channels)
        self.q, self.k, self.v, self.proj_out = (convolution(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q_bcn, k_bcn, v_bcn = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        weights_bqk = F.softmax(paddle.matmul(q_bcn * x.shape[1] ** -0.5, k_bcn, transpose_x=True), -1)
        return x + self.proj_out(paddle.matmul(v_bcn, weights_bqk, transpose_y=True).reshape(h.shape))


class Downsample(nn.Sequential):
    """A 3 x 3 convolution with stride 2, padded at the bottom and on the right only."""

    def __init__(self, channels: int):
        super().__init__(("conv", convolution(channels, channels, stride=2, padding=[0, 1, 0, 1])))


class Upsample(nn.Sequential):
    """Nearest-neighbour upsampling by 2, followed by a 3 x 3 convolution."""

    def __init__(self, channels: int):
        super().__init__(("nearest", NearestUpsample()), ("conv", convolution(channels, channels)))


class DownStage(nn.Layer):
    """The residual blocks of one resolution, each followed by attention if enabled. The decoder uses it as well."""

    def __init__(self, groups: int, inputs: int, outputs: int, blocks: int, attention: bool):
        super().__init__()
        self.block = nn.LayerList([ResidualBlock(groups, outputs if n else inputs, outputs) for n in range(blocks)])
        self.attn = nn.LayerList(
            [AttentionBlock(groups, outputs) if attention else nn.Identity() for _ in range(blocks)]
        )

    def forward(self, x):
        for block, attention in zip(self.block, self.attn):  # to_static knows no zip(strict=..)
            x = attention(block(x))
        return x


class MidBlock(nn.Sequential):
    """The blocks at the lowest resolution, in encoder and decoder."""

    def __init__(self, groups: int, channels: int):
        super().__init__(
            ("block_1", ResidualBlock(groups, channels, channels)),
            ("attn_1", AttentionBlock(groups, channels)),
            ("block_2", ResidualBlock(groups, channels, channels)),
        )


class Encoder(nn.Layer):
    """Images [B, 3, H, W] in [-1, 1] -> [B, latent_channels, H/f, W/f]."""

    def __init__(self, settings: config.VQGAN):
        super().__init__()
        widths, groups = (
            [settings.base_channels * times for times in settings.channel_multipliers],
            settings.norm_groups,
        )
        self.conv_in = convolution(3, settings.base_channels)
        self.down = nn.LayerList()
        for number, (inputs, outputs) in enumerate(pairwise([settings.base_channels, *widths])):
            level = DownStage(
                groups, inputs, outputs, settings.residual_blocks, 2**number in settings.attention_factors
            )
            level.downsample = Downsample(outputs) if number < len(widths) - 1 else nn.Identity()
            self.down.append(level)
        self.mid = MidBlock(groups, widths[-1])
        self.norm_out, self.conv_out = norm(groups, widths[-1]), convolution(widths[-1], settings.latent_channels)

    def forward(self, images):
        x = self.conv_in(images)
        for level in self.down:
            x = level.downsample(level(x))
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Layer):
    """[B, latent_channels, h, w] -> images [B, 3, f h, f w] in about [-1, 1]. Stages are numbered from the highest
    resolution.
    """

    def __init__(self, settings: config.VQGAN):
        super().__init__()
        widths, groups = (
            [settings.base_channels * times for times in settings.channel_multipliers],
            settings.norm_groups,
        )
        self.conv_in = convolution(settings.latent_channels, widths[-1])
        self.mid = MidBlock(groups, widths[-1])
        self.up = nn.LayerList()
        for number, (inputs, outputs) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            level = DownStage(
                groups, inputs, outputs, settings.residual_blocks + 1, 2**number in settings.attention_factors
            )
            level.upsample = Upsample(outputs) if number else nn.Identity()
            self.up.append(level)
        self.norm_out, self.conv_out = norm(groups, widths[0]), convolution(widths[0], 3)

    def forward(self, latent):
        x = self.mid(self.conv_in(latent))
        for level in reversed(self.up):
            x = level.upsample(level(x))
        return self.conv_out(F.silu(self.norm_out(x)))


class VQGAN(ImageTokenizer):
    """Encoder, quantizer (by likelihood or by distance) and decoder: GumbelVQ and VQModel of taming-transformers."""

    kind = "vqgan"

    def __init__(self, settings: config.VQGAN):
        super().__init__(settings)
        quantizer = {"gumbel": GumbelCode, "nearest": NearestCode}[settings.quantizer]
        self.encoder = Encoder(settings)
        self.quant_conv = convolution(settings.latent_channels, settings.code_dim, 1)
        self.quantizer = quantizer(settings.codebook_size, settings.code_dim)
        self.post_quant_conv = convolution(settings.code_dim, settings.latent_channels, 1)
        self.decoder = Decoder(settings)

    @paddle.no_grad()
    def initialize_orthogonal(self) -> None:
        """Initialize for training: orthogonal convolutions without bias, and residual blocks that output zero.

        taming-transformers trains from PyTorch's random initialization. The product of the sixteen random matrices on
        the path of an image suppresses most directions, and suppressed directions are learned late (Saxe et al., arXiv
        1312.6120): emoji first had outlines and yellow, but no other colour.
        """
        orthogonal, nothing = nn.initializer.Orthogonal(), nn.initializer.Constant(0.0)
        for layer in self.sublayers():
            if isinstance(layer, Convolution):
                orthogonal(layer.weight)
                nothing(layer.bias)
        for block in self.sublayers():
            if isinstance(block, ResidualBlock):
                nothing(block.conv2.weight)

    @property
    def codebook_size(self) -> int:
        return self.settings.codebook_size

    @property
    def factor(self) -> int:
        return 2 ** (len(self.settings.channel_multipliers) - 1)

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> the input of the quantizer, [B, h, w, d]."""
        return self.quant_conv(self.encoder(images * 2.0 - 1.0)).transpose([0, 2, 3, 1])

    def encode_indices(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.quantizer.nearest(self.features(images))

    @in_fp32
    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        return self.quantizer.embed(indices)

    @in_fp32
    def decode_embeddings(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        return (self.decode_raw(z_emb) * 0.5 + 0.5).clip(0.0, 1.0)

    def decode_raw(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        """z_emb [B, h, w, d] -> images in about [-1, 1]. Not clipped, since clipping would stop gradients."""
        return self.decoder(self.post_quant_conv(z_emb.transpose([0, 3, 1, 2])))
