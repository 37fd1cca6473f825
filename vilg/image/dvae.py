"""The discrete VAE of DALL-E (Ramesh et al., arXiv 2102.12092, section 2.1 and appendix A), with OpenAI's architecture.

Layers have OpenAI's names, so that published weights can be loaded.
"""

import math
from itertools import pairwise

import paddle
import paddle.nn.functional as F
from paddle import nn

from vilg import config
from vilg.image.layers import Convolution, NearestUpsample
from vilg.image.tokenizer import ImageTokenizer, in_fp32

# Appendix A.3: keeps pixels away from 0 and 1, where the logit is infinite.
MARGIN = 0.1


def map_pixels(images: paddle.Tensor) -> paddle.Tensor:
    """Pixels in [0, 1] -> [MARGIN, 1 - MARGIN]."""
    return (1 - 2 * MARGIN) * images + MARGIN


def unmap_pixels(mapped: paddle.Tensor) -> paddle.Tensor:
    """The inverse of `map_pixels`, clipped to [0, 1]."""
    return ((mapped - MARGIN) / (1 - 2 * MARGIN)).clip(0.0, 1.0)


def convolution(inputs: int, outputs: int, kernel: int) -> Convolution:
    """A same-size convolution with OpenAI's initialization: normal with standard deviation 1/sqrt(fan in), zero
    bias.
    """
    start = nn.initializer.Normal(std=1 / math.sqrt(inputs * kernel**2))
    return Convolution(inputs, outputs, kernel, padding=kernel // 2, weight_attr=paddle.ParamAttr(initializer=start))


class Block(nn.Layer):
    """x + gain * four convolutions, each after a ReLU. A 1 x 1 convolution changes the number of channels of x if
    necessary.

    The gain, 1 / (number of blocks)^2, keeps the sum small at the start of training.
    """

    def __init__(self, inputs: int, outputs: int, kernels: tuple[int, int, int, int], gain: float):
        super().__init__()
        hidden = outputs // 4
        widths = [inputs, hidden, hidden, hidden, outputs]
        self.gain = gain
        self.id_path = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.res_path = nn.Sequential(
            *[
                layer
                for n, kernel in enumerate(kernels, 1)
                for layer in ((f"relu_{n}", nn.ReLU()), (f"conv_{n}", convolution(widths[n - 1], widths[n], kernel)))
            ]
        )

    def forward(self, x):
        return self.id_path(x) + self.gain * self.res_path(x)


def groups(settings: config.DVAE, widths: list[int], kernels: tuple[int, int, int, int], resample) -> list:
    """Named groups of blocks, starting from widths[0] channels; group i outputs widths[i + 1] channels. `resample`, a
    named layer, ends all groups except the last.
    """
    gain = 1 / ((len(widths) - 1) * settings.residual_blocks) ** 2
    result = []
    for number, (inputs, width) in enumerate(pairwise(widths), 1):
        blocks = [
            (f"block_{n + 1}", Block(width if n else inputs, width, kernels, gain))
            for n in range(settings.residual_blocks)
        ]
        result.append((f"group_{number}", nn.Sequential(*blocks, *([resample] if number < len(widths) - 1 else []))))
    return result


def output(inputs: int, outputs: int) -> tuple[str, nn.Layer]:
    """The named output layers."""
    return "output", nn.Sequential(("relu", nn.ReLU()), ("conv", convolution(inputs, outputs, 1)))


class Encoder(nn.Sequential):
    """Mapped images [B, 3, H, W] -> logits [B, codes, H/f, W/f]."""

    def __init__(self, settings: config.DVAE):
        widths = [settings.base_channels << group for group in range(settings.downsamplings + 1)]
        super().__init__(
            ("input", convolution(3, settings.base_channels, 7)),
            *groups(settings, [settings.base_channels, *widths], (3, 3, 3, 1), ("pool", nn.MaxPool2D(2))),
            output(widths[-1], settings.codebook_size),
        )


class Decoder(nn.Sequential):
    """z_emb [B, code_dim, h, w] -> statistics [B, 6, f h, f w]."""

    def __init__(self, settings: config.DVAE):
        widths = [settings.base_channels << group for group in reversed(range(settings.downsamplings + 1))]
        super().__init__(
            *groups(settings, [settings.code_dim, *widths], (1, 3, 3, 3), ("upsample", NearestUpsample())),
            output(widths[-1], 6),
        )


class DVAE(ImageTokenizer):
    """Encoder, codebook and decoder. The encoder outputs logits over codes; an image is encoded as the most likely
    codes.

    OpenAI's decoder passes one-hot vectors through a 1 x 1 convolution, with one weight row for each code and a bias.
    `codebook` holds these rows plus the bias; they are z_emb.
    """

    kind = "dvae"

    def __init__(self, settings: config.DVAE):
        super().__init__(settings)
        self.encoder = Encoder(settings)
        start = nn.initializer.Normal(std=settings.codebook_size**-0.5)
        self.codebook = self.create_parameter([settings.codebook_size, settings.code_dim], default_initializer=start)
        self.decoder = Decoder(settings)

    def residual_blocks(self) -> list[Block]:
        """All residual blocks."""
        return [layer for layer in self.sublayers() if isinstance(layer, Block)]

    @property
    def codebook_size(self) -> int:
        return self.settings.codebook_size

    @property
    def factor(self) -> int:
        return 2**self.settings.downsamplings

    def logits(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> unnormalized log-likelihoods of the codes [B, codes, h, w]."""
        return self.encoder(map_pixels(images))

    def encode_indices(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.logits(images).transpose([0, 2, 3, 1]).argmax(-1)  # half the time of argmax(1) on a CPU

    @in_fp32
    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        return F.embedding(indices, self.codebook)

    def blend(self, weights: paddle.Tensor) -> paddle.Tensor:
        """Sum of all codes weighted by weights [.., codes]: [.., d].

        This is z_emb of a relaxed choice or, with logits as weights, of the autoencoder phase.
        """
        return paddle.matmul(weights, self.codebook)

    @paddle.no_grad()
    def set_codebook_by_distance(self, codes: paddle.Tensor, spread: float) -> None:
        """Use `codes` [codes, d] as the codebook, and make the logits -1/spread times squared distances from the
        current blend.

        The most likely code is then the one nearest to the blend. The encoder's last convolution (1 x 1) computes
        logits W h + b, so the blend is M h + m with M = codebook^T W and m = codebook^T b, and -|M h + m - e|^2 equals
        2 e.M h + 2 e.m - |e|^2 up to a term that all codes e share.
        """
        last = self.encoder.output.conv
        old = self.codebook.clone()
        slope = paddle.matmul(old, last.weight.flatten(1), transpose_x=True)  # M [d, channels]
        offset = paddle.matmul(last.bias, old)  # m [d]
        last.weight.set_value((paddle.matmul(codes, slope) * (2 / spread)).unsqueeze([-1, -1]))
        last.bias.set_value((2 * paddle.matmul(codes, offset) - codes.square().sum(-1)) / spread)
        self.codebook.set_value(codes)

    def statistics(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        """z_emb [B, h, w, d] -> the logit-laplace distribution of mapped pixels (appendix A.3), [B, 6, H, W]: three
        channels of means (as logits) and three of log scales.
        """
        return self.decoder(z_emb.transpose([0, 3, 1, 2]))

    @in_fp32
    def decode_embeddings(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        return unmap_pixels(F.sigmoid(self.statistics(z_emb)[:, :3]))
