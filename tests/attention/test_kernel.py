"""The compiled kernel, compared with the formulas in float64: forward pass and all gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attention.kernel import GRADIENTS, Inputs, compiled, error, formulas, library, run_on, tolerance
from vilg.attention.layout import build
from vilg.attention.patterns import DIRECTIONS, PATTERNS

CASES = [(direction, pattern) for direction in DIRECTIONS for pattern in PATTERNS]


def of_layout(layout, size=32, heads=1, batch=1, seed=0):
    return Inputs.random(seed, batch, layout.length, heads, size), layout.tiles().packed()


@given(
    case=st.sampled_from(CASES),
    text=st.integers(1, 256),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.sampled_from([1, 3, 5, 11]),
    size=st.sampled_from([32, 64, 80, 96, 128]),
    heads=st.integers(1, 3),
    batch=st.integers(1, 2),
    threads=st.integers(1, 3),
)
@settings(max_examples=80, deadline=None)
def test_output_and_gradients_for_any_shape(case, text, height, width, kernel, size, heads, batch, threads):
    layout = build(*case, text, (height, width), kernel)
    inputs, packed = of_layout(layout, size, heads, batch)
    visible = layout.visible()
    assert error(compiled(inputs, packed, threads), formulas(inputs, visible)) < tolerance(visible)


@pytest.mark.parametrize("text", [63, 64, 65])
@pytest.mark.parametrize("direction, pattern", CASES)
def test_the_papers_shape_and_one_token_fewer_or_more(direction, pattern, text):
    """S = 1087, 1088 and 1089. The rows of the first and the last image token are also compared by themselves."""
    layout = build(direction, pattern, text, (32, 32), 11)
    inputs, packed = of_layout(layout, size=64)
    ours, exact = compiled(inputs, packed), formulas(inputs, layout.visible())
    assert error(ours, exact) < 1e-5
    first = text if direction == "text_to_image" else 0
    for position in (first, first + 1023):
        for name in GRADIENTS:
            assert np.abs(ours[name][:, position] - exact[name][:, position]).max() < 1e-5 * np.abs(exact[name]).max()


def test_grid_of_64_by_64():
    layout = build("text_to_image", "row", 256, (64, 64), 11)
    inputs, packed = of_layout(layout)
    assert error(compiled(inputs, packed), formulas(inputs, layout.visible())) < 1e-5


def test_a_query_that_sees_only_itself_copies_its_value():
    layout = build("image_to_text", "conv", 1, (1, 6), 1)  # a window of one: each image token sees only itself
    inputs, packed = of_layout(layout)
    ours = compiled(inputs, packed)
    assert np.array_equal(ours["out"][:, :6], inputs.v[:, :6])
    assert np.abs(ours["grad_q"][:, :6]).max() < 1e-6


def test_large_scores_do_not_overflow():
    """Scores are several thousands, so that their own rounding in fp32 is visible in the weights."""
    layout = build("text_to_image", "conv", 40, (8, 8), 5)
    inputs, packed = of_layout(layout)
    inputs.q *= 30
    inputs.k *= 30
    assert error(compiled(inputs, packed), formulas(inputs, layout.visible())) < 1e-2


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_nan_reaches_every_query_that_sees_it(name):
    """Paddle's own softmax returns a uniform distribution for a row of NaN, which hides that a run has diverged.

    The kernel must return NaN.
    """
    # The text and each row of the grid are one block of 32. NaN may reach all queries of a tile that contains the key.
    layout = build("text_to_image", "row", 32, (4, 32), 3)
    inputs, packed = of_layout(layout)
    getattr(inputs, name)[0, 70] = np.nan
    bad = np.isnan(compiled(inputs, packed)["out"][0, :, 0]).any(-1)
    seen = layout.visible()[:, 70] if name != "q" else np.arange(layout.length) == 70
    assert bad[seen].all() and not bad[:64].any()


@pytest.mark.parametrize("direction, pattern", CASES)
@pytest.mark.parametrize("heads", [1, 3])
def test_results_are_bitwise_equal_for_any_number_of_threads(direction, pattern, heads):
    """With more threads than heads, the backward pass runs over queries and then over keys: other code, same sums."""
    layout = build(direction, pattern, 20, (9, 8), 5)
    inputs, packed = of_layout(layout, heads=heads)
    alone = compiled(inputs, packed, threads=1)
    for threads in (2, 5):
        together = compiled(inputs, packed, threads)
        assert all(np.array_equal(alone[name], together[name]) for name in GRADIENTS)


def test_rows_of_a_wider_array_are_read_in_place():
    layout = build("text_to_image", "column", 20, (9, 8), 5)
    inputs, packed = of_layout(layout, heads=2, batch=2)
    narrow, wide = compiled(inputs, packed), compiled(inputs, packed, wider=24)
    assert all(np.array_equal(narrow[name], wide[name]) for name in GRADIENTS)


def test_one_wrong_mask_bit_is_detected():
    """Negative control: the tests above would fail with a layout that is wrong in one pair."""
    layout = build("text_to_image", "row", 20, (9, 8), 5)
    inputs, packed = of_layout(layout)
    packed = packed.copy()
    packed[-32] ^= 1 << 3
    assert error(compiled(inputs, packed), formulas(inputs, layout.visible())) > 1e-3


@pytest.mark.parametrize("isa", ["avx512", "avx2", "plain"])
def test_every_instruction_set(isa):
    run_on(
        isa,
        "from tests.attention import test_kernel as t\n"
        "for case in t.CASES:\n"
        "    for size in (32, 64, 80, 96, 128):\n"
        "        layout = t.build(*case, 21, (9, 7), 5)\n"
        "        inputs, packed = t.of_layout(layout, size)\n"
        "        assert t.error(t.compiled(inputs, packed), t.formulas(inputs, layout.visible())) < 1e-5",
    )


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda packed: packed[:-1], "damaged or of another version"),
        (lambda packed: np.concatenate([[9], packed[1:]]).astype(np.int32), "damaged or of another version"),
        (lambda packed: np.concatenate([[packed[0], 7], packed[2:]]).astype(np.int32), "another number of positions"),
    ],
)
def test_damaged_or_mismatched_layout_is_refused(damage, message):
    inputs, packed = of_layout(build("text_to_image", "row", 20, (9, 8), 5))
    with pytest.raises(AssertionError, match=message):
        compiled(inputs, damage(packed))


def test_head_size_without_kernel_is_refused():
    layout = build("text_to_image", "row", 20, (9, 8), 5)
    with pytest.raises(AssertionError, match="head size is none of"):
        compiled(Inputs.random(0, 1, layout.length, 1, 48), layout.tiles().packed())


def test_library_reports_its_instruction_set():
    assert library().vilg_attention_isa() in (b"avx512", b"avx2", b"plain")
