"""Decodes images and captions. Training, captioning, evaluation and serving use the same functions."""

import io
import json
import unicodedata
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from vilg.data.bad_samples import BadSampleError
from vilg.data.shards import Record
from vilg.errors import UserError, os_reason

# Formats that PIL decodes itself. For others, such as EPS, it starts an external program on untrusted data.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # where PIL refuses to decode; it warns at half of it
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
_WITH_ALPHA = ("RGBA", "LA", "PA")


def read_image(file: Path) -> Image.Image:
    """Decode an image file as `decode_image` does. Raises UserError."""
    try:
        return decode_image(Record(str(file), file.read_bytes(), b"", False))
    except OSError as error:
        raise UserError(f"{file}: {os_reason(error)}") from None
    except BadSampleError as fault:
        raise UserError(f"{file}: {fault}") from None


def decode_image(record: Record) -> Image.Image:
    """The image of a record in RGB, upright; see `to_rgb`. Raises BadSampleError."""
    try:
        image = Image.open(io.BytesIO(record.image), formats=FORMATS)
        image.load()
        return to_rgb(image)
    except Image.DecompressionBombError:
        raise BadSampleError(f"image of more than {_PIXELS // 10**6} million pixels") from None
    except UnidentifiedImageError:
        raise BadSampleError(f"broken image (not one of {', '.join(FORMATS)}, or damaged)") from None
    except Exception as error:  # decoders of PIL raise any exception for broken data
        raise BadSampleError(f"broken image ({error})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, rotated as its EXIF data say. Transparent parts become white.

    16-bit grey values (I;16) are scaled to 8 bits. Integers of mode I are, too, if one of them exceeds 255. The values
    of mode F are in [0, 1], or in [0, 255] if one of them exceeds 1. Raises ValueError for other values.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_numbers(np.asarray(image), image.mode).convert("RGB")
    if image.mode == "LAB":  # Image.convert would take the channel A for transparency
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return transform.apply(image)
    if image.mode == "La":  # Image.convert cannot convert it
        image = Image.merge("RGBa", [image.getchannel("L")] * 3 + [image.getchannel("a")])
    image = image.convert(_PREMULTIPLIED.get(image.mode, image.mode))
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_numbers(values: np.ndarray, mode: str) -> Image.Image:
    """A grey image of integers or of floating point numbers."""
    lowest, highest = float(values.min()), float(values.max())
    limit = {"F": 1 if highest <= 1 else 255, "I": 255 if highest <= 255 else 65535}.get(mode, 65535)
    if not 0 <= lowest <= highest <= limit:  # also NaN
        raise ValueError(f"values from {lowest:g} to {highest:g}, where 0 to {limit} is expected")
    return Image.fromarray((values.astype(np.float64) * (255 / limit)).round().astype(np.uint8))


def decode_captions(record: Record) -> list[str]:
    """All captions of a record in Unicode NFC, at least one. Raises BadSampleError.

    JSON may have `captions` (a list) or `caption` (a string). A text file is one caption.
    """
    try:
        text = record.caption.decode("utf-8")
        captions = _from_json(json.loads(text)) if record.caption_is_json else [text]
        captions = [caption for caption in captions if isinstance(caption, str)]
        "".join(captions).encode("utf-8")  # JSON can contain lone surrogates such as \ud83d, which tokenizers refuse
    except ValueError as error:  # not UTF-8, not JSON
        raise BadSampleError(f"broken caption ({error})") from None
    captions = [unicodedata.normalize("NFC", caption).strip() for caption in captions]
    captions = [caption for caption in captions if caption]
    if not captions:
        raise BadSampleError("empty caption")
    return captions


def _from_json(tree) -> list:
    if not isinstance(tree, dict):
        raise ValueError("not an object")
    many = tree.get("captions")
    return many if isinstance(many, list) else [tree.get("caption")]
