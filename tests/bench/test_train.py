"""The bench of training steps runs and counts right."""

import json

import paddle

from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.bench.train import BACKENDS, CODES, WORDS, arithmetic
from vilg.cli import main
from vilg.model.transformer import Transformer

SMALL = ["bench", "train", "model.layers=2", "model.hidden=32", "model.heads=1", "text.length=5", "data.image_size=48",
         "train.micro_batch=1", "--steps", "1"]


def test_every_backend_as_json_and_as_a_table(capsys):
    assert main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in result["rows"]] == list(BACKENDS)
    assert result["tokens"] == 2 * (5 + 36)
    assert all(row["tokens_per_second"] > 0 and 0 < row["matmul_share"] < 1 for row in result["rows"])
    assert main(SMALL) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(BACKENDS)


def test_the_arithmetic_by_hand():
    """One layer of 32, 5 words, a grid of 4 x 4: 64 places in two blocks of 32."""
    model = Transformer(config.Model(layers=1, hidden=32, heads=1, conv_kernel=3), WORDS, CODES, 5, (4, 4))
    assert model.patterns == ["conv"] and paddle.in_dynamic_mode()
    linear = 3 * 2 * 21 * (3 + 1 + 4 + 4) * 32 * 32
    heads = 3 * 2 * 32 * (16 * CODES + 4 * WORDS)
    tiles = {"text_to_image": 1 + 2, "image_to_text": 1 + 2}  # the source sees itself, the target both
    attention = sum(7 * 2 * 32 * 32 * 32 * tiles[direction] for direction in DIRECTIONS)
    assert arithmetic(model, batch=1) == 2 * linear + heads + attention
