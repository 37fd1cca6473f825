"""The sizes of the model's inputs: text vocabulary, image codebook and grid."""

import logging
from dataclasses import dataclass
from pathlib import Path

from vilg import config, image
from vilg.config import require
from vilg.model.freezing import freeze
from vilg.model.transformer import Transformer
from vilg.text.tokenizer import load_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputSizes:
    """vocab_size: entries of the text vocabulary. codebook_size: entries of the image codebook. pixels: side of one
    image token.
    """

    vocab_size: int
    codebook_size: int
    pixels: int

    def model(self, settings: config.Pretraining) -> Transformer:
        """The model that the settings describe, for these sizes."""
        size = settings.data.image_size
        require(size % self.pixels == 0, f"data.image_size={size}: one image token has {self.pixels} pixels a side")
        model = Transformer(
            settings.model,
            self.vocab_size,
            self.codebook_size,
            settings.text.length,
            (size // self.pixels,) * 2,
            settings.attention,
        )
        model.train_only(settings.loss.directions)
        freeze(model, settings.train.freeze)
        return model


PAPER = InputSizes(vocab_size=21128, codebook_size=8192, pixels=8)  # BERT-Chinese; VQGAN f8


def read_input_sizes(settings: config.Pretraining) -> InputSizes:
    """Read the sizes from the tokenizers of the settings. If they are missing, the paper's sizes are assumed and
    logged.
    """
    sizes = PAPER
    if settings.text.tokenizer == "wordpiece" and not Path(settings.text.vocab).exists():
        log.info("%s: no such file; a vocabulary of %d is assumed", settings.text.vocab, sizes.vocab_size)
    else:
        sizes = InputSizes(load_tokenizer(settings.text).vocab_size, sizes.codebook_size, sizes.pixels)
    if not Path(settings.image_tokenizer.path).exists():
        log.info(
            "%s: no such folder; %d codes of %d pixels a side are assumed",
            settings.image_tokenizer.path,
            sizes.codebook_size,
            sizes.pixels,
        )
        return sizes
    tokenizer = image.load(settings.image_tokenizer.path)
    return InputSizes(sizes.vocab_size, tokenizer.codebook_size, tokenizer.factor)
