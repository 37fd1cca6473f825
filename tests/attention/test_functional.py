"""The public attention call against a softmax written out in float64."""

import numpy as np
import paddle
import pytest

from vilg.attention import layout
from vilg.attention.functional import block_sparse_attention
from vilg.attention.patterns import DIRECTIONS, PATTERNS, visibility


def by_hand(q, k, v, seen):
    """[B, S, H, D] in float64, one query at a time over the keys that it sees."""
    out = np.zeros_like(q)
    for batch, query, head in np.ndindex(q.shape[:3]):
        keys = np.flatnonzero(seen[query])
        scores = k[batch, keys, head] @ q[batch, query, head] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[batch, query, head] = weights / weights.sum() @ v[batch, keys, head]
    return out


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text_length, grid", [(4, (3, 5)), (7, (4, 4)), (1, (1, 1))])
def test_against_a_softmax_over_what_is_seen(direction, pattern, text_length, grid):
    made = layout.build(direction, pattern, text_length, grid, 3)
    generator = np.random.default_rng(0)
    q, k, v = generator.normal(size=[3, 2, made.length, 2, 8])
    out = block_sparse_attention(*(paddle.to_tensor(x, dtype="float32") for x in (q, k, v)), made)
    expected = by_hand(q, k, v, visibility(direction, pattern, text_length, grid, 3))
    assert np.abs(out.numpy() - expected).max() < 1e-5


def test_layouts_are_built_once():
    assert layout.build("text_to_image", "row", 4, (3, 5), 3) is layout.build("text_to_image", "row", 4, (3, 5), 3)


def test_a_wrong_length_is_refused():
    x = paddle.zeros([1, 5, 1, 8])
    with pytest.raises(ValueError, match="5 positions given, the layout has 6"):
        block_sparse_attention(x, x, x, layout.build("text_to_image", "row", 2, (2, 2), 3))
