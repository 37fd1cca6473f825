"""`vilg bench attention`: all attention backends compared with Paddle's own dense attention, in one process."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

import paddle
import paddle.nn.functional as F

from vilg.attention import layout
from vilg.attention.functional import block_sparse_attention
from vilg.attention.layout import Layout
from vilg.attention.patterns import DIRECTIONS
from vilg.bench import decoding
from vilg.bench.timing import extra_bytes, matmul_rate, milliseconds

PATTERNS = ("row", "column", "conv")
BACKENDS = ("operator", "blockwise", "sdpa")  # sdpa is Paddle's scaled_dot_product_attention with a mask

_PRODUCTS = {"forward": 2, "backward": 5}  # matrix products of a tile, each with 2 x queries x keys x D operations


@dataclass(frozen=True)
class Shape:
    batch: int = 1
    heads: int = 16
    head_size: int = 64
    text: int = 64
    grid: tuple[int, int] = (32, 32)
    kernel: int = 11


def bench(shape: Shape, repeats: int = 10) -> dict:
    """Returns {"matmul_gflops": .., "threads": .., "shape": .., "rows": [..], "decoding": ..}, one row for each
    (pattern, direction, backend).

    A row has the milliseconds of a forward pass and of forward + backward, the speed relative to sdpa and to blockwise,
    for the operator its share of the matmul rate (counting the tiles it computes), and the peak memory beyond inputs
    and outputs as a share of sdpa's. "decoding" is the result of bench/decoding.py.
    """
    rate = matmul_rate()
    rows = [
        row
        for direction in DIRECTIONS
        for pattern in PATTERNS
        for row in _pattern(shape, direction, pattern, rate, repeats)
    ]
    steps = decoding.bench_decoding(**asdict(shape), repeats=repeats)
    return {
        "matmul_gflops": rate,
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "shape": asdict(shape),
        "rows": rows,
        "decoding": steps,
    }


def table(result: dict) -> str:
    """The result as text."""
    head = (
        f"{'direction':14} {'pattern':7} {'backend':9} {'fwd ms':>8} {'f+b ms':>8} {'x sdpa':>7} {'x block':>7} "
        f"{'fwd rate':>8} {'bwd rate':>8} {'memory':>7}"
    )
    lines = [f"matmul {result['matmul_gflops']:.0f} GFLOP/s", head]
    for row in result["rows"]:
        rates = [f"{row[name]:8.2f}" if name in row else " " * 8 for name in ("forward_rate", "backward_rate")]
        lines.append(
            f"{row['direction']:14} {row['pattern']:7} {row['backend']:9} {row['forward_ms']:8.2f} "
            f"{row['both_ms']:8.2f} {row['times_sdpa']:7.1f} {row['times_blockwise']:7.1f} {' '.join(rates)} "
            f"{row['memory_share']:7.3f}"
        )
    return "\n".join([*lines, decoding.table(result["decoding"])])


def _pattern(shape: Shape, direction: str, pattern: str, rate: float, repeats: int) -> list[dict]:
    attention_layout = layout.build(direction, pattern, shape.text, shape.grid, shape.kernel)
    sizes = [shape.batch, attention_layout.length, shape.heads, shape.head_size]
    q, k, v, grad_out = (paddle.randn(sizes) for _ in range(4))
    for x in (q, k, v):
        x.stop_gradient = False
    rows: list[dict] = []
    for backend in BACKENDS:
        attend = _attend(attention_layout, backend)

        def forward(attend=attend):
            with paddle.no_grad():
                attend(q, k, v)

        def both(attend=attend):
            paddle.grad(attend(q, k, v), [q, k, v], grad_out)

        rows.append(
            {
                "direction": direction,
                "pattern": pattern,
                "backend": backend,
                "forward_ms": milliseconds(forward, repeats),
                "both_ms": milliseconds(both, repeats),
                "extra_bytes": extra_bytes(both),
            }
        )
    by_name = {row["backend"]: row for row in rows}
    for row in rows:
        row["times_sdpa"] = by_name["sdpa"]["both_ms"] / row["both_ms"]
        row["times_blockwise"] = by_name["blockwise"]["both_ms"] / row["both_ms"]
        # The output and the gradients of the inputs do not count as extra: four arrays of the inputs' size.
        own = 4 * 4 * q.size
        row["memory_share"] = (row["extra_bytes"] - own) / (by_name["sdpa"]["extra_bytes"] - own)
    operator = by_name["operator"]
    tile = 2 * attention_layout.tiles().computed_pairs * shape.batch * shape.heads * shape.head_size / 1e6
    operator["forward_rate"] = _PRODUCTS["forward"] * tile / operator["forward_ms"] / rate
    operator["backward_rate"] = _PRODUCTS["backward"] * tile / (operator["both_ms"] - operator["forward_ms"]) / rate
    return rows


def _attend(attention_layout: Layout, backend: str) -> Callable:
    if backend != "sdpa":
        return lambda q, k, v: block_sparse_attention(q, k, v, attention_layout, backend)
    mask = attention_layout.additive_mask.tensor().unsqueeze([0, 1])
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask)
