"""The sizes of what a model reads: text vocabulary, image codes, grid."""

import logging
from dataclasses import dataclass
from pathlib import Path

from vilg import config, image
from vilg.config import require
from vilg.model.transformer import Transformer
from vilg.text.tokenizer import load_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """vocabulary: entries of the text vocabulary; codes: of the image codebook; pixels: a side of one image token."""

    vocabulary: int
    codes: int
    pixels: int

    def model(self, settings: config.Pretraining) -> Transformer:
        """The model of the settings for these sizes."""
        size = settings.data.image_size
        require(size % self.pixels == 0, f"data.image_size={size}: one image token has {self.pixels} pixels a side")
        return Transformer(
            settings.model,
            self.vocabulary,
            self.codes,
            settings.text.length,
            (size // self.pixels,) * 2,
            settings.attention,
        )


PAPER = Reading(vocabulary=21128, codes=8192, pixels=8)  # BERT-Chinese; VQGAN f8


def of_files(settings: config.Pretraining) -> Reading:
    """What the tokenizers of the settings say; the paper's sizes, and a line that says so, where they are missing."""
    sizes = PAPER
    if settings.text.tokenizer == "wordpiece" and not Path(settings.text.vocab).exists():
        log.info("%s: no such file; a vocabulary of %d is assumed", settings.text.vocab, sizes.vocabulary)
    else:
        sizes = Reading(load_tokenizer(settings.text).size, sizes.codes, sizes.pixels)
    if not Path(settings.image_tokenizer.path).exists():
        log.info(
            "%s: no such folder; %d codes of %d pixels a side are assumed",
            settings.image_tokenizer.path,
            sizes.codes,
            sizes.pixels,
        )
        return sizes
    tokenizer = image.load(settings.image_tokenizer.path)
    return Reading(sizes.vocabulary, tokenizer.vocabulary, tokenizer.factor)
