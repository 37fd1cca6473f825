"""Implements `vilg generate` and `vilg caption`: reads requests, and writes images and their metadata."""

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
from vilg.errors import UserError, os_reason
from vilg.generation.contact_sheet import captioned_sheet, chinese_font, contact_sheet
from vilg.generation.pipeline import GeneratedImages, Pipeline
from vilg.generation.ranking import Scorer
from vilg.generation.sampling import Sampler
from vilg.text.sequence import max_caption_tokens

log = logging.getLogger(__name__)

_INDEX = "index.json"  # of a folder of images


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate.

    - count: images for each text
    - best_of: generate this many and keep the best `count` (0: keep all)
    - scorer: MODULE:FUNCTION that ranks them; by default log p(text | image) of the model
    - guidance: scale of classifier-free guidance
    - image, keep_rows: complete this image, of which the upper `keep_rows` rows of codes are kept
    """

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
            raise UserError("--image and --keep-rows: use both or neither")


def read_texts(file: Path) -> list[str]:
    """The non-empty lines of a text file. Raises UserError."""
    try:
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None


def generate(pipeline: Pipeline, request: GenerationRequest, out: Path) -> GeneratedImages:
    """Generate images into the file `out`, or into a folder with one file per image if `out` has no suffix.

    A file shows the images of one text side by side, or one captioned row for each of several texts. Scores, seeds and
    all settings are stored in the image (PNG: iTXt chunk `vilg`) and in a JSON file next to it.
    """
    as_folder = _prepare_output(out)
    scorer = load_scorer(request.scorer) if request.scorer else None
    for text in filter(pipeline.exceeds_text_length, request.texts):
        log.warning(
            "%s .. is longer than the model's %d tokens and is truncated",
            text[:10],
            max_caption_tokens(pipeline.decoding_model.text_length),
        )
    generated = pipeline.sample(
        request.texts,
        request.sampler,
        request.count,
        request.best_of,
        request.guidance,
        _prefix_codes(pipeline, request),
        scorer,
        show_progress=True,
    )
    metadata = [_metadata(pipeline, request, generated, row) for row in range(len(request.texts))]
    if as_folder:
        _write_folder(out, pipeline, generated, metadata)
    else:
        _write_sheet(out, pipeline.decode_samples(generated.codes), metadata)
    return generated


def _prepare_output(out: Path) -> bool:
    """Whether `out` is a folder. Errors are raised before anything is generated."""
    as_folder = out.is_dir() or not out.suffix
    if as_folder and (out / _INDEX).exists():
        raise UserError(f"--out {out}: already contains images")
    if not as_folder:
        try:
            Image.new("RGB", (1, 1)).save(io.BytesIO(), Image.registered_extensions().get(out.suffix.lower()))
        except (KeyError, ValueError, OSError, AttributeError):  # an unknown format, or one without colours
            raise UserError(f"--out {out}: neither a folder nor the name of an image file, such as x.png") from None
    (out if as_folder else out.parent).mkdir(parents=True, exist_ok=True)
    return as_folder


def _metadata(pipeline: Pipeline, request: GenerationRequest, generated: GeneratedImages, row: int) -> dict:
    """How the images of a text were generated. Image i can be generated again alone with the i-th seed."""
    samples = generated.samples[row]
    assert generated.scores is not None
    return {
        "text": request.texts[row],
        "scores": generated.scores[row].tolist(),
        "seeds": (request.sampler.seed + samples).tolist(),
        "scorer": request.scorer or "log p(text | image)",
        "candidates": max(request.count, request.best_of),
        "guidance": request.guidance,
        "image": request.image and str(request.image),
        "keep_rows": request.keep_rows,
        "sampler": vars(request.sampler),
        "model": pipeline.origin,
        "checkpoint": pipeline.checkpoint,
    }


def _write_sheet(out: Path, pictures: np.ndarray, rows: list[dict]) -> None:
    metadata = rows[0] if len(rows) == 1 else rows
    if isinstance(metadata, dict):
        sheet = Image.fromarray(contact_sheet(pictures[0]))
    else:
        if chinese_font() is None:
            log.warning(
                "no font for Chinese was found: %s has no captions, but %s has them", out, out.with_suffix(".json")
            )
        sheet = captioned_sheet(pictures, [row["text"] for row in rows])
    _save(sheet, out, metadata)
    _write_json(out.with_suffix(".json"), metadata)


def _write_folder(out: Path, pipeline: Pipeline, generated: GeneratedImages, metadata: list[dict]) -> None:
    for row, (codes, metadata_of_row) in enumerate(zip(generated.codes, metadata), start=1):
        of_text = pipeline.decode_samples(codes[None])[0]
        metadata_of_row["files"] = [f"{row:04}-{number:02}.png" for number in range(1, len(of_text) + 1)]
        for number, pixels in enumerate(to_uint8(of_text)):
            own = {
                **metadata_of_row,
                "scores": [metadata_of_row["scores"][number]],
                "seeds": [metadata_of_row["seeds"][number]],
            }
            _save(Image.fromarray(pixels), out / metadata_of_row["files"][number], own)
    _write_json(out / _INDEX, metadata)


def _save(image: Image.Image, file: Path, metadata: dict | list) -> None:
    if file.suffix.lower() != ".png":
        image.save(file)
        return
    chunk = PngInfo()
    chunk.add_itxt("vilg", json.dumps(metadata, ensure_ascii=False))
    image.save(file, pnginfo=chunk)


def _write_json(file: Path, metadata: dict | list) -> None:
    file.write_text(json.dumps(metadata, ensure_ascii=False, indent=1) + "\n", "utf-8")


def load_scorer(name: str) -> Scorer:
    """The function MODULE:FUNCTION. The module is imported from the Python path or from the current folder. Raises
    UserError.
    """
    module, _, function = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        scorer = getattr(importlib.import_module(module), function)
    except Exception as error:  # importing a module can raise anything
        raise UserError(
            f"--scorer {name}: cannot be imported as MODULE:FUNCTION "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from None
    if not callable(scorer):
        raise UserError(f"--scorer {name}: not a function")
    return scorer


def _prefix_codes(pipeline: Pipeline, request: GenerationRequest) -> np.ndarray | None:
    """The codes int64 [k] that the generated images begin with."""
    if request.image is None:
        return None
    height, width = pipeline.decoding_model.grid
    if not 0 < request.keep_rows < height:
        raise UserError(f"--keep-rows {request.keep_rows}: must be between 1 and {height - 1}, of {height} rows")
    return pipeline.encode_images([read_image(request.image)])[0, : request.keep_rows * width]


def caption_files(
    pipeline: Pipeline,
    files: list[Path],
    sampler: Sampler,
    beams: int = 0,
    length_penalty: float = 1.0,
    prefix: str = "",
) -> list[str]:
    """Generate a caption for each image file. Images are cropped and resized as in training."""
    codes = pipeline.encode_images([read_image(file) for file in files])
    return pipeline.caption_codes(codes, sampler, beams, length_penalty, prefix, show_progress=True)


def read_image(file: Path) -> Image.Image:
    """Read an image file as RGB. Raises UserError."""
    try:
        return decode.decode_image(Record(str(file), file.read_bytes(), b"", False))
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    except BadSampleError as fault:
        raise UserError(f"{file}: {fault}") from None
