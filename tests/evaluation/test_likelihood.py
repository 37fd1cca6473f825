"""Likelihoods and the unigram baseline, compared with values computed by hand."""

from contextlib import suppress

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.distributed.world import World
from vilg.evaluation.image_metrics import mean_psnr
from vilg.evaluation.likelihood import Pair, mean_nll, unigram_nll
from vilg.model.transformer import Transformer
from vilg.text.sequence import padding

WORDS, CODES, T = 10, 4, 6


def pair(words, image):
    text = padding(WORDS, T)
    text[: len(words)] = words
    return Pair("x", "", text, np.array(image))


TRAINING = [pair([2, 5, 6, 3], [0, 0, 1, 2]), pair([2, 5, 3], [0, 0, 0, 0])]
HELDOUT = [pair([2, 6, 3], [0, 1, 3, 3])]


def test_unigram_baseline_matches_a_count_by_hand():
    nll = unigram_nll(TRAINING, HELDOUT, WORDS, CODES)
    codes = np.array([7, 2, 2, 1]) / 12  # counts 6, 1, 1, 0, with one added to each
    assert np.isclose(nll["text_to_image"], -np.log(codes[[0, 1, 3, 3]]).mean())
    # Targets of image-to-text: 5 6 EOT and 5 EOT. BOT is never a target.
    words = {6: 2 / 15, 3: 3 / 15}
    assert np.isclose(nll["image_to_text"], -(np.log(words[6]) + np.log(words[3])) / 2)


def test_nll_of_a_uniform_model_is_the_log_of_the_number_of_classes():
    model = Transformer(config.Model(layers=1, hidden=16, heads=1, conv_kernel=3), WORDS, CODES, T, (2, 2))
    for head in (model.text_head, model.image_head):
        head.weight.set_value(paddle.zeros_like(head.weight))
    nll = mean_nll(model, TRAINING + HELDOUT, 2, World())
    assert np.isclose(nll["text_to_image"], np.log(CODES), atol=1e-5)
    assert np.isclose(nll["image_to_text"], np.log(WORDS), atol=1e-5)


def test_mean_nll_is_over_tokens_whatever_the_batch_size():
    paddle.seed(0)
    model = Transformer(config.Model(layers=2, hidden=16, heads=2, conv_kernel=3), WORDS, CODES, T, (2, 2))
    results = [mean_nll(model, TRAINING + HELDOUT, batch, World()) for batch in (1, 2, 3)]
    for direction in ("text_to_image", "image_to_text"):
        assert np.ptp([result[direction] for result in results]) < 1e-5


@pytest.mark.parametrize("pairs, ranks, batch", [(5, 2, 2), (3, 4, 2), (1, 3, 1), (8, 2, 4)])
def test_all_ranks_make_the_same_number_of_forward_passes(pairs, ranks, batch):
    """With stage 3, each pass is a collective call."""

    class OneOfSeveral:
        def __init__(self, rank):
            self.rank, self.ranks = rank, ranks

        def sum(self, values):
            sums.append(values)
            return values

    class Counted:
        def __init__(self, model):
            self.model, self.passes, self.vocab_size = model, 0, model.vocab_size

        def __call__(self, *arguments):
            self.passes += 1
            return self.model(*arguments)

    paddle.seed(0)
    model = Transformer(config.Model(layers=1, hidden=16, heads=1, conv_kernel=3), WORDS, CODES, T, (2, 2))
    heldout = ([*TRAINING, *HELDOUT] * 3)[:pairs]
    alone, sums, passes = mean_nll(model, heldout, batch, World()), [], set()
    for rank in range(ranks):
        counted = Counted(model)
        with np.errstate(invalid="ignore", divide="ignore"), suppress(ZeroDivisionError):  # a rank without pairs
            mean_nll(counted, heldout, batch, OneOfSeveral(rank))
        passes.add(counted.passes)
    assert len(passes) == 1
    for direction, value in alone.items():
        together = [sum(one[f"{direction}/{part}"] for one in sums) for part in ("nll", "count")]
        assert np.isclose(together[0] / together[1], value, atol=1e-5)


def test_psnr():
    images = np.zeros([2, 3, 4, 4])
    assert np.isclose(mean_psnr(images, images + 0.1), 20)
    assert mean_psnr(images, images) == 100
