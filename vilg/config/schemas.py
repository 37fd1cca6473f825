"""All settings of a run, for the two kinds of runs: pre-training and the training of an image tokenizer."""

from dataclasses import dataclass, field

from vilg.config.data import Data, ImageTokenizer, Text, Tokenize
from vilg.config.distributed import Cluster, Distributed
from vilg.config.image_tokenizers import DVAE, VQGAN, VQVAE
from vilg.config.init import Init
from vilg.config.model import Attention, Model
from vilg.config.resume import Resume
from vilg.config.run import Checkpoint, Run
from vilg.config.tokenizer_training import (
    Autoencoder,
    Codebook,
    DeadCodes,
    Discriminator,
    Gumbel,
    LogitLaplace,
    Perceptual,
    PixelLoss,
    Residual,
)
from vilg.config.training import InputNoise, LossWeights, Train
from vilg.config.validation import require


@dataclass
class Pretraining:
    """The settings of `vilg pretrain`, `vilg data tokenize`, `vilg plan` and `vilg launch`."""

    run: Run = field(default_factory=Run)
    data: Data = field(default_factory=Data)
    text: Text = field(default_factory=Text)
    image_tokenizer: ImageTokenizer = field(default_factory=ImageTokenizer)
    tokenize: Tokenize = field(default_factory=Tokenize)
    model: Model = field(default_factory=Model)
    attention: Attention = field(default_factory=Attention)
    input_noise: InputNoise = field(default_factory=InputNoise)
    loss: LossWeights = field(default_factory=LossWeights)
    train: Train = field(default_factory=Train)
    distributed: Distributed = field(default_factory=Distributed)
    cluster: Cluster = field(default_factory=Cluster)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    init: Init = field(default_factory=Init)
    resume: Resume = field(default_factory=Resume)

    def __post_init__(self):
        require(
            not self.train.freeze or self.distributed.stage < 3,
            f"train.freeze={self.train.freeze}: not with distributed.stage=3, where Paddle loses the slices of frozen "
            "parameters; use stage 2",
        )


@dataclass
class ImageTokenizerTraining:
    """The settings of `vilg train-image-tokenizer`."""

    kind: str = "vqvae"  # vqvae | vqgan | dvae; the section with this name has the sizes
    run: Run = field(default_factory=Run)
    data: Data = field(default_factory=Data)
    vqvae: VQVAE = field(default_factory=VQVAE)
    vqgan: VQGAN = field(default_factory=VQGAN)
    dvae: DVAE = field(default_factory=DVAE)
    codebook: Codebook = field(default_factory=Codebook)
    dead_codes: DeadCodes = field(default_factory=DeadCodes)
    residual: Residual = field(default_factory=Residual)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    gumbel: Gumbel = field(default_factory=Gumbel)
    logit_laplace: LogitLaplace = field(default_factory=LogitLaplace)
    pixel_loss: PixelLoss = field(default_factory=PixelLoss)
    perceptual: Perceptual = field(default_factory=Perceptual)
    discriminator: Discriminator = field(default_factory=Discriminator)
    train: Train = field(default_factory=Train)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    resume: Resume = field(default_factory=Resume)

    def __post_init__(self):
        require(not self.data.tokens, "data.tokens: an image tokenizer learns from the images of data.shards")
        # A code that is restarted would make its average meaningless; codebook.update=ema averages codes.
        require(not self.train.ema_decay, f"train.ema_decay={self.train.ema_decay}: image tokenizers have no average")
        require(self.kind in ("vqvae", "vqgan", "dvae"), f"kind={self.kind}: none of vqvae, vqgan, dvae")

    @property
    def first_quantized_step(self) -> int:
        """The first step with quantization; before it the model is trained as an autoencoder. Steps count from 1."""
        return 1 + int(self.autoencoder.until * self.train.steps)


# The settings of a run that trains.
TrainingSettings = Pretraining | ImageTokenizerTraining
