"""A small convolutional VQ-VAE: section 3.1.1 of the paper, equation (1)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from vilg import config
from vilg.image.quantizer import NearestCode
from vilg.image.tokenizer import ImageTokenizer, in_fp32


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2D:
    """A convolution that keeps (or halves) the size. No bias: on a CPU it would cost a third of the layer without
    benefit.
    """
    return nn.Conv2D(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias_attr=False)


class ResidualBlock(nn.Layer):
    """x + conv1x1(relu(conv3x3(relu(norm(x)))))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.spread = convolution(width, width, 3)
        self.mix = convolution(width, width, 1)

    def forward(self, x):
        return x + self.mix(F.relu(self.spread(F.relu(self.norm(x)))))


class Encoder(nn.Sequential):
    """Images [B, 3, H, W] -> features [B, code_dim, H/f, W/f]."""

    def __init__(self, settings: config.VQVAE):
        channels = 3
        layers: list[nn.Layer] = []
        for level in reversed(range(settings.downsamplings)):
            outputs = max(32, settings.base_channels >> level)
            layers += [convolution(channels, outputs, 4, stride=2), nn.ReLU()]
            channels = outputs
        layers += [ResidualBlock(channels) for _ in range(settings.residual_blocks)]
        super().__init__(*layers, nn.GroupNorm(8, channels), convolution(channels, settings.code_dim, 1))


class Decoder(nn.Sequential):
    """z_emb [B, code_dim, h, w] -> images [B, 3, f h, f w], before the final mapping to [0, 1]."""

    def __init__(self, settings: config.VQVAE):
        channels = settings.base_channels
        layers: list[nn.Layer] = [convolution(settings.code_dim, channels, 3)]
        layers += [ResidualBlock(channels) for _ in range(settings.residual_blocks)]
        for level in range(1, settings.downsamplings + 1):
            last = level == settings.downsamplings
            outputs = 3 if last else max(32, settings.base_channels >> level)
            layers += [nn.ReLU(), nn.Conv2DTranspose(channels, outputs, 4, 2, 1, bias_attr=None if last else False)]
            channels = outputs
        super().__init__(*layers)


class VQVAE(ImageTokenizer):
    """Encoder, nearest-code quantizer and decoder."""

    kind = "vqvae"

    def __init__(self, settings: config.VQVAE):
        super().__init__(settings)
        self.encoder = Encoder(settings)
        self.quantizer = NearestCode(settings.codebook_size, settings.code_dim)
        self.decoder = Decoder(settings)

    @property
    def codebook_size(self) -> int:
        return self.settings.codebook_size

    @property
    def factor(self) -> int:
        return 2**self.settings.downsamplings

    def features(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> E(x), [B, h, w, d]."""
        return self.encoder(images * 2.0 - 1.0).transpose([0, 2, 3, 1])

    def encode_indices(self, images: paddle.Tensor) -> paddle.Tensor:
        return self.quantizer.nearest(self.features(images))

    @in_fp32
    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        return self.quantizer.embed(indices)

    @in_fp32
    def decode_embeddings(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        return (self._decode_raw(z_emb) * 0.5 + 0.5).clip(0.0, 1.0)

    def _decode_raw(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        """z_emb [B, h, w, d] -> images in about [-1, 1]. Not clipped, since clipping would stop gradients."""
        return self.decoder(z_emb.transpose([0, 3, 1, 2]))

    def losses(self, images: paddle.Tensor, choose: bool = True):
        """The loss of images [B, 3, H, W] in [0, 1]: reconstruction + codebook term + beta x commitment term, as in van
        den Oord et al. (arXiv 1711.00937, equation (3)). Equation (1) of the paper is the case beta = 1. There is no
        codebook term if the codebook is updated by EMA.

        With choose=False (the autoencoder phase) the decoder gets the features themselves. Returns (loss, {name: part
        of the loss}, features, indices, reconstructed images in about [-1, 1]).
        """
        features = self.features(images)
        z_emb, indices, codebook_term, commitment_term = self.quantizer(features)
        reconstructed = self._decode_raw(z_emb if choose else features)
        reconstruction = F.mse_loss(reconstructed, images * 2.0 - 1.0)
        loss = reconstruction if self.quantizer.uses_ema else reconstruction + codebook_term
        loss = loss + self.settings.commitment_weight * commitment_term if choose else loss
        parts = {"reconstruction": reconstruction, "codebook": codebook_term, "commitment": commitment_term}
        return loss, parts, features, indices, reconstructed
