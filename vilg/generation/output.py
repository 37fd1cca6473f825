"""`vilg generate` and `vilg caption`: a model's pictures and words on disk and on the terminal."""

import importlib
import io
import json
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vilg.data import decode
from vilg.data.bad_samples import BadSampleError
from vilg.data.images import to_uint8
from vilg.data.shards import Record
from vilg.errors import UserError
from vilg.generation.contact_sheet import captioned_sheet, chinese_font, contact_sheet
from vilg.generation.pipeline import GeneratedImages, Pipeline
from vilg.generation.ranking import Scorer
from vilg.generation.sampling import Sampler
from vilg.text.sequence import max_caption_tokens

log = logging.getLogger(__name__)

_INDEX = "index.json"  # of a folder of drawings


@dataclass(frozen=True)
class GenerationRequest:
    """What to draw: `count` pictures of each text, the best of `best_of` (0: all that are drawn) by the model or by the
    `scorer` MODULE:FUNCTION, with `guidance` towards the text, and beginning with the upper `keep_rows` rows of codes
    of the picture `image`."""

    texts: list[str]
    count: int = 1
    best_of: int = 0
    guidance: float = 1.0
    image: Path | None = None
    keep_rows: int = 0
    scorer: str | None = None
    sampler: Sampler = field(default_factory=Sampler)

    def __post_init__(self):
        if not self.texts or not all(text.strip() for text in self.texts):
            raise UserError("--text: empty")
        if self.count < 1:
            raise UserError(f"-n {self.count}: must be at least 1")
        if (self.image is None) != (self.keep_rows == 0):
            raise UserError("--image and --keep-rows: one goes with the other")


def read_texts(file: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror.lower()}") from None


def generate(pipeline: Pipeline, wish: GenerationRequest, out: Path) -> GeneratedImages:
    """Draw into the file `out`, or one picture a file into a folder if its name has no suffix.

    A file holds the pictures of one text side by side, or a captioned row for each of several texts. Scores, seeds and
    all that makes a drawing stand in the picture (in a PNG: `vilg`, iTXt) and in a JSON file beside it.
    """
    as_folder = _prepare_output(out)
    scorer = wish.scorer and load_scorer(wish.scorer)
    for text in filter(pipeline.exceeds_text_length, wish.texts):
        log.warning(
            "%s .. is longer than the model's %d tokens and is cut",
            text[:10],
            max_caption_tokens(pipeline.decoding_model.text_length),
        )
    drawn = pipeline.sample(
        wish.texts,
        wish.sampler,
        wish.count,
        wish.best_of,
        wish.guidance,
        _prefix_codes(pipeline, wish),
        scorer,
        show_progress=True,
    )
    said = [_metadata(pipeline, wish, drawn, row) for row in range(len(wish.texts))]
    if as_folder:
        _write_folder(out, pipeline, drawn, said)
    else:
        _write_sheet(out, pipeline.decode_samples(drawn.codes), said)
    return drawn


def _prepare_output(out: Path) -> bool:
    """Whether `out` is a folder; all that can be wrong with it is said now, and not once the pictures are there."""
    as_folder = out.is_dir() or not out.suffix
    if as_folder and (out / _INDEX).exists():
        raise UserError(f"--out {out}: holds drawings already")
    if not as_folder:
        try:
            Image.new("RGB", (1, 1)).save(io.BytesIO(), Image.registered_extensions().get(out.suffix.lower()))
        except (KeyError, ValueError, OSError, AttributeError):  # a format that is unknown, or not for colours
            raise UserError(f"--out {out}: neither a folder nor the name of a picture, such as x.png") from None
    (out if as_folder else out.parent).mkdir(parents=True, exist_ok=True)
    return as_folder


