"""`vilg generate` and `vilg caption`: a model's pictures and words on disk and on the terminal."""

import logging
from pathlib import Path

import numpy as np
import paddle
from PIL import Image

from vilg.data import crop, decode
from vilg.data.faults import BrokenSample
from vilg.data.pixels import to_unit
from vilg.data.shards import Record
from vilg.errors import UserError
from vilg.generation.captioning import caption
from vilg.generation.contact_sheet import contact_sheet
from vilg.generation.drawing import Guidance, draw
from vilg.generation.sampling import Sampler
from vilg.generation.trained import Trained
from vilg.text.sequence import CaptionEncoder, longest_caption

log = logging.getLogger(__name__)


def generate(trained: Trained, text: str, count: int, sampler: Sampler, guidance: float, out: Path) -> None:
    """Draw `count` pictures of `text` side by side into the file `out`."""
    if not text.strip():
        raise UserError("--text: empty")
    if count < 1:
        raise UserError(f"-n {count}: must be at least 1")
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--out {out}: not the name of a picture, such as x.png")
    encode = CaptionEncoder(trained.text_tokenizer, trained.settings.text.length)
    ids = encode(text)[None]
    if encode.cut:
        log.warning("--text is longer than the model's %d tokens and was cut", longest_caption(encode.length))
    codes = draw(trained.model, ids, sampler, count, Guidance(guidance, encode("")), show_progress=True)
    pictures = trained.image_tokenizer.decode(paddle.to_tensor(codes)).numpy()
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(pictures)).save(out)


def describe(trained: Trained, files: list[Path], sampler: Sampler) -> list[str]:
    """A caption for each picture file, which is cut and resized as in training."""
    size = trained.settings.data.image_size
    images = np.stack([crop.centre(read_picture(file), size) for file in files])
    codes = trained.image_tokenizer.encode(paddle.to_tensor(to_unit(images)))
    return caption(trained.model, codes.flatten(1).numpy(), trained.text_tokenizer, sampler)


def read_picture(file: Path) -> Image.Image:
    """The picture in RGB. UserError if there is none in the file."""
    try:
        return decode.picture(Record(str(file), file.read_bytes(), b"", False))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror.lower()}") from None
    except BrokenSample as fault:
        raise UserError(f"{file}: {fault}") from None
