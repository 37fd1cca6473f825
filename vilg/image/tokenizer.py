"""The interface of all image tokenizers: images to grids of code indices and back."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path

import paddle
from paddle import nn
from safetensors.numpy import load_file, save_file

from vilg.arrays import to_numpy
from vilg.config import original_names
from vilg.errors import UserError


def in_fp32(method: Callable) -> Callable:
    """Decorator for a method with one tensor argument: it computes in fp32, also within autocast of a 16-bit model."""

    @wraps(method)
    def call_in_fp32(self, x: paddle.Tensor) -> paddle.Tensor:
        with paddle.amp.auto_cast(False):
            return method(self, x.astype("float32") if x.is_floating_point() else x)

    return call_in_fp32


class ImageTokenizer(nn.Layer):
    """The interface of VQ-VAE, VQGAN and dVAE (section 3.1.1 of the paper). Always in fp32.

    A subclass defines `kind`, the name for `vilg.image.load`, and is built from the dataclass `settings`.
    """

    kind: str

    def __init__(self, settings):
        super().__init__()
        self.settings = settings

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """The number of codes."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Side in pixels of the area that one code represents."""

    @abstractmethod
    def encode_indices(self, images: paddle.Tensor) -> paddle.Tensor:
        """The implementation of `encode` for sides that are multiples of `factor`."""

    @abstractmethod
    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        """Code indices [B, h, w] -> z_emb [B, h, w, d]. Subclasses decorate it with `in_fp32`."""

    @abstractmethod
    def decode_embeddings(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        """z_emb [B, h, w, d] -> images [B, 3, H, W] in [0, 1], differentiable (section 3.1.3 trains through it).
        Subclasses decorate it with `in_fp32`.
        """

    @in_fp32
    def encode(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> code indices, int64 [B, h, w].

        Raises UserError if a side is not a multiple of `factor`, since convolutions would ignore the rest.
        """
        height, width = images.shape[2:]
        if height % self.factor or width % self.factor:
            raise UserError(f"{height} x {width} pixels: this {self.kind} needs multiples of {self.factor}")
        return self.encode_indices(images)

    def decode(self, indices: paddle.Tensor) -> paddle.Tensor:
        """Code indices [B, h, w] -> images [B, 3, H, W] in [0, 1]."""
        return self.decode_embeddings(self.embed(indices))

    def grid(self, size: int) -> tuple[int, int]:
        """(h, w) for a square image of `size` pixels. Raises UserError if `size` is not a multiple of `factor`."""
        if size <= 0 or size % self.factor:
            raise UserError(f"data.image_size={size}: this {self.kind} needs a multiple of {self.factor} pixels")
        return size // self.factor, size // self.factor

    def fingerprint(self) -> str:
        """SHA-256 of kind, settings and weights. Tokenizers that give equal codes have equal fingerprints."""
        settings = original_names(self.kind, asdict(self.settings))
        digest = hashlib.sha256(json.dumps([self.kind, settings], sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(to_numpy(value).tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `config.json` and `weights.safetensors`, which `vilg.image.load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"kind": self.kind, "settings": asdict(self.settings)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({name: to_numpy(value) for name, value in self.state_dict().items()}, folder / "weights.safetensors")

    def load_weights(self, file: Path) -> None:
        """Load weights that `save` wrote. Raises UserError, and changes nothing, if names or shapes do not fit."""
        try:
            weights = load_file(file)
        except Exception as error:  # safetensors raises its own type for a damaged file and OSError for a missing one
            raise UserError(f"{file}: cannot be read ({error})") from error
        own = {name: list(value.shape) for name, value in self.state_dict().items()}
        if own != {name: list(value.shape) for name, value in weights.items()}:
            raise UserError(f"{file}: these are not the weights for the config.json next to it")
        self.set_state_dict({name: paddle.to_tensor(value) for name, value in weights.items()})
