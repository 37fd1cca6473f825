"""What came from outside, made into what it has to be, or refused in one line (UserError)."""

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
    """A caption that the model reads whole."""
    found = (given or "").strip()
    if not found:
        raise UserError("write what to draw")
    if len(found) > limits.characters:
        raise UserError(f"the text is too long: {len(found)} characters, at most {limits.characters}")
    if pipeline.exceeds_text_length(found):
        raise UserError(
            f"the text is too long: the model reads {max_caption_tokens(pipeline.decoding_model.text_length)} tokens"
        )
    return found


def image(given: bytes | None, limits: Limits) -> Image.Image:
    """A picture in RGB, from a file's bytes."""
    if given is None:
        raise UserError("give a picture to describe")
    if len(given) > limits.megabytes * 10**6:
        raise UserError(f"the picture is too large: {len(given) / 1e6:.1f} MB, at most {limits.megabytes}")
    try:
        # Of the header; nothing is decoded yet.
        width, height = Image.open(io.BytesIO(given), formats=decode.FORMATS).size
        if width * height > limits.megapixels * 10**6:
            raise UserError(f"the picture is too large: {width} x {height} pixels, at most {limits.megapixels} million")
        return decode.decode_image(Record("upload", given, b"", False))
    except UserError:
        raise
    except Exception:  # each decoder of PIL raises what it likes on broken bytes
        raise UserError("this is no picture that can be read: a broken file, or of an unknown kind") from None


def integer(name: str, given, lowest: int, highest: int) -> int:
    """A whole number."""
    value = number(name, given)
    if value != int(value) or not lowest <= value <= highest:
        raise UserError(f"{name} {given}: must be a whole number from {lowest} to {highest}")
    return int(value)


def number(name: str, given, lowest: float = -math.inf) -> float:
    """A number, neither infinite nor NaN."""
    try:
        value = float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} {str(given)[:20]}: not a number")
    if value < lowest:
        raise UserError(f"{name} {given}: must be at least {lowest}")
    return value
