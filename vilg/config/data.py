"""Images, captions and token shards."""

from dataclasses import dataclass, field

from vilg.config.validation import require

LONGEST_TEXT = 256  # text positions, as in DALL-E


@dataclass
class Data:
    """webdataset shards, how an image is cropped, and token shards made from them."""

    shards: list[str] = field(default_factory=list)  # paths and globs
    tokens: list[str] = field(default_factory=list)  # folders and globs; if given, pre-training reads these
    heldout: list[str] = field(default_factory=list)  # never trained on; evaluated every `train.eval_every` steps
    max_heldout_images: int = 5000  # at most so many images of `heldout` are used, evenly spaced; 0: all
    image_size: int = 256
    crop_jitter: float = 0.0  # largest share of the shorter side that a random crop leaves out; 0: center crop
    max_bad_samples: int = 100  # broken samples that a process skips before it stops
    threads: int = 2  # reader threads in each process
    may_change: bool = False  # allow resuming from a checkpoint that was trained on other data or in another order

    def __post_init__(self):
        require(self.image_size > 0, f"data.image_size={self.image_size}: must be positive")
        require(0 <= self.crop_jitter < 1, f"data.crop_jitter={self.crop_jitter}: must be in [0, 1)")
        for name in ("max_heldout_images", "max_bad_samples"):
            require(getattr(self, name) >= 0, f"data.{name}={getattr(self, name)}: must not be negative")
        require(self.threads > 0, f"data.threads={self.threads}: must be positive")


@dataclass
class Text:
    """The text tokenizer: `wordpiece` reads a vocab.txt, any other name is a tokenizer class of PaddleNLP."""

    tokenizer: str = "wordpiece"
    vocab: str = "vocab.txt"  # a file; for PaddleNLP also a folder or the name of a model
    length: int = 64  # T, including [BOT], [EOT] and [BOI]

    def __post_init__(self):
        require(4 <= self.length <= LONGEST_TEXT, f"text.length={self.length}: must be between 4 and {LONGEST_TEXT}")


@dataclass
class ImageTokenizer:
    """The frozen image tokenizer that pre-training encodes images with."""

    path: str = "image_tokenizer"  # a folder that `vilg.image.load` reads


@dataclass
class Tokenize:
    """How `vilg data tokenize` writes token shards into the folder `data.tokens`; see docs/data.md."""

    crops: int = 1  # crops of each image, by data.crop_jitter; training picks one of them each time
    batch_size: int = 32  # crops encoded at once
    images_per_file: int = 4096  # also the most that an interrupted process has to encode again

    def __post_init__(self):
        for name in ("crops", "batch_size", "images_per_file"):
            require(getattr(self, name) > 0, f"tokenize.{name}={getattr(self, name)}: must be positive")
