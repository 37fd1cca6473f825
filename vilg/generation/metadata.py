"""How an image was generated: stored in the image itself and next to it, and returned by the server."""

import io
import json
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vilg.files import printable
from vilg.generation.pipeline import Pipeline
from vilg.generation.sampling import Sampler

CHUNK = "vilg"  # the keyword of the iTXt chunk in a PNG


def describe(
    pipeline: Pipeline,
    text: str,
    seeds: list[int],
    sampler: Sampler,
    guidance: float = 1.0,
    *,
    scores: list[float] | None = None,
    scorer: str | None = None,
    candidates: int = 1,
    image: object = None,
    keep_rows: int = 0,
) -> dict[str, Any]:
    """The metadata of the images of a text. Image i can be generated again alone with seeds[i].

    scores: of the images, None if none were computed. scorer: MODULE:FUNCTION, or None for log p(text | image).
    candidates: how many were generated. image, keep_rows: the image that was completed.
    """
    return {
        "text": text,
        "scores": scores,
        "seeds": seeds,
        "scorer": scorer or "log p(text | image)",
        "candidates": candidates,
        "guidance": guidance,
        "image": None if image is None else printable(image),
        "keep_rows": keep_rows,
        "sampler": vars(sampler),
        "model": printable(pipeline.origin),
        "checkpoint": printable(pipeline.checkpoint),
    }


def of_image(metadata: dict[str, Any], number: int) -> dict[str, Any]:
    """The metadata of one of the images that `metadata` describes."""
    scores = metadata["scores"]
    return {
        **metadata,
        "scores": None if scores is None else [scores[number]],
        "seeds": [metadata["seeds"][number]],
    }


def encode_image(image: Image.Image, kind: str, metadata: object) -> bytes:
    """The bytes of an image file. A PNG contains the metadata as JSON in an iTXt chunk."""
    buffer, options = io.BytesIO(), {}
    if kind == "PNG":
        chunks = PngInfo()
        chunks.add_itxt(CHUNK, to_json(metadata))
        options = {"pnginfo": chunks}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def to_json(metadata: object) -> str:
    return json.dumps(metadata, ensure_ascii=False)
