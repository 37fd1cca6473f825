"""Validates the fields of requests. Invalid ones are refused in one line (UserError)."""

import io
import math

from PIL import Image

from vilg.data import decode
from vilg.data.shards import Record
from vilg.errors import UserError
from vilg.generation.pipeline import Pipeline
from vilg.serving.limits import Limits
from vilg.text.sequence import max_caption_tokens


def text(given: str | None, limits: Limits, pipeline: Pipeline) -> str:
    """A caption that fits into the model."""
    found = (given or "").strip()
    if not found:
        raise UserError("the caption is empty")
    if len(found) > limits.characters:
        raise UserError(f"the text is too long: {len(found)} characters, at most {limits.characters}")
    if pipeline.exceeds_text_length(found):
        raise UserError(
            f"the text is too long: the model reads {max_caption_tokens(pipeline.decoding_model.text_length)} tokens"
        )
    return found


def image(given: bytes | None, limits: Limits) -> Image.Image:
    """An RGB image from the bytes of a file."""
    if given is None:
        raise UserError("an image is required")
    if len(given) > limits.megabytes * 10**6:
        raise UserError(f"the image is too large: {len(given) / 1e6:.1f} MB, at most {limits.megabytes}")
    try:
        # From the header; nothing is decoded yet.
        width, height = Image.open(io.BytesIO(given), formats=decode.FORMATS).size
        if width * height > limits.megapixels * 10**6:
            raise UserError(f"the image is too large: {width} x {height} pixels, at most {limits.megapixels} million")
        return decode.decode_image(Record("upload", given, b"", False))
    except UserError:
        raise
    except Exception:  # decoders of PIL raise any exception for broken data
        raise UserError("the image cannot be read: the file is broken or of an unknown kind") from None


def integer(name: str, given, lowest: int, highest: int) -> int:
    """A whole number in a range."""
    value = number(name, given)
    if value != int(value) or not lowest <= value <= highest:
        raise UserError(f"{name} {given}: must be a whole number from {lowest} to {highest}")
    return int(value)


def number(name: str, given, lowest: float = -math.inf) -> float:
    """A finite number."""
    try:
        value = float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} {str(given)[:20]}: not a number")
    if value < lowest:
        raise UserError(f"{name} {given}: must be at least {lowest}")
    return value
