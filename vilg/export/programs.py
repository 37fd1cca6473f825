"""The model as stateless programs: caches are outputs of one call and inputs of the next.

The programs are traced from the code that decodes in Python (generation/decoder.py, attention/cache.py), so that
attention, embeddings and blocks exist only once.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec

from vilg.attention.cache import arrange_source, attend_token
from vilg.attention.patterns import DIRECTIONS, TEXT_TO_IMAGE
from vilg.export.manifest import DECODE, ENCODE, WEIGHTS, Sizes, prefill, step
from vilg.export.signals import delayed_signals
from vilg.export.weights import replaced_weights, save_weights
from vilg.generation.decoder import prefill_source
from vilg.image.tokenizer import ImageTokenizer
from vilg.model.transformer import Transformer


def save_programs(model: Transformer, tokenizer: ImageTokenizer, sizes: Sizes, folder: Path) -> dict[str, list[str]]:
    """Write all programs to `folder`, and the weights of the transformer. Model and tokenizer have to be in evaluation
    mode. Returns what `save_direction_programs` returns, for both directions.
    """
    save_weights(model, folder / WEIGHTS)
    used: dict[str, list[str]] = {}
    for direction in DIRECTIONS:
        used |= save_direction_programs(model, direction, sizes, folder)
    pixels = InputSpec([None, 3, sizes.image_size, sizes.image_size], "float32", "images")
    _save(Encode(tokenizer), [pixels], folder / ENCODE)
    _save(Decode(tokenizer), [InputSpec([None, *sizes.grid], "int64", "codes")], folder / DECODE)
    return used


def save_direction_programs(model: Transformer, direction: str, sizes: Sizes, folder: Path) -> dict[str, list[str]]:
    """Write the two programs of one direction. Returns {program: names of the weights that are its last inputs}."""
    length = sizes.text_length if direction == TEXT_TO_IMAGE else sizes.grid[0] * sizes.grid[1]
    source = [InputSpec([None, length], "int64", "source")]
    inputs = _step_inputs(sizes, length, model.dtype)
    encode, decode = partial(Prefill, model, direction), partial(Step, model, direction, sizes.windows)
    return {
        prefill(direction): _save_on_weights(encode, source, model, folder / prefill(direction)),
        step(direction): _save_on_weights(decode, inputs, model, folder / step(direction)),
    }


def _save_on_weights(
    program: Callable[[list[str]], nn.Layer], inputs: list, model: Transformer, path: Path
) -> list[str]:
    """Write a program whose last input are those weights of `model` that it needs. Returns their names.

    Paddle refuses inputs that are not needed, so the program is traced with all weights first.
    """
    weights = {name: InputSpec(value.shape, value.dtype, f"weight:{name}") for name, value in model.named_parameters()}
    with delayed_signals():
        everything = _traced(program(list(weights)), [*inputs, list(weights.values())])
        needed = _needed_inputs(everything.forward.concrete_program.outputs)  # type: ignore[attr-defined]
    names = [name for name in weights if f"weight:{name}" in needed]
    _save(program(names), [*inputs, [weights[name] for name in names]], path)
    return names


def _needed_inputs(outputs: list) -> set[str]:
    """The names of the inputs of a graph on which its outputs depend."""
    found, seen, open_values = set(), set(), list(outputs)
    while open_values:
        one = open_values.pop().get_defining_op()
        if one.id() in seen:
            continue
        seen.add(one.id())
        if one.name() == "pd_op.data":
            found.add(one.attrs()["name"])
        open_values += one.operands_source()
    return found


class _OfTransformer(nn.Layer):
    """A program whose last input are the weights `names` of `model`, so that it has none of its own."""

    def __init__(self, model: Transformer, names: list[str]):
        super().__init__()
        self._hidden, self.names = [model], names  # in a list, so that Paddle does not save its parameters

    @property
    def model(self) -> Transformer:
        return self._hidden[0]


class Prefill(_OfTransformer):
    """Encodes the source.

    Inputs: ids int64 [P, source]; weights. Outputs: in text_to_image the logits of the first code, float32
    [P, codebook_size]; then, for each layer, keys [P, H, D, source] and values [P, H, source, D] of the source, in the
    type of the model.
    """

    def __init__(self, model: Transformer, direction: str, names: list[str]):
        super().__init__(model, names)
        self.direction = direction

    def forward(self, source, weights):
        with replaced_weights(self.model, self.names, weights):
            return self._outputs(source)

    def _outputs(self, source):
        last, layers = prefill_source(self.model, self.direction, source)
        outputs = [tensor for layer in layers for tensor in arrange_source(layer.k, layer.v)]
        if self.direction == TEXT_TO_IMAGE:
            outputs = [self.model.predict(self.direction, last)[:, 0].astype("float32"), *outputs]
        return outputs


class Step(_OfTransformer):
    """Processes one token of R = P x samples continuations.

    Inputs: ids int64 [R]; place int64 [1], the position in the target; for each of `patterns` (Sizes.windows) a window
    [visible, 2 x layers with it, R, H, D] with the visible keys and values, in the type of the model; for each of them
    own int64 [1], the row of this token in the window; the outputs of Prefill; weights.

    Outputs: logits float32 [R, classes] of the next token; for each pattern [1, 2 x layers with it, R, H, D], the keys
    and values of this token.
    """

    def __init__(self, model: Transformer, direction: str, patterns: list[str], names: list[str]):
        super().__init__(model, names)
        self.direction, self.patterns = direction, patterns

    def forward(self, ids, place, windows, owns, sources, weights):
        with replaced_weights(self.model, self.names, weights):
            return self._outputs(ids, place, windows, owns, sources)

    def _outputs(self, ids, place, windows, owns, sources):
        x = self.model.embed_target(self.direction, ids, place)
        unbound = [paddle.unbind(window, axis=1) for window in windows]
        new_rows: list[list[paddle.Tensor]] = [[] for _ in self.patterns]
        for number, pattern in enumerate(self.model.patterns):
            index = self.patterns.index(pattern)
            first = len(new_rows[index])
            layer = _StepAttention(unbound[index][first : first + 2], owns[index], sources[2 * number : 2 * number + 2])
            x = self.model.blocks[number](x, layer)
            new_rows[index] += layer.new
        logits = self.model.predict(self.direction, x)[:, 0].astype("float32")
        return [logits, *(paddle.stack(rows, axis=0).unsqueeze(0) for rows in new_rows)]


class _StepAttention:
    """Attention of a layer in one step: the window of visible keys and values, with the new token inserted."""

    def __init__(self, window, own, source):
        self._window, self._own, self._source = window, own, source
        self.new = []

    def attend(self, q, k, v):
        self.new = [k.squeeze(1), v.squeeze(1)]
        seen_k, seen_v = (
            paddle.scatter(rows, self._own, new.unsqueeze(0)) for rows, new in zip(self._window, self.new)
        )
        return attend_token(q, seen_k, seen_v, self._source[0], self._source[1])


class Encode(nn.Layer):
    """Images float32 [B, 3, H, W] in [0, 1] -> codes int64 [B, h, w]."""

    def __init__(self, tokenizer: ImageTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images):
        return self.tokenizer.encode(images)


class Decode(nn.Layer):
    """Codes int64 [B, h, w] -> images float32 [B, 3, H, W] in [0, 1]."""

    def __init__(self, tokenizer: ImageTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, codes):
        return self.tokenizer.decode(codes)


def _step_inputs(sizes: Sizes, source: int, dtype: paddle.dtype) -> list:
    heads = [sizes.heads, sizes.head_size]
    windows, owns = [], []
    for pattern in sizes.windows:
        rows = 2 * sizes.patterns.count(pattern)
        windows.append(InputSpec([None, rows, None, *heads], dtype, f"window_{pattern}"))
        owns.append(InputSpec([1], "int64", f"own_{pattern}"))
    sources = []
    for layer in range(sizes.layers):
        sources += [
            InputSpec([None, *heads, source], dtype, f"source_k_{layer}"),
            InputSpec([None, heads[0], source, heads[1]], dtype, f"source_v_{layer}"),
        ]
    return [InputSpec([None], "int64", "ids"), InputSpec([1], "int64", "place"), windows, owns, sources]


def _save(layer: nn.Layer, inputs: list, path: Path) -> None:
    with delayed_signals(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no variable in your model")  # a program whose weights are inputs
        paddle.jit.save(_traced(layer, inputs), str(path))


def _traced(layer: nn.Layer, inputs: list) -> nn.Layer:
    layer.eval()
    return paddle.jit.to_static(layer, input_spec=inputs, full_graph=True)
