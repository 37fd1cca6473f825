"""Decoding token by token equals the full forward pass, for every pattern, direction and position."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vilg.attention import layout
from vilg.attention.cache import AttentionCache, cache_slots, source_length
from vilg.attention.functional import block_sparse_attention
from vilg.attention.patterns import DIRECTIONS, PATTERNS, TEXT_TO_IMAGE, schedule


def step_by_step(made, q, k, v, samples=1):
    start = source_length(made)
    cache = AttentionCache(made, k[::samples, :start], v[::samples, :start], samples)
    return paddle.concat([cache.attend(*(x[:, i : i + 1] for x in (q, k, v))) for i in range(start, made.length)], 1)


@given(
    direction=st.sampled_from(DIRECTIONS),
    pattern=st.sampled_from(PATTERNS),
    text=st.integers(1, 12),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    kernel=st.sampled_from([1, 3, 11]),
    heads=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_every_position_equals_the_full_forward_pass(direction, pattern, text, height, width, kernel, heads):
    made = layout.build(direction, pattern, text, (height, width), kernel)
    paddle.seed(0)
    q, k, v = (paddle.randn([2, made.length, heads, 32]) for _ in range(3))
    whole = block_sparse_attention(q, k, v, made, "dense")[:, source_length(made) :]
    assert np.abs((step_by_step(made, q, k, v) - whole).numpy()).max() < 1e-5


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_samples_share_their_source(direction, pattern):
    """Two sources with three continuations each."""
    made = layout.build(direction, pattern, 5, (4, 3), 3)
    start = source_length(made)
    paddle.seed(0)
    q, k, v = (paddle.randn([6, made.length, 2, 8]) for _ in range(3))
    for x in (k, v):
        x[:, :start] = x[::3, :start].repeat_interleave(3, 0)
    whole = block_sparse_attention(q, k, v, made, "dense")[:, start:]
    assert np.abs((step_by_step(made, q, k, v, samples=3) - whole).numpy()).max() < 1e-5


def test_number_of_cache_slots_of_each_pattern():
    kept = {pattern: cache_slots(layout.build(TEXT_TO_IMAGE, pattern, 64, (32, 32), 11)) for pattern in PATTERNS}
    assert kept["row"].count == 33 and kept["full"].count == 1024
    assert kept["column"].count == 31 * 32 + 1  # in the last row, each step frees the slots of its column
    assert kept["conv"].count == 5 * 32 + 5 + 1  # the oldest visible key is five rows up and five columns to the left
    assert max(map(len, kept["column"].visible)) == 32 and max(map(len, kept["row"].visible)) == 33


def test_caches_of_48_layers_take_at_most_a_third_of_dense_caches():
    made = [layout.build(TEXT_TO_IMAGE, pattern, 64, (32, 32), 11) for pattern in schedule(48)]
    source = paddle.zeros([1, 64, 1, 1])
    kept = sum(AttentionCache(one, source, source).num_elements for one in made)
    assert kept <= 48 * 2 * (64 + 1024) / 3


def test_step_after_the_last_target_token_is_an_error():
    made = layout.build(TEXT_TO_IMAGE, "row", 3, (1, 2), 3)
    x = paddle.zeros([1, 1, 1, 4])
    cache = AttentionCache(made, *[paddle.zeros([1, 3, 1, 4])] * 2)
    cache.attend(x, x, x)
    cache.attend(x, x, x)
    with pytest.raises(IndexError, match="all 2 target tokens have been processed"):
        cache.attend(x, x, x)


def test_source_of_wrong_length_is_refused():
    with pytest.raises(ValueError, match="a source of 4 positions given, the layout has 3"):
        AttentionCache(layout.build(TEXT_TO_IMAGE, "row", 3, (1, 2), 3), *[paddle.zeros([1, 4, 1, 4])] * 2)
