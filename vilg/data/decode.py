"""Decodes images and captions of records."""

import io
import json
import unicodedata

from PIL import Image

from vilg.data.bad_samples import BadSampleError
from vilg.data.shards import Record

# Formats that PIL decodes itself. For others, such as EPS, it starts an external program on untrusted data.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def decode_image(record: Record) -> Image.Image:
    """The image of a record in RGB. Transparent parts become white. Raises BadSampleError."""
    try:
        image = Image.open(io.BytesIO(record.image), formats=FORMATS)
        image.load()
        return to_rgb(image)
    except Exception as error:  # decoders of PIL raise any exception for broken data
        raise BadSampleError(f"broken image ({error})") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB. Transparent parts become white."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


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
