"""Runs an export with Paddle Inference, without any training code."""

import threading
from functools import partial
from pathlib import Path

import numpy as np
import paddle

from vilg.arrays import to_numpy
from vilg.attention import operator
from vilg.attention.cache import KVCache
from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.config.distributed import DTYPES
from vilg.errors import UserError
from vilg.export import manifest
from vilg.export.files import ExportFiles
from vilg.export.program import Program, Runtime
from vilg.export.weights import SharedWeights
from vilg.generation.decoding_model import unique_sources
from vilg.generation.pipeline import Pipeline
from vilg.text.tokenizer import WordPiece


class Predictor(Pipeline):
    """generate(texts, n, seed), caption(images) and score(images, texts) with an export; see Pipeline.

    device: "cpu", "gpu" or "gpu:N"; by default that of Paddle. threads: of the math library on a CPU, by default
    OMP_NUM_THREADS. Threads that share a predictor wait for each other; `clone` creates one that works at the same
    time. Raises UserError if the folder is not an export, if a file is missing or damaged, or if the required operator
    is not available.
    """

    def __init__(self, folder: str | Path, device: str | None = None, threads: int | None = None):
        folder, self.lock = Path(folder), threading.RLock()
        runtime = Runtime(device or paddle.get_device(), threads)
        self.origin, self.manifest = str(folder), manifest.read(folder)
        files = ExportFiles(folder, self.manifest)
        self.checkpoint, self.caption_dropout = self.manifest.checkpoint, self.manifest.drop_caption
        _check_device(folder, self.manifest, runtime.device.partition(":")[0])
        self.image_size = self.manifest.sizes.image_size
        self.text_tokenizer = WordPiece(folder / manifest.VOCABULARY)
        written_by = self.manifest.versions["paddle"]
        weights = SharedWeights(partial(files.file, manifest.WEIGHTS), runtime.place)
        self._programs = {
            name: Program(
                folder / name,
                written_by,
                partial(files.program, name),
                runtime,
                partial(weights, self.manifest.weights[name]) if name in manifest.OF_TRANSFORMER else None,
            )
            for name in manifest.PROGRAMS
        }
        self._dtype = getattr(paddle, DTYPES[self.manifest.precision])
        self.decoding_model = ProgramDecodingModel(self.manifest.sizes, self._programs, self._dtype)

    def clone(self) -> "Predictor":
        """A predictor for another thread. It shares the weights of the transformer."""
        twin = object.__new__(Predictor)
        twin.__dict__.update(self.__dict__)
        twin.lock = threading.RLock()
        twin._programs = {name: program.clone() for name, program in self._programs.items()}
        twin.decoding_model = ProgramDecodingModel(self.manifest.sizes, twin._programs, self._dtype)
        return twin

    def encode(self, images: np.ndarray) -> np.ndarray:
        return to_numpy(self._programs[manifest.ENCODE](images)[0])

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return to_numpy(self._programs[manifest.DECODE](codes)[0])


def _check_device(folder: Path, exported: manifest.Manifest, device: str) -> None:
    """Raise UserError if the programs cannot run on this kind of device, "cpu" or "gpu"."""
    if exported.operator and (missing := operator.load()):
        raise UserError(
            f"{folder}: needs the compiled attention operator ({missing}); `vilg export --portable` makes one that "
            "does not"
        )
    # The layouts in the programs are for the operator's kernel on one kind of device.
    if exported.operator and exported.device not in (None, device):
        raise UserError(
            f"{folder}: was exported for a {exported.device} and cannot run on a {device}; export the checkpoint "
            "there, or with `vilg export --portable`"
        )
    if exported.precision != "fp32" and device == "cpu" and (missing := operator.why_no_half_kernels()):
        raise UserError(f"{folder}: needs kernels for {exported.precision} on a CPU, which are missing: {missing}")


class ProgramDecodingModel:
    """The DecodingModel of exported programs. dtype: of keys and values."""

    def __init__(self, sizes: manifest.Sizes, programs: dict[str, Program], dtype: paddle.dtype = paddle.float32):
        self.sizes, self.programs, self.dtype = sizes, programs, dtype
        self.text_length, self.grid, self.vocab_size = sizes.text_length, sizes.grid, sizes.vocabulary

    def prefill(self, direction: str, source: np.ndarray, samples: int = 1) -> "ProgramDecodingState":
        return ProgramDecodingState(self, direction, source, samples)


class ProgramDecodingState:
    """The DecodingState of exported programs.

    The prefill program encodes the source, and the step program is called for each token. This object holds keys and
    values between the calls.
    """

    def __init__(self, model: ProgramDecodingModel, direction: str, source: np.ndarray, samples: int):
        sizes = model.sizes
        self._step, self._samples, self._place = model.programs[manifest.step(direction)], samples, 0
        rows, spread = unique_sources(source)
        self._first, self._sources = None, list(map(spread, model.programs[manifest.prefill(direction)](rows)))
        if direction == TEXT_TO_IMAGE:
            self._first, *self._sources = self._sources
        self._kept = [
            KVCache(
                sizes.layout(direction, pattern),
                [2 * sizes.patterns.count(pattern), len(source) * samples, sizes.heads, sizes.head_size],
                model.dtype,
            )
            for pattern in sizes.windows
        ]

    @property
    def cache_elements(self) -> int:
        """Number of elements in the caches."""
        return sum(source.size for source in self._sources) + sum(cache.rows.size for cache in self._kept)

    def first(self) -> np.ndarray:
        assert self._first is not None, "only text_to_image has a first code"
        return to_numpy(self._first).repeat(self._samples, axis=0)

    def step(self, ids: np.ndarray) -> np.ndarray:
        windows, owns = zip(*(cache.window() for cache in self._kept))
        logits, *new = self._step(
            ids, np.array([self._place]), *windows, *(np.array([own]) for own in owns), *self._sources
        )
        for cache, rows in zip(self._kept, new):
            cache.put(rows)
            cache.advance()
        self._place += 1
        return to_numpy(logits)

    def reorder(self, rows: np.ndarray) -> None:
        for cache in self._kept:
            cache.reorder(paddle.to_tensor(rows), axis=2)
