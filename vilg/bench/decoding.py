"""The time of one decoding step for each pattern, early and late in an image, and the size of the caches."""

from functools import partial

import paddle

from vilg.attention import layout
from vilg.attention.cache import AttentionCache
from vilg.attention.patterns import TEXT_TO_IMAGE, schedule
from vilg.bench.timing import milliseconds

PATTERNS = ("row", "column", "conv", "full")  # full: the cost of a dense cache
_LAYERS = 48  # the paper's


def bench_decoding(
    batch: int, heads: int, head_size: int, text: int, grid: tuple[int, int], kernel: int, repeats: int
) -> dict:
    """Returns {"early": .., "late": .., "rows": [..], "cache_share": ..}: milliseconds of a step for a token after a
    tenth of the image and for one near its end, for each pattern, and the size of the caches of 48 layers relative
    to dense caches.
    """
    image = grid[0] * grid[1]
    early, late = image // 10, image - image // 40 - 1
    source = paddle.randn([batch, text, heads, head_size])
    q, k, v = (paddle.randn([batch, 1, heads, head_size]) for _ in range(3))
    caches = {
        pattern: AttentionCache(layout.build(TEXT_TO_IMAGE, pattern, text, grid, kernel), source, source)
        for pattern in PATTERNS
    }
    rows = []
    for pattern, cache in caches.items():

        def attend_at(token: int, cache: AttentionCache = cache) -> None:
            cache.skip_to(token)
            cache.attend(q, k, v)

        times = {
            name: milliseconds(partial(attend_at, token), 20 * repeats)
            for name, token in (("early_ms", early), ("late_ms", late))
        }
        rows.append({"pattern": pattern, **times})
    cached = sum(caches[pattern].num_elements for pattern in schedule(_LAYERS))
    return {"early": early, "late": late, "rows": rows, "cache_share": cached / (_LAYERS * caches["full"].num_elements)}


def table(result: dict) -> str:
    lines = [f"decoding a token, ms: {result['early']:>8}th {result['late']:>8}th"]
    lines += [f"{row['pattern']:20} {row['early_ms']:10.3f} {row['late_ms']:10.3f}" for row in result["rows"]]
    return "\n".join([*lines, f"caches of {_LAYERS} layers: {result['cache_share']:.2f} of dense ones"])
