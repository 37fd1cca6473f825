"""Decoding images of every mode, orientation and size, the same way for training, captioning and serving."""

import io

import numpy as np
import pytest
from PIL import Image

from vilg.data.bad_samples import BadSampleError
from vilg.data.decode import decode_image, read_image, to_rgb
from vilg.data.shards import Record
from vilg.errors import UserError

GREY = np.arange(0, 256, 17, dtype=np.uint8).reshape([4, 4])
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
OPAQUE = np.full([4, 4], 255, np.uint8)


def decoded(image: Image.Image, kind: str, **options) -> np.ndarray:
    """int [H, W, 3] of an image that is saved and decoded."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return np.asarray(decode_image(Record("x", buffer.getvalue(), b"", False))).astype(int)


def in_mode(mode: str) -> Image.Image:
    """COLOURS, or GREY for modes without colours, in a mode of Pillow; all of it is opaque."""
    if mode.startswith("I;16"):
        values = GREY.astype(np.uint16) * 257
        return Image.frombytes(mode, (4, 4), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    if mode == "I":
        return Image.fromarray(GREY.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(GREY.astype(np.float32) / 255)
    if mode == "La":
        return Image.frombytes("La", (4, 4), np.stack([GREY, OPAQUE], -1).tobytes())
    if mode == "LAB":
        return Image.new("LAB", (4, 4), (255, 128, 128))
    if mode in ("1", "L", "LA"):
        return Image.fromarray(GREY).convert(mode)
    if mode == "PA":
        return Image.fromarray(GREY).convert("P").convert("PA")
    if mode == "RGBX":
        return Image.frombytes("RGBX", (4, 4), np.dstack([COLOURS, OPAQUE]).tobytes())
    return Image.fromarray(COLOURS).convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)


MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La"]
MODES += ["I;16", "I;16L", "I;16B", "I;16N"]


def test_every_mode_of_pillow_is_tested():
    assert set(Image.MODES) == set(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_same_image(mode):
    image = in_mode(mode)
    assert image.mode == mode
    pixels = np.asarray(to_rgb(image)).astype(int)
    if mode == "LAB":
        expected = np.full([4, 4, 3], 255)
    elif mode == "1":
        expected = np.asarray(Image.fromarray(GREY).convert("1").convert("RGB")).astype(int)
    elif mode in ("L", "LA", "La", "PA") or mode.startswith(("I", "F")):
        expected = np.repeat(GREY[..., None], 3, -1).astype(int)
    else:
        expected = COLOURS.astype(int)
    tolerance = {"P": 40, "YCbCr": 3, "HSV": 6, "LAB": 1}.get(mode, 0)  # a palette of 216 colours; rounding
    assert pixels.shape == (4, 4, 3) and np.abs(pixels - expected).max() <= tolerance


@pytest.mark.parametrize("values", [GREY.astype(np.int32), GREY.astype(np.float32)])
def test_integers_and_floats_up_to_255_are_not_scaled(values):
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values)))[..., 0], GREY)


@pytest.mark.parametrize("values", [[[0, 70000]], [[-1, 5]], [[0.5, np.nan]], [[0.0, 256.5]], [[-0.1, 0.5]]])
def test_values_outside_of_the_range_are_refused(values):
    image = Image.fromarray(np.array(values, np.float32 if isinstance(values[0][-1], float) else np.int32))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    with pytest.raises(BadSampleError, match="values from .* where 0 to .* is expected"):
        decode_image(Record("x", buffer.getvalue(), b"", False))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    upright = Image.fromarray(np.repeat(np.repeat(COLOURS[:2], 8, 0), 8, 1))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert np.array_equal(decoded(stored, kind, exif=exif, **options), np.asarray(upright)), kind


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_are_white(mode):
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    image = image.convert("RGB").quantize(2).convert("PA") if mode == "PA" else image.convert(mode)
    image.putalpha(0)
    assert to_rgb(image).getpixel((0, 0)) == (255, 255, 255)


def test_a_file_that_is_too_large_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    monkeypatch.setattr("vilg.data.decode._PIXELS", 8 * 10**6)
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="x.png: image of more than 8 million pixels"):
        read_image(tmp_path / "x.png")


def test_messages_name_the_file_and_no_object(tmp_path):
    (tmp_path / "x.png").write_bytes(b"<svg/>")
    with pytest.raises(UserError) as error:
        read_image(tmp_path / "x.png")
    assert str(error.value).startswith(f"{tmp_path}/x.png: broken image (not one of PNG, ") and "0x" not in str(
        error.value
    )
    with pytest.raises(UserError, match="none.png: no such file"):
        read_image(tmp_path / "none.png")
