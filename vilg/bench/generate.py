"""`vilg bench generate`: seconds per image with and without caches, compared with the memory bandwidth limit."""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import paddle

from vilg import config
from vilg.attention import operator
from vilg.attention.patterns import TEXT_TO_IMAGE
from vilg.bench.timing import milliseconds
from vilg.export.exporter import model_sizes
from vilg.export.predictor import ProgramDecodingModel
from vilg.export.program import Program
from vilg.export.programs import save_direction_programs
from vilg.export.weights import weights_of
from vilg.generation.decoder import TransformerDecodingState
from vilg.generation.decoding_model import DecodingState
from vilg.model.transformer import Transformer
from vilg.plan.input_sizes import PAPER

_PASSES = 3  # measured passes, out of one per token; all passes take equally long


def bench(settings: config.Pretraining, batches: tuple[int, ...] = (1, 8)) -> dict:
    """Returns {"copy_bytes_per_second": .., "floor_seconds": .., "rows": [..]}, one row for each method and batch size.

    Methods: uncached (a whole forward pass for each token), dense (caches of all keys), windowed (caches of the keys
    that the patterns can still see), exported (windowed caches with Paddle Inference), in bf16 (an exported model in
    bf16, if its kernels can be compiled). `floor_seconds` is the time for reading the weights in fp32 once per token at
    the rate at which this machine copies memory, and `floor_share` is this time divided by the measured time of a
    batch. `seconds` are for the whole batch, `seconds_an_image` for one image.
    """
    paddle.seed(0)
    model = PAPER.model(settings)
    model.eval()
    tokens, rate = model.grid[0] * model.grid[1], copy_rate()
    weights = 4 * sum(
        parameter.size for layer in (model.blocks, model.norm, model.image_head) for parameter in layer.parameters()
    )
    floor = tokens * weights / rate
    rows: list[dict] = []
    for batch in batches:
        rows.append({"way": "uncached", "batch": batch, "seconds": _uncached(model, batch), "cache_bytes": 0})
        for way, patterns in (("dense", ["full"] * len(model.patterns)), ("windowed", model.patterns)):
            rows.append({"way": way, "batch": batch, **_cached(model, patterns, batch)})
        rows.append({"way": "exported", "batch": batch, **_exported(model, settings.data.image_size, batch)})
    if operator.why_no_half_kernels() is None:
        model.to(dtype="bfloat16")
        rows += [
            {"way": "in bf16", "batch": batch, **_exported(model, settings.data.image_size, batch)} for batch in batches
        ]
    for row in rows:
        row["seconds_an_image"] = row["seconds"] / row["batch"]
        row["tokens_per_second"] = row["batch"] * tokens / row["seconds"]
        row["floor_share"] = floor / row["seconds"]
        row["of_uncached"] = next(other["seconds"] for other in rows if other["batch"] == row["batch"]) / row["seconds"]
    return {
        "copy_bytes_per_second": rate,
        "weights_bytes": weights,
        "floor_seconds": floor,
        "tokens": tokens,
        "rows": rows,
    }


def table(result: dict) -> str:
    """The result as text."""
    lines = [
        f"{result['tokens']} tokens per image, {result['weights_bytes'] / 1e6:.0f} MB of weights per token, memory "
        f"copied at {result['copy_bytes_per_second'] / 1e9:.1f} GB/s: {result['floor_seconds']:.1f} s at best",
        f"{'':9} {'batch':>5} {'seconds':>8} {'s/image':>8} {'tokens/s':>9} {'of floor':>9} {'uncached/':>10} "
        f"{'cache MB':>9}",
    ]
    return "\n".join(
        lines
        + [
            f"{row['way']:9} {row['batch']:5} {row['seconds']:8.1f} {row['seconds_an_image']:8.2f} "
            f"{row['tokens_per_second']:9.0f} {row['floor_share']:9.2f} {row['of_uncached']:10.1f} "
            f"{row['cache_bytes'] / 1e6:9.1f}"
            for row in result["rows"]
        ]
    )


def copy_rate(megabytes: int = 256) -> float:
    """Bytes per second of reading and writing a large array with Paddle's threads."""
    source = paddle.ones([megabytes * 250_000])
    return source.size * 4 / milliseconds(lambda: source + 1.0, 5) * 1e3


@paddle.no_grad()
def _uncached(model: Transformer, batch: int) -> float:
    tokens = model.grid[0] * model.grid[1]
    text = paddle.zeros([batch, model.text_length], "int64")
    image = paddle.zeros([batch, tokens], "int64")

    def one():
        states = model.hidden_states(TEXT_TO_IMAGE, text, image)
        return model.image_head(states[:, model.text_length])

    return milliseconds(one, _PASSES) / 1e3 * tokens


def _cached(model: Transformer, patterns: list[str], batch: int) -> dict[str, float]:
    own, model.patterns = model.patterns, patterns
    try:
        decoder = TransformerDecodingState(model, TEXT_TO_IMAGE, np.zeros([1, model.text_length], np.int64), batch)
        return {"seconds": _seconds(decoder, batch, model.grid), "cache_bytes": 4 * decoder.cache_elements}
    finally:
        model.patterns = own


def _exported(model: Transformer, image_size: int, batch: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        sizes = model_sizes(model, image_size)
        used = save_direction_programs(model, TEXT_TO_IMAGE, sizes, Path(folder))
        programs = {
            name: Program(Path(folder) / name, weights=partial(list, weights_of(model, names)))
            for name, names in used.items()
        }
        state = ProgramDecodingModel(sizes, programs, model.dtype).prefill(
            TEXT_TO_IMAGE, np.zeros([1, model.text_length], np.int64), batch
        )
        width = 4 if model.dtype == paddle.float32 else 2
        return {"seconds": _seconds(state, batch, model.grid), "cache_bytes": width * state.cache_elements}


def _seconds(state: DecodingState, batch: int, grid: tuple[int, int]) -> float:
    """Seconds for a whole image."""
    chosen, tokens = np.zeros(batch, np.int64), grid[0] * grid[1]
    state.step(chosen)
    began = time.perf_counter()
    for _ in range(tokens - 1):
        state.step(chosen)
    return (time.perf_counter() - began) * tokens / (tokens - 1)
