"""VQGAN checkpoints of taming-transformers: VQModel and GumbelVQ."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import yaml
from omegaconf import MISSING

from vilg import config
from vilg.errors import SettingsError, UserError, os_reason
from vilg.image.importing import fitting, torch_files
from vilg.image.vqgan import VQGAN

QUANTIZERS = {"vq": "nearest", "gumbel": "gumbel"}
TARGETS = {"taming.models.vqgan.VQModel": "vq", "taming.models.vqgan.GumbelVQ": "gumbel"}

# What checkpoints contain besides weights, by package or class. It is ignored.
PACKAGES = ("pytorch_lightning.", "lightning.", "omegaconf.", "torch.optim.", "numpy.")
CLASSES = {
    "argparse.Namespace",
    "torch.device",
    "torch.Size",
    "collections.defaultdict",
    "pathlib.PosixPath",
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.long",
    "builtins.float",
    "builtins.str",
    "builtins.unicode",
    "_codecs.encode",
}

# Parameters of taming's classes that do not affect the computation.
TRAINING = {
    "lossconfig",
    "temperature_scheduler_config",
    "kl_weight",
    "ckpt_path",
    "ignore_keys",
    "image_key",
    "monitor",
    "colorize_nlabels",
    "sane_index_shape",
}


@dataclass
class DDConfig:
    """The parameters of taming's Encoder and Decoder."""

    z_channels: int = MISSING
    resolution: int = MISSING
    ch: int = MISSING
    ch_mult: list[int] = MISSING
    num_res_blocks: int = MISSING
    attn_resolutions: list[int] = MISSING
    in_channels: int = 3
    out_ch: int = 3
    double_z: bool = False
    resamp_with_conv: bool = True
    dropout: float = 0.0  # in training only

    def __post_init__(self):
        for name, value in (("in_channels", 3), ("out_ch", 3), ("double_z", False), ("resamp_with_conv", True)):
            config.require(
                getattr(self, name) == value,
                f"ddconfig.{name}={getattr(self, name)}: a VQGAN here has {str(value).lower()}",
            )


@dataclass
class Parameters:
    """The parameters of taming's VQModel and GumbelVQ."""

    embed_dim: int = MISSING
    n_embed: int = MISSING
    ddconfig: DDConfig = field(default_factory=DDConfig)
    remap: Any = None

    def __post_init__(self):
        config.require(self.remap is None, f"remap={self.remap}: a VQGAN here numbers its codes as they are")


def import_vqgan(checkpoint: Path, settings_file: Path) -> VQGAN:
    """The VQGAN with the weights of a checkpoint and the sizes of `settings_file`.

    The settings are taming's YAML (`model.target` and `model.params`), or only the parameters in YAML or JSON together
    with `kind` (vq | gumbel). The weights are under `state_dict` or at the top level; those of losses (`loss.*`) are
    ignored. Raises UserError.
    """
    settings = read_settings(settings_file)
    with torch_files.opened(checkpoint, _is_training_state) as tree:
        weights = tree.get("state_dict", tree) if isinstance(tree, dict) else None
        if not isinstance(weights, dict):
            raise UserError(f"{checkpoint}: holds no state_dict")
        model = VQGAN(settings)
        ours = {_published(name, settings.quantizer): name for name in model.state_dict()}
        expected = dict(zip(ours, fitting.shapes(model).values(), strict=True))
        if settings.quantizer == "gumbel":  # a 1 x 1 convolution there, a linear layer here
            expected["quantize.proj.weight"] = (settings.codebook_size, settings.code_dim, 1, 1)
        model_weights = {name: value for name, value in weights.items() if not str(name).startswith("loss.")}
        arrays = fitting.arrays(checkpoint, model_weights, expected, str(settings_file))
    if settings.quantizer == "gumbel":
        arrays["quantize.proj.weight"] = np.ascontiguousarray(arrays["quantize.proj.weight"][:, :, 0, 0].T)
    model.set_state_dict({ours[name]: paddle.to_tensor(array) for name, array in arrays.items()})
    model.eval()
    return model


def _is_training_state(name: str) -> bool:
    return name in CLASSES or name.startswith(PACKAGES)


def _published(name: str, quantizer: str) -> str:
    """taming's name of one of our weights."""
    table = {"gumbel": "quantize.embed.weight", "nearest": "quantize.embedding.weight"}[quantizer]
    return table if name == "quantizer.codebook" else name.replace("quantizer.", "quantize.")


def read_settings(file: Path) -> config.VQGAN:
    """Our settings for taming's. Raises UserError for keys that are missing, unknown or of the wrong type."""
    kind, tree = _parameters(file, _read(file))
    tree = {name: value for name, value in tree.items() if name not in TRAINING}
    try:
        theirs = config.from_tree(Parameters, tree, str(file))
        return config.VQGAN(
            quantizer=QUANTIZERS[kind],
            base_channels=theirs.ddconfig.ch,
            channel_multipliers=theirs.ddconfig.ch_mult,
            residual_blocks=theirs.ddconfig.num_res_blocks,
            latent_channels=theirs.ddconfig.z_channels,
            attention_factors=[
                2**level
                for level in range(len(theirs.ddconfig.ch_mult))
                if theirs.ddconfig.resolution // 2**level in theirs.ddconfig.attn_resolutions
            ],
            codebook_size=theirs.n_embed,
            code_dim=theirs.embed_dim,
        )
    except SettingsError as error:
        raise SettingsError(str(error) if str(error).startswith(f"{file}:") else f"{file}: {error}") from None


def _read(file: Path) -> dict:
    try:
        text = file.read_text("utf-8")
        tree = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"{file}: {os_reason(error)}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"{file}: not readable ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise SettingsError(f"{file}: settings are `key: value`")
    return tree


def _parameters(file: Path, tree: dict) -> tuple[str, dict]:
    """(kind, parameters) from either form of settings."""
    if "model" not in tree:
        kind = tree.get("kind")
        if kind not in QUANTIZERS:
            raise SettingsError(f"{file}: kind is {kind}, none of {', '.join(QUANTIZERS)}; or is model.target missing?")
        return kind, {name: value for name, value in tree.items() if name != "kind"}
    model = tree["model"] if isinstance(tree["model"], dict) else {}
    target, parameters = model.get("target"), model.get("params")
    if target not in TARGETS:
        raise SettingsError(f"{file}: model.target is {target}, none of {', '.join(TARGETS)}")
    if not isinstance(parameters, dict):
        raise SettingsError(f"{file}: model.params is missing")
    return TARGETS[target], parameters
