"""The shared transformer: which tokens influence which states, and the positions of its targets."""

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention.patterns import DIRECTIONS, IMAGE_TO_TEXT, PATTERNS, TEXT_TO_IMAGE
from vilg.model.transformer import Transformer, targets
from vilg.text.sequence import padding

T, GRID, WORDS, CODES = 6, (4, 4), 50, 32
N = GRID[0] * GRID[1]


def build(**settings) -> Transformer:
    paddle.seed(3)
    sizes = dict(layers=3, hidden=32, heads=2, conv_kernel=3) | settings
    model = Transformer(config.Model(**sizes), WORDS, CODES, T, GRID)
    for parameter in model.parameters():  # larger than at initialization, so that no influence is missed
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    model.eval()
    return model


def inputs():
    generator = np.random.default_rng(0)
    text = generator.integers(5, WORDS, [2, T])
    text[:, 4:] = padding(WORDS, T)[4:]
    return text, generator.integers(0, CODES, [2, N])


@paddle.no_grad()
def states(model, direction, text, image):
    return model.hidden_states(direction, paddle.to_tensor(text), paddle.to_tensor(image)).numpy()


def other(ids, place, size):
    changed = ids.copy()
    changed[:, place] = (changed[:, place] + 1) % size
    return changed


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("place", [0, 7, N - 1])
def test_image_token_affects_no_earlier_state_in_text_to_image(pattern, place):
    model = build()
    model.patterns = [pattern] * 3
    text, image = inputs()
    before = states(model, TEXT_TO_IMAGE, text, image)
    after = states(model, TEXT_TO_IMAGE, text, other(image, place, CODES))
    assert np.array_equal(before[:, : T + place], after[:, : T + place])
    assert not np.allclose(before[:, T + place], after[:, T + place])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("place", [0, 3, T - 1])
def test_text_token_affects_no_earlier_state_in_image_to_text(pattern, place):
    model = build()
    model.patterns = [pattern] * 3
    text, image = inputs()
    before = states(model, IMAGE_TO_TEXT, text, image)
    after = states(model, IMAGE_TO_TEXT, other(text, place, WORDS), image)
    assert np.array_equal(before[:, : N + place], after[:, : N + place])
    assert not np.allclose(before[:, N + place], after[:, N + place])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("place", [0, N - 1])
def test_every_text_token_sees_the_whole_image(pattern, place):
    model = build()
    model.patterns = [pattern] * 3
    text, image = inputs()
    before = states(model, IMAGE_TO_TEXT, text, image)
    after = states(model, IMAGE_TO_TEXT, text, other(image, place, CODES))
    assert (np.abs(before - after)[:, N:].max(-1) > 1e-4).all()


@pytest.mark.parametrize("place", [0, T - 2])
def test_every_image_token_sees_the_whole_text(place):
    model = build()
    text, image = inputs()
    before = states(model, TEXT_TO_IMAGE, text, image)
    after = states(model, TEXT_TO_IMAGE, other(text, place, WORDS), image)
    assert (np.abs(before - after)[:, T:].max(-1) > 1e-4).all()


def test_last_text_position_is_boi_whatever_its_id():
    model = build()
    text, image = inputs()
    assert np.array_equal(
        states(model, TEXT_TO_IMAGE, text, image), states(model, TEXT_TO_IMAGE, other(text, T - 1, WORDS), image)
    )


def test_each_position_has_its_own_padding_vector():
    model = build()
    rows = model.embed_text.words.weight.numpy()[padding(WORDS, T)]
    assert len(np.unique(rows, axis=0)) == T


def test_logits_come_from_the_position_before_their_target():
    model = build()
    text, image = inputs()
    with paddle.no_grad():
        text, image = paddle.to_tensor(text), paddle.to_tensor(image)
        drawing, writing = model(TEXT_TO_IMAGE, text, image), model(IMAGE_TO_TEXT, text, image)
        states_t2i = model.hidden_states(TEXT_TO_IMAGE, text, image)
        states_i2t = model.hidden_states(IMAGE_TO_TEXT, text, image)
    assert drawing.shape == [2, N, CODES] and writing.shape == [2, T - 1, WORDS]
    assert np.allclose(drawing[:, 0].numpy(), model.image_head(states_t2i[:, T - 1]).numpy(), atol=1e-5)  # BOI -> z_1
    assert np.allclose(writing[:, 0].numpy(), model.text_head(states_i2t[:, N]).numpy(), atol=1e-5)  # BOT -> t_1


def test_padding_after_eot_does_not_count_in_the_loss():
    text, image = map(paddle.to_tensor, inputs())
    ids, counted = targets(IMAGE_TO_TEXT, text, image, WORDS)
    assert counted.tolist() == [[True, True, True, False, False]] * 2
    assert (ids.numpy() < WORDS).all()
    assert targets(TEXT_TO_IMAGE, text, image, WORDS)[1].numpy().all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("switches", [{}, {"sandwich_norm": True}, {"qk_norm": True}])
def test_every_parameter_of_the_direction_gets_a_gradient(direction, switches):
    model = build(**switches)
    model(direction, *map(paddle.to_tensor, inputs())).square().mean().backward()
    unused = {"text_head"} if direction == TEXT_TO_IMAGE else {"image_head"}
    for name, parameter in model.named_parameters():
        if name.split(".")[0] not in unused:
            assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


def test_default_settings_have_ten_billion_parameters():
    """Counted in the model itself, built without weights, and compared with the sum of its parts."""
    layers, hidden, words, codes, text, side = 48, 4096, 21128, 8192, 64, 32
    with paddle.LazyGuard():
        model = Transformer(config.Model(), words, codes, text, (side, side))
    norm = 2 * hidden
    block = 2 * norm + (4 * hidden**2 + 4 * hidden) + (8 * hidden**2 + 5 * hidden)  # attention, MLP of 4x
    embeddings = (words + text + codes) * hidden + (text + 2 * side) * hidden + 2 * hidden  # a padding vector each
    heads = (words + codes) * (hidden + 1)
    boi = hidden
    expected = layers * block + norm + embeddings + boi + heads
    assert sum(np.prod(parameter.shape) for parameter in model.parameters()) == expected == 9_907_257_992
    assert [len(model.blocks), model.blocks[0].attention.heads] == [48, 64]


def test_residual_projections_start_small():
    model = Transformer(config.Model(layers=8, hidden=64, heads=2, conv_kernel=3), WORDS, CODES, T, GRID)
    assert abs(float(model.blocks[0].mlp.out.weight.std()) - 0.02 / 4) < 5e-4
    assert abs(float(model.blocks[0].mlp.widen.weight.std()) - 0.02) < 1e-3
