"""Operations of a model, compared with a count by hand."""

from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.model import flops
from vilg.model.transformer import Transformer


def test_operations_match_a_count_by_hand():
    """One layer of width 32, 5 text tokens and a grid of 4 x 4: 64 positions with padding, in two blocks of 32."""
    words, codes = 21128, 8192
    model = Transformer(config.Model(layers=1, hidden=32, heads=1, conv_kernel=3), words, codes, 5, (4, 4))
    assert model.patterns == ["conv"]
    linear = 2 * 21 * (3 + 1 + 4 + 4) * 32 * 32
    heads = 2 * 32 * (16 * codes + 4 * words)
    tiles = {"text_to_image": 1 + 2, "image_to_text": 1 + 2}  # the source sees itself, the target sees both
    attention = sum(2 * 2 * 32 * 32 * 32 * tiles[direction] for direction in DIRECTIONS)
    assert flops.forward(model, 1) == {"linear": 2 * linear, "heads": heads, "attention": attention}
    assert flops.training_step(model, 3) == 3 * (3 * (2 * linear + heads) + 3.5 * attention)
