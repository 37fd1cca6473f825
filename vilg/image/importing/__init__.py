"""Imports published weights of image tokenizers, without the frameworks that wrote them."""

from pathlib import Path

from vilg.errors import UserError
from vilg.image.importing.openai_dvae import import_dvae
from vilg.image.importing.taming import import_vqgan
from vilg.image.tokenizer import ImageTokenizer


def import_tokenizer(origin: str, files: list[Path], settings: Path | None, out: Path) -> ImageTokenizer:
    """Read published weights and write them to `out` for `vilg.image.load`.

    origin: `taming` (one checkpoint, with its `settings`) or `openai-dvae` (an encoder and a decoder file, which
    include their settings). Raises UserError, and writes nothing, for unsuitable files.
    """
    if origin == "taming":
        if len(files) != 1 or settings is None:
            raise UserError("--from taming: needs one checkpoint and --settings FILE")
        tokenizer: ImageTokenizer = import_vqgan(files[0], settings)
    else:
        if len(files) != 2 or settings is not None:
            raise UserError("--from openai-dvae: needs an encoder and a decoder, and no --settings")
        tokenizer = import_dvae(*files)
    tokenizer.save(out)
    return tokenizer