def _metadata(pipeline: Pipeline, wish: GenerationRequest, drawn: GeneratedImages, row: int) -> dict:
    """How the pictures of a text came to be; picture i is drawn again alone with the i-th of its seeds."""
    samples = drawn.samples[row]
    return {
        "text": wish.texts[row],
        "scores": drawn.scores[row].tolist(),
        "seeds": (wish.sampler.seed + samples).tolist(),
        "scorer": wish.scorer or "log p(text | image)",
        "drawn": max(wish.count, wish.best_of),
        "guidance": wish.guidance,
        "image": wish.image and str(wish.image),
        "keep_rows": wish.keep_rows,
        "sampler": vars(wish.sampler),
        "model": pipeline.origin,
        "checkpoint": pipeline.checkpoint,
    }


def _write_sheet(out: Path, pictures: np.ndarray, said: list[dict]) -> None:
    said = said[0] if len(said) == 1 else said
    if isinstance(said, dict):
        sheet = Image.fromarray(contact_sheet(pictures[0]))
    else:
        if chinese_font() is None:
            log.warning("no font for Chinese found: %s has no captions, %s has", out, out.with_suffix(".json"))
        sheet = captioned_sheet(pictures, [one["text"] for one in said])
    _save(sheet, out, said)
    _write_json(out.with_suffix(".json"), said)


def _write_folder(out: Path, pipeline: Pipeline, drawn: GeneratedImages, said: list[dict]) -> None:
    for row, (codes, about) in enumerate(zip(drawn.codes, said), start=1):
        of_text = pipeline.decode_samples(codes[None])[0]
        about["files"] = [f"{row:04}-{number:02}.png" for number in range(1, len(of_text) + 1)]
        for number, pixels in enumerate(to_uint8(of_text)):
            own = {**about, "scores": [about["scores"][number]], "seeds": [about["seeds"][number]]}
            _save(Image.fromarray(pixels), out / about["files"][number], own)
    _write_json(out / _INDEX, said)


def _save(picture: Image.Image, file: Path, said: dict | list) -> None:
    inside = PngInfo()
    inside.add_itxt("vilg", json.dumps(said, ensure_ascii=False))
    picture.save(file, **({"pnginfo": inside} if file.suffix.lower() == ".png" else {}))


def _write_json(file: Path, said: dict | list) -> None:
    file.write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", "utf-8")


def load_scorer(name: str) -> Scorer:
    """The function that MODULE:FUNCTION names; the module is looked for as Python looks for modules, and then in the
    current folder, which is not on the path of the installed `vilg`."""
    module, _, function = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        scorer = getattr(importlib.import_module(module), function)
    except Exception as error:  # the module may raise what it likes while it is imported
        raise UserError(
            f"--scorer {name}: not MODULE:FUNCTION of Python ({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
    if not callable(scorer):
        raise UserError(f"--scorer {name}: not a function")
    return scorer


def _prefix_codes(pipeline: Pipeline, wish: GenerationRequest) -> np.ndarray | None:
    """The codes int64 [k] that the drawing begins with."""
    if wish.image is None:
        return None
    height, width = pipeline.decoding_model.grid
    if not 0 < wish.keep_rows < height:
        raise UserError(f"--keep-rows {wish.keep_rows}: must be between 1 and {height - 1}, of {height} rows")
    return pipeline.encode_images([read_image(wish.image)])[0, : wish.keep_rows * width]


def caption_files(
    pipeline: Pipeline,
    files: list[Path],
    sampler: Sampler,
    beams: int = 0,
    length_penalty: float = 1.0,
    prefix: str = "",
) -> list[str]:
    """A caption for each picture file, which is cut and resized as in training."""
    codes = pipeline.encode_images([read_image(file) for file in files])
    return pipeline.caption_codes(codes, sampler, beams, length_penalty, prefix, show_progress=True)


def read_image(file: Path) -> Image.Image:
    """The picture in RGB. UserError if there is none in the file."""
    try:
        return decode.decode_image(Record(str(file), file.read_bytes(), b"", False))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror.lower()}") from None
    except BadSampleError as fault:
        raise UserError(f"{file}: {fault}") from None
