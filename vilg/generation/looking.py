"""`vilg generate` and `vilg caption`: a model's pictures and words on disk and on the terminal."""

import json
import logging
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vilg.data import crop, decode
from vilg.data.faults import BrokenSample
from vilg.data.pixels import to_unit
from vilg.data.shards import Record
from vilg.errors import UserError
from vilg.generation.beam import beam_search
from vilg.generation.captioning import caption
from vilg.generation.contact_sheet import contact_sheet
from vilg.generation.drawing import Guidance, draw
from vilg.generation.ranking import best, log_likelihood
from vilg.generation.sampling import Sampler
from vilg.generation.trained import Trained
from vilg.text.sequence import CaptionEncoder, longest_caption

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """What to draw: `count` pictures of `text`, the best of `best_of` (0: all that are drawn), with `guidance` towards
    the text, and beginning with the upper `keep_rows` rows of codes of the picture `image`."""

    text: str
    count: int = 1
    best_of: int = 0
    guidance: float = 1.0
    image: Path | None = None
    keep_rows: int = 0

    def __post_init__(self):
        if not self.text.strip():
            raise UserError("--text: empty")
        if self.count < 1:
            raise UserError(f"-n {self.count}: must be at least 1")
        if self.best_of and self.best_of < self.count:
            raise UserError(f"--best-of {self.best_of}: fewer than the {self.count} to keep")
        if (self.image is None) != (self.keep_rows == 0):
            raise UserError("--image and --keep-rows: one goes with the other")


def generate(trained: Trained, wish: Wish, sampler: Sampler, out: Path) -> list[float]:
    """Draw side by side into the file `out`; the scores, log p(text | image) in nats, stand in it (in a PNG) and in a
    JSON file beside it, with all that makes the drawing. Returns the scores, best first if some were left out."""
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise UserError(f"--out {out}: not the name of a picture, such as x.png")
    encode = CaptionEncoder(trained.text_tokenizer, trained.settings.text.length)
    ids = encode(wish.text)[None]
    if encode.cut:
        log.warning("--text is longer than the model's %d tokens and was cut", longest_caption(encode.length))
    drawn = max(wish.count, wish.best_of)
    codes = draw(trained.model, ids, sampler, drawn, Guidance(wish.guidance, encode("")), _begun(trained, wish),
                 show_progress=True)
    scores = log_likelihood(trained.model, ids.repeat(drawn, axis=0), codes.reshape(drawn, -1))
    chosen = best(scores, wish.count) if drawn > wish.count else np.arange(drawn)
    pictures = trained.image_tokenizer.decode(paddle.to_tensor(codes[chosen])).numpy()
    said = {"text": wish.text, "scores": scores[chosen].tolist(), "samples": chosen.tolist(), "drawn": drawn,
            "guidance": wish.guidance, "image": wish.image and str(wish.image), "keep_rows": wish.keep_rows,
            "sampler": sampler.settings(), "checkpoint": str(trained.checkpoint)}
    out.parent.mkdir(parents=True, exist_ok=True)
    inside = PngInfo()
    inside.add_itxt("vilg", json.dumps(said, ensure_ascii=False))
    Image.fromarray(contact_sheet(pictures)).save(out, **({"pnginfo": inside} if out.suffix.lower() == ".png" else {}))
    out.with_suffix(".json").write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return said["scores"]


def _begun(trained: Trained, wish: Wish) -> np.ndarray | None:
    """The codes int64 [1, k] that the drawing begins with."""
    if wish.image is None:
        return None
    height, width = trained.model.grid
    if not 0 < wish.keep_rows < height:
        raise UserError(f"--keep-rows {wish.keep_rows}: must be between 1 and {height - 1}, of {height} rows")
    return _codes(trained, [wish.image])[:, : wish.keep_rows * width]


def _codes(trained: Trained, files: list[Path]) -> np.ndarray:
    """The codes int64 [B, n] of picture files, which are cut and resized as in training."""
    images = np.stack([crop.centre(read_picture(file), trained.settings.data.image_size) for file in files])
    return trained.image_tokenizer.encode(paddle.to_tensor(to_unit(images))).flatten(1).numpy()


def describe(trained: Trained, files: list[Path], sampler: Sampler, beams: int = 0, penalty: float = 1.0,
             prefix: str = "") -> list[str]:
    """A caption for each picture file, which is cut and resized as in training, that begins with `prefix`; the best of
    `beams` beams, or if they are 0 what the sampler writes."""
    if beams < 0:
        raise UserError(f"--beams {beams}: must not be negative")
    codes, tokenizer = _codes(trained, files), trained.text_tokenizer
    begun = tokenizer.encode(unicodedata.normalize("NFC", prefix))
    if not beams:
        return caption(trained.model, codes, tokenizer, sampler, begun)
    found = beam_search(trained.model, codes, tokenizer, beams, penalty, begun)
    return [tokenizer.decode(of_image[0][1]) for of_image in found]


def read_picture(file: Path) -> Image.Image:
    """The picture in RGB. UserError if there is none in the file."""
    try:
        return decode.picture(Record(str(file), file.read_bytes(), b"", False))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror.lower()}") from None
    except BrokenSample as fault:
        raise UserError(f"{file}: {fault}") from None
