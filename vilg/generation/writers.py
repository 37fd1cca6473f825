"""Where `vilg generate` writes: one image file, or a folder with one file per image.

Errors of the destination are reported before anything is generated. Files are complete or absent, and existing ones are
replaced only if the user asks for it.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vilg.data.images import to_uint8
from vilg.errors import UserError
from vilg.files import os_errors, printable, refuse_existing, write_atomically
from vilg.generation.contact_sheet import captioned_sheet, chinese_font, contact_sheet, sheet_size
from vilg.generation.metadata import encode_image, of_image, to_json

log = logging.getLogger(__name__)

INDEX = "index.jsonl"  # of a folder of images: the metadata of each text in a line

# Image formats and the longest side that they can store.
_FORMATS = {
    ".png": ("PNG", 2**31 - 1),
    ".jpg": ("JPEG", 65_500),
    ".jpeg": ("JPEG", 65_500),
    ".webp": ("WEBP", 16_383),
    ".bmp": ("BMP", 2**31 - 1),
    ".tif": ("TIFF", 2**31 - 1),
    ".tiff": ("TIFF", 2**31 - 1),
}
_NOT_COMPARED = {"text", "seeds", "scores"}  # they differ between the texts of one request


class Writer(Protocol):
    """A destination of generated images."""

    def start(self, request: dict[str, Any], image_size: int) -> int:
        """Check the destination for metadata like `request`. Returns the number of texts that are finished already."""

    def write(self, images: np.ndarray, metadata: dict[str, Any]) -> None:
        """Write the images of the next text, float32 [n, 3, H, W] in [0, 1], or keep them for the sheet."""

    def finish(self) -> None:
        """Write what `write` kept."""


def open_writer(out: Path, texts: list[str], count: int, overwrite: bool = False, resume: bool = False) -> Writer:
    """The writer for `--out`: a folder if it is one or has no suffix, otherwise an image file. Raises UserError.

    texts, count: what will be written, `count` images for each text.
    """
    if overwrite and resume:
        raise UserError("--overwrite and --resume: use one of them")
    with os_errors(out):
        if out.is_dir() or not out.suffix:
            return FolderWriter(out, texts, overwrite, resume)
        if resume:
            raise UserError(
                f"--resume: {printable(out)} is one file; use a folder, which is written as images are generated"
            )
        return SheetWriter(out, len(texts), count, overwrite)


class SheetWriter:
    """One image file: the images of one text side by side, or one captioned row for each of several texts.

    OUT.json contains the metadata, which a PNG contains, too.
    """

    def __init__(self, out: Path, texts: int, count: int, overwrite: bool):
        if out.suffix.lower() not in _FORMATS:
            raise UserError(
                f"--out {printable(out)}: neither a folder nor an image file; use one of {', '.join(_FORMATS)}"
            )
        self._kind, self._longest = _FORMATS[out.suffix.lower()]
        self._out, self._json = out, out.with_name(out.name + ".json")
        self._texts, self._count = texts, count
        for file in (self._out, self._json):
            if file.is_dir():
                raise UserError(f"--out {printable(out)}: {printable(file)} is a folder")
            refuse_existing("--out", file, overwrite)
        _check_writable(out.parent)
        self._rows: list[tuple[np.ndarray, dict]] = []

    def start(self, request: dict[str, Any], image_size: int) -> int:
        width, height = sheet_size(self._texts, self._count, image_size)
        if max(width, height) > self._longest:
            raise UserError(
                f"--out {printable(self._out)}: a sheet of {width} x {height} pixels, but {self._kind} has at most "
                f"{self._longest} on a side; use a folder"
            )
        return 0

    def write(self, images: np.ndarray, metadata: dict[str, Any]) -> None:
        self._rows.append((images, metadata))

    def finish(self) -> None:
        images, metadata = zip(*self._rows)
        content: Any = metadata[0] if len(metadata) == 1 else list(metadata)
        if len(metadata) == 1:
            sheet = Image.fromarray(contact_sheet(images[0]))
        else:
            if chinese_font() is None:
                log.warning("no font for Chinese was found: %s has no captions, but %s has them", self._out, self._json)
            sheet = captioned_sheet(np.stack(images), [row["text"] for row in metadata])
        write_atomically(self._out, encode_image(sheet, self._kind, content))
        write_atomically(self._json, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())


class FolderWriter:
    """A folder with NNNN-MM.png for each image and a line of index.jsonl for each text, written in this order.

    Therefore a run that was interrupted can be resumed after the last text of the index.
    """

    def __init__(self, folder: Path, texts: list[str], overwrite: bool, resume: bool):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {printable(folder)}: a file is there; use another name, or one with a suffix")
        self._folder, self._index = folder, folder / INDEX
        self._texts, self._overwrite, self._resume = texts, overwrite, resume
        if self._index.exists() and not (overwrite or resume):
            raise UserError(
                f"--out {printable(folder)}: already contains images of {len(list(self._lines()))} texts; --resume "
                "continues, --overwrite replaces them"
            )
        _check_writable(folder)
        self._done = self._complete = 0

    def start(self, request: dict[str, Any], image_size: int) -> int:
        if self._overwrite:
            for line in self._lines():
                for name in line["files"]:
                    (self._folder / name).unlink(missing_ok=True)
            self._index.unlink(missing_ok=True)
        for number, line in enumerate(self._lines()):
            expected = {**request, "text": self._texts[number] if number < len(self._texts) else None}
            for key in [key for key in expected if key not in _NOT_COMPARED - {"text"}]:
                if line.get(key) != expected[key]:
                    raise UserError(
                        f"--resume: text {number + 1} of {printable(self._index)} was generated with {key} "
                        f"{line.get(key)!r:.80}, this request has {expected[key]!r:.80}"
                    )
            self._done = number + 1
        for leftover in self._folder.glob(".[0-9]*-[0-9]*.png.*"):  # of a killed process
            leftover.unlink(missing_ok=True)
        if self._index.exists():
            os.truncate(self._index, self._complete)
        return self._done

    def write(self, images: np.ndarray, metadata: dict[str, Any]) -> None:
        self._done += 1
        files = [f"{self._done:04}-{number:02}.png" for number in range(1, len(images) + 1)]
        metadata = {**metadata, "files": files}
        for number, pixels in enumerate(to_uint8(images)):
            data = encode_image(Image.fromarray(pixels), "PNG", of_image(metadata, number))
            write_atomically(self._folder / files[number], data)
        with os_errors(self._index), self._index.open("a", encoding="utf-8") as index:
            index.write(to_json(metadata) + "\n")

    def finish(self) -> None:
        pass

    def _lines(self) -> Iterator[dict]:
        """The complete lines of the index. Counts their bytes in `_complete`."""
        self._complete = 0
        if not self._index.exists():
            return
        with os_errors(self._index), self._index.open("rb") as index:
            for number, line in enumerate(index, start=1):
                if not line.endswith(b"\n"):  # the process was killed while it wrote
                    return
                try:
                    yield json.loads(line)
                except ValueError:
                    raise UserError(f"{printable(self._index)}: line {number} is not JSON") from None
                self._complete += len(line)


def _check_writable(folder: Path) -> None:
    """Create the folder, and a file in it."""
    probe = folder / f".vilg-{id(folder)}"
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"")
        finally:
            probe.unlink(missing_ok=True)
