"""Merges a settings file and overrides into typed settings, and reads stored settings."""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from vilg.config.image_tokenizers import DVAE, VQGAN, VQVAE
from vilg.config.renamed import refuse_old_names, translate
from vilg.config.validation import require
from vilg.errors import SettingsError
from vilg.files import write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = TypeVar("Schema")
# `section=value` is short for `section.key=value`. Earlier versions stored resume as one value.
_SHORT_FORMS = {"resume": "checkpoint", "init": "checkpoint"}
_SECTIONS = {VQVAE: "vqvae", VQGAN: "vqgan", DVAE: "dvae"}  # schemas that are stored alone, next to a tokenizer


def resolve(schema: type[Schema], file: str | Path | None = None, overrides: Sequence[str] = ()) -> Schema:
    """Settings of type `schema`: its defaults, replaced by the YAML file, replaced by the `key=value` overrides.

    Raises SettingsError, one line long, for a missing or broken file, an unknown key (with the nearest known one), a
    renamed key (with the new one), a value of the wrong type, or a value that a dataclass refuses.
    """
    merged = OmegaConf.structured(schema)
    if file is not None:
        merged = _merge_user_input(schema, merged, _read_yaml(Path(file)), str(file))
    for override in overrides:
        merged = _merge_user_input(schema, merged, _read_override(override), override)
    return _to_object(schema, merged)


def from_tree(schema: type[Schema], tree: dict, origin: str) -> Schema:
    """Settings from stored nested dicts that `as_tree` returned, perhaps of an earlier version with other key names.

    `origin` names the dicts in errors. Raises SettingsError.
    """
    translated = translate(tree, _SECTIONS.get(schema, ""))
    merged = _merge(schema, OmegaConf.structured(schema), OmegaConf.create(_expand_short_forms(translated)), origin)
    return _to_object(schema, merged, f"{origin}: ")


def as_tree(settings: "DataclassInstance") -> dict:
    """Settings as nested dicts, lists and scalars, for JSON and YAML."""
    return dataclasses.asdict(settings)


def save(settings: "DataclassInstance", file: Path) -> None:
    """Write all settings as YAML. `resolve` reads the file back to equal settings."""
    write_atomically(file, OmegaConf.to_yaml(OmegaConf.structured(settings)).encode())


def _to_object(schema: type[Schema], merged: DictConfig, origin: str = "") -> Schema:
    """The dataclasses of merged settings. ~ at the beginning of a value is the user's home folder."""
    try:
        tree = OmegaConf.create(cast(dict, _expand_home(OmegaConf.to_container(merged, resolve=True))))
        return cast(Schema, OmegaConf.to_object(OmegaConf.merge(merged, tree)))
    except MissingMandatoryValue as error:
        raise SettingsError(f"{origin}{error.full_key} is missing") from None
    except OmegaConfBaseException as error:  # an interpolation of a key that does not exist
        raise SettingsError(f"{origin}{error.full_key}: {str(error.msg or error).splitlines()[0]}") from None


def _expand_home(tree: object) -> object:
    if isinstance(tree, dict):
        return {key: _expand_home(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_expand_home(value) for value in tree]
    return os.path.expanduser(tree) if isinstance(tree, str) and tree.startswith("~") else tree


def _read_yaml(file: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(file)
    except FileNotFoundError:
        raise SettingsError(f"{file}: no such file") from None
    except Exception as error:  # a YAML error has many classes, and its message many lines
        raise SettingsError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, DictConfig):
        raise SettingsError(f"{file}: a settings file holds `section: {{key: value}}`")
    return tree


def _read_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    require(bool(equals and key), f"{override}: an override is written key=value")
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:
        raise SettingsError(f"{override}: {' '.join(str(error).split())}") from None


def _merge_user_input(schema: type, base: DictConfig, tree: DictConfig, origin: str) -> DictConfig:
    plain = OmegaConf.to_container(tree)
    if isinstance(plain, dict):
        refuse_old_names(plain, origin)
        tree = OmegaConf.create(_expand_short_forms(plain))
    return _merge(schema, base, tree, origin)


def _expand_short_forms(tree: dict) -> dict:
    return {
        key: value if key not in _SHORT_FORMS or isinstance(value, dict | list) else {_SHORT_FORMS[key]: value}
        for key, value in tree.items()
    }


def _merge(schema: type, base: DictConfig, tree: DictConfig, origin: str) -> DictConfig:
    try:
        return cast(DictConfig, OmegaConf.merge(base, tree))
    except ConfigKeyError as error:
        raise SettingsError(f"{origin}: unknown key {error.full_key}{_nearest(schema, error.full_key or '')}") from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        key = error.full_key or ", ".join(map(str, tree))  # a section given a scalar has no full key
        raise SettingsError(f"{origin}: {key}: {reason}") from None


def _nearest(schema: type, key: str) -> str:
    near = difflib.get_close_matches(key, known_keys(schema), 1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """All dotted keys of `schema`, including the names of sections."""
    keys = []
    for entry in dataclasses.fields(schema):
        keys.append(prefix + entry.name)
        if dataclasses.is_dataclass(entry.type):
            keys += known_keys(cast(type, entry.type), f"{prefix}{entry.name}.")
    return keys
