"""The dVAE of OpenAI's DALL-E: two files, an encoder and a decoder, each a pickled module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilg import config
from vilg.errors import SettingsError, UserError
from vilg.image.dvae import DVAE
from vilg.image.importing import fitting, torch_files
from vilg.image.importing.pickles import Record

ENCODER, DECODER = "dall_e.encoder.Encoder", "dall_e.decoder.Decoder"
CLASSES = {
    ENCODER,
    DECODER,
    "dall_e.encoder.EncoderBlock",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
    "torch.nn.modules.linear.Identity",
    "torch.device",
}


def import_dvae(encoder: Path, decoder: Path) -> DVAE:
    """The dVAE with these two modules. Raises UserError."""
    is_known = CLASSES.__contains__
    with torch_files.opened(encoder, is_known) as encoding, torch_files.opened(decoder, is_known) as decoding:
        encoding, decoding = _Module(encoder, encoding), _Module(decoder, decoding)
        settings = _settings(encoding, decoding)
        model = DVAE(settings)
        first = {"input.weight": (settings.code_dim, settings.codebook_size, 1, 1), "input.bias": (settings.code_dim,)}
        weights = {f"encoder.{name}": array for name, array in _fit(encoding, fitting.shapes(model.encoder)).items()}
        weights |= {
            f"decoder.{name}": array for name, array in _fit(decoding, fitting.shapes(model.decoder) | first).items()
        }
    rows = weights.pop("decoder.input.weight")[:, :, 0, 0].T
    model.set_state_dict(weights | {"codebook": rows + weights.pop("decoder.input.bias")})
    model.eval()
    return model


@dataclass(frozen=True)
class _Module:
    """A pickled module: `_parameters` and `_modules` of torch.nn.Module, and its own attributes."""

    file: Path
    record: Any

    def check(self, kind: str) -> None:
        actual = self.record.kind if isinstance(self.record, Record) else "no module"
        if actual != kind:
            hint = "; are the two files in the wrong order?" if actual in (ENCODER, DECODER) else ""
            raise UserError(f"{self.file}: holds {actual} where {kind} should be{hint}")

    def attribute(self, name: str, kind: type) -> Any:
        """An attribute of type `kind`. Raises UserError if there is none."""
        state = self.record.state if isinstance(self.record, Record) else None
        if not isinstance(state, dict) or type(state.get(name)) is not kind:
            raise UserError(f"{self.file}: a module without {name}")
        return state[name]

    def weights(self) -> dict[str, object]:
        """All parameters by their dotted names. Raises UserError if the modules do not form a tree."""
        arrays: dict[str, object] = {}
        waiting, visited = [("", self)], set()
        while waiting:
            prefix, module = waiting.pop()
            if id(module.record) in visited:
                raise UserError(f"{self.file}: a module in two places")
            visited.add(id(module.record))
            arrays |= {f"{prefix}{name}": value for name, value in module.attribute("_parameters", dict).items()}
            waiting += [(f"{prefix}{name}.", module.below(name)) for name in module.attribute("_modules", dict)]
        return arrays

    def below(self, name: str) -> "_Module":
        return _Module(self.file, self.attribute("_modules", dict).get(name))


def _settings(encoder: _Module, decoder: _Module) -> config.DVAE:
    """Our settings, from the attributes of the modules."""
    encoder.check(ENCODER)
    decoder.check(DECODER)
    for name in ("n_hid", "n_blk_per_group", "vocab_size"):
        value, other = encoder.attribute(name, int), decoder.attribute(name, int)
        if value != other:
            raise UserError(f"{decoder.file}: its {name} is {other}, that of {encoder.file} is {value}")
    groups = [name for name in encoder.below("blocks").attribute("_modules", dict) if str(name).startswith("group_")]
    try:
        return config.DVAE(
            downsamplings=len(groups) - 1,
            base_channels=encoder.attribute("n_hid", int),
            residual_blocks=encoder.attribute("n_blk_per_group", int),
            codebook_size=encoder.attribute("vocab_size", int),
            code_dim=decoder.attribute("n_init", int),
        )
    except SettingsError as error:
        raise UserError(f"{encoder.file}: {error}") from None


def _fit(module: _Module, ours: fitting.Shapes) -> dict[str, Any]:
    """The weights of a module under our names. dall_e names them blocks.LAYER.w and blocks.LAYER.b."""
    published = {}
    for name in ours:
        layer, weight = name.rsplit(".", 1)
        published[f"blocks.{layer}.{weight[0]}"] = name
    expected = {name: ours[own] for name, own in published.items()}
    arrays = fitting.arrays(module.file, module.weights(), expected, "a dVAE of its sizes")
    return {own: arrays[name] for name, own in published.items()}
