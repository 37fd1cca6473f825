"""The model as stateless programs: caches are outputs of one call and inputs of the next.

The programs are traced from the code that decodes in Python (generation/decoder.py, attention/cache.py), so that
attention, embeddings and blocks exist only once.
"""

from pathlib import Path

import paddle
from paddle import nn
from paddle.static import InputSpec

from vilg.attention.cache import arrange_source, attend_token
from vilg.attention.patterns import DIRECTIONS, TEXT_TO_IMAGE
from vilg.export.manifest import DECODE, ENCODE, Sizes, prefill, step
from vilg.generation.decoder import prefill_source
from vilg.image.tokenizer import ImageTokenizer
from vilg.model.transformer import Transformer


def save_programs(model: Transformer, tokenizer: ImageTokenizer, sizes: Sizes, folder: Path) -> None:
    """Write all programs to `folder`. Model and tokenizer have to be in evaluation mode."""
    for direction in DIRECTIONS:
        save_direction_programs(model, direction, sizes, folder)
    pixels = InputSpec([None, 3, sizes.image_size, sizes.image_size], "float32", "images")
    _save(Encode(tokenizer), [pixels], folder / ENCODE)
    _save(Decode(tokenizer), [InputSpec([None, *sizes.grid], "int64", "codes")], folder / DECODE)


def save_direction_programs(model: Transformer, direction: str, sizes: Sizes, folder: Path) -> None:
    """Write the two programs of one direction."""
    length = sizes.text_length if direction == TEXT_TO_IMAGE else sizes.grid[0] * sizes.grid[1]
    _save(Prefill(model, direction), [InputSpec([None, length], "int64", "source")], folder / prefill(direction))
    step_program = Step(model, direction, sizes.windows)
    _save(step_program, _step_inputs(sizes, length, model.dtype), folder / step(direction))


class Prefill(nn.Layer):
    """Encodes the source.

    Input: ids int64 [P, source]. Outputs: in text_to_image the logits of the first code, float32 [P, codebook_size];
    then, for each layer, keys [P, H, D, source] and values [P, H, source, D] of the source, in the type of the model.
    """

    def __init__(self, model: Transformer, direction: str):
        super().__init__()
        self.model, self.direction = model, direction

    def forward(self, source):
        last, layers = prefill_source(self.model, self.direction, source)
        outputs = [tensor for layer in layers for tensor in arrange_source(layer.k, layer.v)]
        if self.direction == TEXT_TO_IMAGE:
            outputs = [self.model.predict(self.direction, last)[:, 0].astype("float32"), *outputs]
        return outputs


class Step(nn.Layer):
    """Processes one token of R = P x samples continuations.

    Inputs: ids int64 [R]; place int64 [1], the position in the target; for each of `patterns` (Sizes.windows) a window
    [visible, 2 x layers with it, R, H, D] with the visible keys and values, in the type of the model; for each of them
    own int64 [1], the row of this token in the window; and the outputs of Prefill.

    Outputs: logits float32 [R, classes] of the next token; for each pattern [1, 2 x layers with it, R, H, D], the keys
    and values of this token.
    """

    def __init__(self, model: Transformer, direction: str, patterns: list[str]):
        super().__init__()
        self.model, self.direction, self.patterns = model, direction, patterns

    def forward(self, ids, place, windows, owns, sources):
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
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=inputs, full_graph=True), str(path))
