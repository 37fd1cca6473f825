"""Files that keep features of images, whose computation takes minutes."""

import io
import logging
import zipfile
from pathlib import Path

import numpy as np

from vilg.files import write_atomically

log = logging.getLogger(__name__)


def read_features(file: Path, key: str) -> np.ndarray | None:
    """The features that `write_features` wrote with `key`; None if there are none, or if they are of something else."""
    try:
        with np.load(file) as stored:
            return stored["features"] if str(stored["key"]) == key else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        log.warning("%s: not a file of features; it is written again", file)
        return None


def write_features(file: Path, key: str, features: np.ndarray) -> None:
    """Raises UserError if the file cannot be written."""
    buffer = io.BytesIO()
    np.savez(buffer, key=key, features=features)
    write_atomically(file, buffer.getvalue())
