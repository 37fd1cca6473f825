"""What every image tokenizer can do, whatever its kind: images <-> grids of code indices."""

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

from vilg.config import original_names
from vilg.errors import UserError


def in_fp32(method: Callable) -> Callable:
    """A method of one tensor that computes in fp32 wherever it is called: also in the autocast of a model in 16 bits."""

    @wraps(method)
    def computed(self, given: paddle.Tensor) -> paddle.Tensor:
        with paddle.amp.auto_cast(False):
            return method(self, given.astype("float32") if given.is_floating_point() else given)

    return computed


class ImageTokenizer(nn.Layer):
    """The interface of VQ-VAE, VQGAN and dVAE (section 3.1.1 of the paper). Always fp32.

    A subclass sets `kind`, the name under which `vilg.image.load` finds it, and `settings`, the dataclass it is built
    from.
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
        """How many pixels a side of one code covers."""

    @abstractmethod
    def encode_indices(self, images: paddle.Tensor) -> paddle.Tensor:
        """`encode` for sides that `factor` divides."""

    @abstractmethod
    def embed(self, indices: paddle.Tensor) -> paddle.Tensor:
        """Code indices [B, h, w] -> z_emb [B, h, w, d]. A subclass makes it `in_fp32`."""

    @abstractmethod
    def decode_embeddings(self, z_emb: paddle.Tensor) -> paddle.Tensor:
        """z_emb [B, h, w, d] -> images [B, 3, H, W] in [0, 1], with gradients (section 3.1.3 trains through it).
        A subclass makes it `in_fp32`."""

    @in_fp32
    def encode(self, images: paddle.Tensor) -> paddle.Tensor:
        """Images [B, 3, H, W] in [0, 1] -> code indices, int64 [B, h, w]. UserError if `factor` does not divide a side:
        the convolutions would leave the rest out."""
        height, width = images.shape[2:]
        if height % self.factor or width % self.factor:
            raise UserError(
                f"{height} x {width} pixels: this {self.kind} makes one code of {self.factor} x {self.factor}"
            )
        return self.encode_indices(images)

    def decode(self, indices: paddle.Tensor) -> paddle.Tensor:
        """Code indices [B, h, w] -> images [B, 3, H, W] in [0, 1]."""
        return self.decode_embeddings(self.embed(indices))

    def grid(self, size: int) -> tuple[int, int]:
        """(h, w) for a square image of `size` pixels; an error if `factor` does not divide it."""
        if size <= 0 or size % self.factor:
            raise UserError(f"data.image_size={size}: this {self.kind} makes one code of {self.factor} pixels a side")
        return size // self.factor, size // self.factor

    def fingerprint(self) -> str:
        """SHA-256 of kind, settings and weights: equal for tokenizers that give equal codes."""
        settings = original_names(self.kind, asdict(self.settings))
        digest = hashlib.sha256(json.dumps([self.kind, settings], sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write `config.json` and `weights.safetensors`, which `vilg.image.load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"kind": self.kind, "settings": asdict(self.settings)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({name: value.numpy() for name, value in self.state_dict().items()}, folder / "weights.safetensors")

    def load_weights(self, file: Path) -> None:
        """Read the weights that `save` wrote; names or shapes that do not fit are an error and change nothing."""
        try:
            weights = load_file(file)
        except Exception as error:  # safetensors raises its own type for a damaged file and OSError for a missing one
            raise UserError(f"{file}: cannot be read ({error})") from error
        own = {name: list(value.shape) for name, value in self.state_dict().items()}
        if own != {name: list(value.shape) for name, value in weights.items()}:
            raise UserError(f"{file}: these are not the weights that config.json beside it describes")
        self.set_state_dict(weights)
