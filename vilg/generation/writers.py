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

INDEX = (
    "index.jsonl"  # of a folder of images: the metadata of each text in a line; index-RANK.jsonl of several processes
)

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

    def start(self, request: dict[str, Any], image_size: int) -> list[int]:
        """Check the destination for metadata like `request`. Returns the numbers of the texts, from 0 on, that this
        process still has to generate.
        """

    def write(self, number: int, images: np.ndarray, metadata: dict[str, Any]) -> None:
        """Write the images of text `number`, float32 [n, 3, H, W] in [0, 1], or keep them for the sheet."""

    def finish(self) -> None:
        """Write what `write` kept."""


def open_writer(
    out: Path,
    texts: list[str],
    count: int,
    overwrite: bool = False,
    resume: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Writer:
    """The writer for `--out`: a folder if it is one or has no suffix, otherwise an image file. Raises UserError.

    texts, count: what will be written, `count` images for each text. share: (rank, ranks), if several processes divide
    the texts.
    """
    if overwrite and resume:
        raise UserError("--overwrite and --resume: use one of them")
    with os_errors(out):
        if out.is_dir() or not out.suffix:
            return FolderWriter(out, texts, overwrite, resume, share)
        if share[1] > 1:
            raise UserError(f"--out {printable(out)}: several processes can only write to a folder")
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

    def start(self, request: dict[str, Any], image_size: int) -> list[int]:
        width, height = sheet_size(self._texts, self._count, image_size)
        if max(width, height) > self._longest:
            raise UserError(
                f"--out {printable(self._out)}: a sheet of {width} x {height} pixels, but {self._kind} has at most "
                f"{self._longest} on a side; use a folder"
            )
        return list(range(self._texts))

    def write(self, number: int, images: np.ndarray, metadata: dict[str, Any]) -> None:
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
    """A folder with NNNN-MM.png for image MM of text NNNN, and a line of an index for each text, which is written after
    its images. Therefore an interrupted run can be continued with the texts that no index has.

    Of several processes, each writes its own index, and generates every `ranks`-th text. Another number of them can
    continue. Process 0 has to call `start` before the others do.
    """

    def __init__(self, folder: Path, texts: list[str], overwrite: bool, resume: bool, share: tuple[int, int] = (0, 1)):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {printable(folder)}: a file is there; use another name, or one with a suffix")
        self._rank, self._ranks = share
        self._folder, self._texts, self._overwrite, self._resume = folder, texts, overwrite, resume
        self._index = folder / (INDEX if self._ranks == 1 else f"index-{self._rank}.jsonl")
        if self._indexes() and not (overwrite or resume):
            count = sum(len(list(_lines(index))) for index in self._indexes())
            raise UserError(
                f"--out {printable(folder)}: already contains images of {count} texts; --resume continues, --overwrite "
                "replaces them"
            )
        _check_writable(folder)

    def start(self, request: dict[str, Any], image_size: int) -> list[int]:
        if self._rank == 0:
            self._clean()
        done = {number for index in self._indexes() for number in self._finished(index, request)}
        return [number for number in range(self._rank, len(self._texts), self._ranks) if number not in done]

    def _clean(self) -> None:
        """Remove what is to be replaced, and what a killed process left."""
        for index in self._indexes():
            for line in _lines(index) if self._overwrite else ():
                for name in line.get("files", []):
                    (self._folder / name).unlink(missing_ok=True)
            if self._overwrite:
                index.unlink()
            else:
                os.truncate(index, sum(map(len, _complete_lines(index))))
        for leftover in self._folder.glob(".[0-9]*-[0-9]*.png.*"):
            leftover.unlink(missing_ok=True)

    def _finished(self, index: Path, request: dict[str, Any]) -> Iterator[int]:
        """The numbers of the texts in an index. Raises UserError if they were generated with another request."""
        for line in _lines(index):
            number = _number(index, line)
            expected = {**request, "text": self._texts[number] if number < len(self._texts) else None}
            for key in [key for key in expected if key not in _NOT_COMPARED - {"text"}]:
                if line.get(key) != expected[key]:
                    raise UserError(
                        f"--resume: text {number + 1} of {printable(index)} was generated with {key} "
                        f"{line.get(key)!r:.80}, this request has {expected[key]!r:.80}"
                    )
            yield number

    def write(self, number: int, images: np.ndarray, metadata: dict[str, Any]) -> None:
        files = [f"{number + 1:04}-{sample:02}.png" for sample in range(1, len(images) + 1)]
        metadata = {**metadata, "files": files}
        for sample, pixels in enumerate(to_uint8(images)):
            data = encode_image(Image.fromarray(pixels), "PNG", of_image(metadata, sample))
            write_atomically(self._folder / files[sample], data)
        with os_errors(self._index), self._index.open("a", encoding="utf-8") as index:
            index.write(to_json(metadata) + "\n")

    def finish(self) -> None:
        pass

    def _indexes(self) -> list[Path]:
        return sorted(self._folder.glob("index*.jsonl"))


def _number(index: Path, line: dict) -> int:
    try:
        return int(line["files"][0].partition("-")[0]) - 1
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise UserError(f"{printable(index)}: a line has no files; `vilg generate` did not write it") from None


def _complete_lines(index: Path) -> Iterator[bytes]:
    """The lines of an index without the last one if a killed process did not finish it."""
    with os_errors(index), index.open("rb") as opened:
        for line in opened:
            if line.endswith(b"\n"):
                yield line


def _lines(index: Path) -> Iterator[dict]:
    """The complete lines, parsed. Raises UserError."""
    for number, line in enumerate(_complete_lines(index), start=1):
        try:
            yield json.loads(line)
        except ValueError:
            raise UserError(f"{printable(index)}: line {number} is not JSON") from None


def _check_writable(folder: Path) -> None:
    """Create the folder, and a file in it."""
    probe = folder / f".vilg-{id(folder)}"
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"")
        finally:
            probe.unlink(missing_ok=True)
