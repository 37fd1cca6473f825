"""The discriminator of a VQGAN and its losses (Esser et al., arXiv 2012.09841, section 3.1)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from vilg.image.layers import Convolution


def convolution(inputs: int, outputs: int, stride: int, bias: bool) -> Convolution:
    """A 4 x 4 convolution, initialized with standard deviation 0.02."""
    start = paddle.ParamAttr(initializer=nn.initializer.Normal(std=0.02))
    return Convolution(inputs, outputs, 4, stride, 1, weight_attr=start, bias_attr=None if bias else False)


def norm(channels: int) -> nn.BatchNorm2D:
    """Batch normalization, initialized as in pix2pix."""
    start = paddle.ParamAttr(initializer=nn.initializer.Normal(mean=1.0, std=0.02))
    return nn.BatchNorm2D(channels, weight_attr=start)


class PatchDiscriminator(nn.Sequential):
    """Images [B, 3, H, W] in about [-1, 1] -> logits for each patch, [B, 1, h, w].

    The discriminator of pix2pix (Isola et al., arXiv 1611.07004) and of taming-transformers (NLayerDiscriminator).
    `layers` convolutions have stride 2.
    """

    def __init__(self, width: int, layers: int):
        widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
        modules = [convolution(3, width, 2, bias=True), nn.LeakyReLU(0.2)]
        for layer in range(1, layers + 1):
            stride = 2 if layer < layers else 1
            modules += [
                convolution(widths[layer - 1], widths[layer], stride, bias=False),
                norm(widths[layer]),
                nn.LeakyReLU(0.2),
            ]
        super().__init__(*modules, convolution(widths[-1], 1, 1, bias=True))

    @staticmethod
    def min_image_side(layers: int) -> int:
        """The smallest image side for which the output has at least one patch."""
        return 3 * 2**layers


def hinge_loss(real: paddle.Tensor, fake: paddle.Tensor) -> paddle.Tensor:
    """The hinge loss of the discriminator, from its logits for real and for reconstructed patches."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def adaptive_weight(reconstruction: paddle.Tensor, adversarial: paddle.Tensor) -> paddle.Tensor:
    """Equation (7): |gradient of the reconstruction loss| / (|gradient of the adversarial loss| + 1e-4), at most 1e4.

    Both gradients are taken at the weight of the decoder's last layer. The constants are those of taming-transformers'
    code (the paper adds 1e-6 and has no upper limit).
    """
    return (reconstruction.norm() / (adversarial.norm() + 1e-4)).clip(0.0, 1e4)
