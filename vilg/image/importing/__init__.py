"""Published weights of image tokenizers -> ours, read without the frameworks that wrote them."""

from pathlib import Path

from vilg.errors import UserError
from vilg.image.importing.openai_dvae import import_dvae
from vilg.image.importing.taming import import_vqgan
from vilg.image.tokenizer import ImageTokenizer


def import_tokenizer(origin: str, files: list[Path], settings: Path | None, out: Path) -> ImageTokenizer:
    """Read published weights and write them to `out`, from where `vilg.image.load` has them.

    `taming`: one checkpoint, with its `settings`; `openai-dvae`: an encoder and a decoder, which know their own. Raises
    UserError, one line; nothing is written then.
    """
    if origin == "taming":
        if len(files) != 1 or settings is None:
            raise UserError("--from taming: wants one checkpoint and --settings FILE")
        tokenizer = import_vqgan(files[0], settings)
    else:
        if len(files) != 2 or settings is not None:
            raise UserError("--from openai-dvae: wants an encoder and a decoder, which know their settings")
        tokenizer = import_dvae(*files)
    tokenizer.save(out)
    return tokenizer
