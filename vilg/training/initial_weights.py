"""Starts a run from the weights of a checkpoint (`init`), with a new optimizer, schedule and step, and other data.

Without `init.partial` everything has to fit. With it, what depends on the tokenizers or on the length of the sequence
is adapted, what the checkpoint lacks starts anew, and the log says what.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from vilg import checkpoint, config
from vilg.arrays import to_numpy
from vilg.checkpoint import CheckpointReader, Location
from vilg.config import require
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.export import manifest as exports
from vilg.generation.from_checkpoint import find_path, newest_checkpoint_in_run, weight_names
from vilg.model.transformer import Transformer
from vilg.text.sequence import boi_id, padding
from vilg.text.tokenizer import TextTokenizer, load_tokenizer

log = logging.getLogger(__name__)

Read = Callable[[str], np.ndarray]  # name of a weight -> its value in the checkpoint

_WORDS, _POSITIONS = "embed_text.words.weight", "embed_text.positions"
_TEXT_HEAD, _TEXT_BIAS = "text_head.weight", "text_head.bias"
_ROWS, _COLUMNS = "embed_image.rows", "embed_image.columns"
_CODES = ("embed_image.codes.weight", "image_head.weight", "image_head.bias")  # meaningless with another codebook


def load_initial_weights(
    model: Transformer,
    settings: config.Pretraining,
    tokenizer: TextTokenizer,
    fingerprints: dict[str, str],
    world: World,
) -> None:
    """Load the weights of `settings.init` into `model`. fingerprints: {"text": .., "image": ..} of the tokenizers. All
    ranks call this.

    Raises UserError if they do not fit. It says what differs.
    """
    with world.fail_together():
        source, is_run = locate(settings.init.checkpoint)
    if is_run:
        assert isinstance(source, Path)
        source = newest_checkpoint_in_run(source, world)
    else:
        checkpoint.verify(source, world)
    with world.fail_together():
        _load(model, settings, tokenizer, fingerprints, source, log.info if world.is_rank_zero else log.debug)


def _load(
    model: Transformer,
    settings: config.Pretraining,
    tokenizer: TextTokenizer,
    fingerprints: dict[str, str],
    source: Location,
    say: Callable[..., None],
) -> None:
    reader, own = CheckpointReader(source), _shapes(model)
    stored = config.from_tree(config.Pretraining, reader.manifest.settings, f"init={source}: not of a pre-training run")
    names = weight_names(reader.shapes, settings.init.raw_weights)
    shapes = {name: reader.shapes[at] for name, at in names.items()}
    _check_model(source, stored.model, settings.model)
    others = {kind for kind, value in fingerprints.items() if reader.manifest.tokenizers.get(kind) != value}
    differences = [f"another {kind} tokenizer" for kind in sorted(others)] + _other_shapes(own, shapes)
    if differences and not settings.init.partial:
        raise UserError(
            f"init={source}: does not fit: {'; '.join(differences)}; with init.partial=true, these parts are adapted "
            "or start anew"
        )

    def read(name: str) -> np.ndarray:
        return reader.tensor(names[name])

    old = tokenizer
    if "text" in others:
        old = _stored_vocabulary(source, stored, settings, reader.manifest.tokenizers["text"])
    adapted = _adapt(model, shapes, read, old, tokenizer, stored.text.length, "image" in others)
    copied = [name for name in own if name not in adapted]
    for name, parameter in model.named_parameters():
        value = read(name) if name in copied else adapted[name][0]
        if value is not None:
            parameter.set_value(value)
    for name, (_, what) in sorted(adapted.items()):
        say("init: %s %s", name, what)
    for name in sorted(shapes.keys() - own.keys()):
        say("init: %s of the checkpoint is not used", name)
    say("init: %d of %d tensors are copied from %s", len(copied), len(own), source)


def locate(place: str) -> tuple[Location, bool]:
    """What `init` names: (a checkpoint, perhaps that of an export, or the folder of a run; whether it is a run)."""
    folder = checkpoint.location(place)
    if not isinstance(folder, Path):
        return folder, False
    if not folder.exists():
        raise UserError(f"init={place}: no such folder")
    if (folder / exports.VOCABULARY).is_file() and (folder / exports.NAME).is_file():
        origin = checkpoint.location(exports.read(folder).checkpoint)
        if isinstance(origin, Path) and not origin.exists():
            raise UserError(f"init={place}: an export of {origin}, which is no longer there; training needs that")
        return origin, False
    return folder, (folder / "settings.yaml").is_file()


def _shapes(model: Transformer) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.named_parameters()}


def _check_model(source: Location, stored: config.Model, settings: config.Model) -> None:
    """Refuse another model, also where all shapes fit."""
    for key in ("layers", "hidden", "heads", "conv_kernel"):
        old, new = getattr(stored, key), getattr(settings, key)
        require(old == new, f"init={source}: another model: model.{key} is {old} there and {new} here")


def _other_shapes(own: dict[str, list[int]], shapes: dict[str, list[int]]) -> list[str]:
    differences = []
    for name in sorted(own.keys() | shapes.keys()):
        if name not in shapes:
            differences.append(f"{name} is missing")
        elif name not in own:
            differences.append(f"{name} is not part of this model")
        elif shapes[name] != own[name]:
            differences.append(f"{name} is {shapes[name]} there and {own[name]} here")
    return differences


def _stored_vocabulary(
    source: Location, stored: config.Pretraining, settings: config.Pretraining, fingerprint: str
) -> TextTokenizer:
    """The vocabulary of the checkpoint, by which words are matched."""
    path = settings.init.vocab or find_path(stored.text.vocab, source)
    try:
        tokenizer = load_tokenizer(replace(stored.text, vocab=path))
    except UserError as error:
        raise UserError(
            f"init={source}: its vocabulary is needed to match words; init.vocab names it ({error})"
        ) from None
    if tokenizer.fingerprint() != fingerprint:
        raise UserError(f"init={source}: {path} is not its vocabulary; init.vocab names it")
    return tokenizer


def _adapt(
    model: Transformer,
    shapes: dict[str, list[int]],
    read: Read,
    old: TextTokenizer,
    new: TextTokenizer,
    old_length: int,
    other_codebook: bool,
) -> dict[str, tuple[np.ndarray | None, str]]:
    """{name: (value, what was done)} of the weights that cannot be copied. value None: they start anew."""
    own, adapted = _shapes(model), dict[str, tuple[np.ndarray | None, str]]()
    adapted |= dict.fromkeys(own.keys() - shapes.keys(), (None, "starts anew: the checkpoint lacks it"))
    if other_codebook:
        adapted |= dict.fromkeys(_CODES, (None, "starts anew: another image tokenizer"))
    own_values = {name: to_numpy(value) for name, value in model.named_parameters()}
    matches = _matching_words(old, new)
    if old is not new or old_length != model.text_length:
        table = own_values[_WORDS].copy()
        before = read(_WORDS)
        table[list(matches)] = before[list(matches.values())]
        table[boi_id(new.vocab_size)] = before[boi_id(old.vocab_size)]
        common = min(old_length, model.text_length)
        table[padding(new.vocab_size, model.text_length)[:common]] = before[
            padding(old.vocab_size, old_length)[:common]
        ]
        what = f"{len(matches)} of {len(new.entries())} words are those of the checkpoint, the others start anew"
        adapted[_WORDS] = (table, what)
    if old is not new:
        head, bias = own_values[_TEXT_HEAD].copy(), own_values[_TEXT_BIAS].copy()
        head[:, list(matches)] = read(_TEXT_HEAD)[:, list(matches.values())]
        bias[list(matches)] = read(_TEXT_BIAS)[list(matches.values())]
        adapted |= {name: (value, "follows the words") for name, value in ((_TEXT_HEAD, head), (_TEXT_BIAS, bias))}
    if old_length != model.text_length:
        what = f"{old_length} positions are now {model.text_length}"
        adapted[_POSITIONS] = (_resize_text_positions(read(_POSITIONS), model.text_length), what)
    for axis, name in ((0, _ROWS), (1, _COLUMNS)):
        if shapes[name] != own[name]:
            value = _interpolate(read(name), axis, own[name][axis])
            adapted[name] = (value, f"interpolated from {shapes[name][axis]} to {own[name][axis]}")
    return adapted


def _matching_words(old: TextTokenizer, new: TextTokenizer) -> dict[int, int]:
    """{id now: id in the checkpoint} of the words that both vocabularies have."""
    before = old.entries()
    return {number: before[word] for word, number in new.entries().items() if word in before}


def _resize_text_positions(positions: np.ndarray, length: int) -> np.ndarray:
    """[T, hidden] -> [length, hidden].

    A word stays where it was, and BOI at the last position. New positions between them get the vector of the last word
    position.
    """
    words, boi = positions[:-1], positions[-1:]
    kept = words[: length - 1]
    return np.concatenate([kept, words[-1:].repeat(length - 1 - len(kept), axis=0), boi])


def _interpolate(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Linear interpolation along `axis` to `size` entries, which stand for equal parts of the same range."""
    values = np.moveaxis(values, axis, 0)
    at = np.clip((np.arange(size) + 0.5) * len(values) / size - 0.5, 0, len(values) - 1)
    low = np.floor(at).astype(np.int64)
    high, share = np.minimum(low + 1, len(values) - 1), (at - low).reshape([-1, *[1] * (values.ndim - 1)])
    return np.moveaxis(values[low] * (1 - share) + values[high] * share, 0, axis).astype(values.dtype)
