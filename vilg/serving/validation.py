"""Validates the fields of requests. Invalid ones are refused in one line (UserError)."""

import io
import math

from PIL import Image

from vilg.data import decode
from vilg.data.shards import Record
from vilg.errors import UserError
from vilg.generation.pipeline import Pipeline
from vilg.generation.texts import check_texts
from vilg.serving.limits import Limits


def text(value: object, limits: Limits, pipeline: Pipeline) -> tuple[str, list[str]]:
    """A text that fits into the model, and warnings about parts that the model does not know."""
    if not isinstance(value, str):
        raise UserError("the text is missing" if value is None else "the text is not a string")
    stripped = value.strip()
    if len(stripped) > limits.characters:
        raise UserError(f"the text is too long: {len(stripped)} characters, at most {limits.characters}")
    return stripped, check_texts([stripped], pipeline.text_tokenizer, pipeline.decoding_model.text_length)


def image(data: bytes | None, limits: Limits) -> Image.Image:
    """An RGB image from the bytes of a file."""
    if data is None:
        raise UserError("an image is required")
    if len(data) > limits.megabytes * 10**6:
        raise UserError(f"the image is too large: {len(data) / 1e6:.1f} MB, at most {limits.megabytes}")
    try:
        # From the header; nothing is decoded yet.
        width, height = Image.open(io.BytesIO(data), formats=decode.FORMATS).size
        if width * height > limits.megapixels * 10**6:
            raise UserError(f"the image is too large: {width} x {height} pixels, at most {limits.megapixels} million")
        return decode.decode_image(Record("upload", data, b"", False))
    except UserError:
        raise
    except Exception:  # decoders of PIL raise any exception for broken data
        raise UserError("the image cannot be read: the file is broken or of an unknown kind") from None


def integer(name: str, value, lowest: int, highest: int) -> int:
    """A whole number in a range."""
    parsed = number(name, value)
    if parsed != int(parsed) or not lowest <= parsed <= highest:
        raise UserError(f"{name} {value}: must be a whole number from {lowest} to {highest}")
    return int(parsed)


def number(name: str, value, lowest: float = -math.inf) -> float:
    """A finite number."""
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if not math.isfinite(parsed):
        raise UserError(f"{name} {str(value)[:20]}: not a number")
    if parsed < lowest:
        raise UserError(f"{name} {value}: must be at least {lowest}")
    return parsed
