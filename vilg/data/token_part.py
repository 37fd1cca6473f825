"""One file of token shards: codes and caption tokens of up to some thousand images, as safetensors.

    codes          [N, crops, n]  of every crop of every image, in raster order
    words          [W]            token ids of all captions, without BOT, EOT and padding
    caption_edges  [C + 1]        caption c is words[caption_edges[c] : caption_edges[c + 1]]
    image_edges    [N + 1]        image i has captions image_edges[i] to image_edges[i + 1]
    names          [B]            SHARD:KEY of all images, in UTF-8
    name_edges     [N + 1]        likewise

Ids are uint16 if there are at most 65,536 of them, otherwise uint32. The header has `about`, a JSON object with the
SHA-256 of the arrays.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from vilg.errors import UserError
from vilg.files import write_atomically

_ABOUT = "vilg"


@dataclass(frozen=True)
class Tokens:
    """The tokens of an image: codes int [crops, n], and the token ids of each of its captions."""

    name: str
    codes: np.ndarray
    captions: list[list[int]]


def pack(images: list[Tokens], shape: tuple[int, int], codes: int, vocabulary: int) -> dict[str, np.ndarray]:
    """The arrays of a file. shape: (crops, n). codes, vocabulary: number of distinct ids of each kind."""
    captions = [words for image in images for words in image.captions]
    names = [image.name.encode() for image in images]
    return {
        "codes": _ids(np.array([image.codes for image in images]).reshape(-1, *shape), codes),
        "words": _ids([word for words in captions for word in words], vocabulary),
        "caption_edges": _edges(map(len, captions)),
        "image_edges": _edges(len(image.captions) for image in images),
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_edges": _edges(map(len, names)),
    }


def _ids(ids, count: int) -> np.ndarray:
    ids = np.asarray(ids, dtype=np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < count:
        raise ValueError(f"ids from {ids.min()} to {ids.max()} of a vocabulary of {count}")
    return ids.astype(np.uint16 if count <= 2**16 else np.uint32)


def _edges(lengths) -> np.ndarray:
    return np.cumsum([0, *lengths]).astype(np.uint32)


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    result = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        result.update(f"{name} {values.dtype} {values.shape}".encode())
        result.update(np.ascontiguousarray(values).data)
    return result.hexdigest()


def write_part(file: Path, arrays: dict[str, np.ndarray], description: dict) -> None:
    """Publish a file with its metadata: `description` and the SHA-256 of the arrays."""
    metadata = {**description, "sha256": digest(arrays)}
    write_atomically(file, save(arrays, {_ABOUT: json.dumps(metadata, ensure_ascii=False)}))


class TokenPart:
    """A memory-mapped file. Only requested data is read. Raises UserError if it is not a file of token shards."""

    def __init__(self, file: Path):
        try:
            self._file = safe_open(file, "numpy")
            self.metadata = json.loads(self._file.metadata()[_ABOUT])
            self.crops = self._file.get_slice("codes").get_shape()[1]
        except Exception as error:  # safetensors has its own exceptions, and other files can lack anything
            raise UserError(f"{file}: not a file of token shards, or damaged ({error})") from None

    def name(self, image: int) -> str:
        return self._file.get_slice("names")[self._between("name_edges", image)].tobytes().decode()

    def codes(self, image: int, crop: int) -> np.ndarray:
        """uint [n]."""
        return self._file.get_slice("codes")[image, crop]

    def captions(self, image: int) -> range:
        """Indices of the captions of an image."""
        between = self._between("image_edges", image)
        return range(between.start, between.stop)

    def token_ids(self, caption: int) -> np.ndarray:
        """uint [m]."""
        return self._file.get_slice("words")[self._between("caption_edges", caption)]

    def digest(self) -> str:
        """The digest of all arrays, which are read for it."""
        names = self._file.keys()  # of safetensors, not of a dict
        return digest({name: self._file.get_tensor(name) for name in names})

    def _between(self, edges: str, number: int) -> slice:
        start, stop = self._file.get_slice(edges)[number : number + 2]
        return slice(int(start), int(stop))
