"""Beam search against an exhaustive search over all captions."""

from itertools import product

import numpy as np
import pytest

from tests.generation.test_decoding import CODES, GRID, Letters, T, model, set_end  # noqa: F401
from vilg.errors import UserError
from vilg.generation.beam import beam_search
from vilg.generation.decoder import TransformerDecodingModel
from vilg.generation.image_to_text import caption
from vilg.generation.ranking import log_likelihood
from vilg.generation.sampling import Sampler
from vilg.text.sequence import max_caption_tokens, padding

ALLOWED = [3, 4, 5]  # "a", "b", "c"


@pytest.fixture
def letters_model(model):  # noqa: F811
    """All other tokens have almost no probability."""
    set_end(model, 0.0)
    bias = model.text_head.bias.numpy()
    bias[[word for word in range(Letters.vocab_size) if word not in (*ALLOWED, Letters.sep_id)]] = -1000
    model.text_head.bias.set_value(bias)
    return model


def all_captions():
    return [list(words) for length in range(max_caption_tokens(T) + 1) for words in product(ALLOWED, repeat=length)]


def scores(model, image, captions, penalty):  # noqa: F811
    text = np.tile(padding(Letters.vocab_size, T), (len(captions), 1))
    for row, words in zip(text, captions):
        row[: len(words) + 2] = [Letters.cls_id, *words, Letters.sep_id]
    found = log_likelihood(TransformerDecodingModel(model), text, np.tile(image, (len(captions), 1)))
    return found / np.array([len(words) + 1 for words in captions]) ** penalty


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sufficiently_wide_beam_is_an_exhaustive_search(letters_model, penalty, seed):
    image = np.random.default_rng(seed).integers(0, CODES, GRID[0] * GRID[1])
    captions = all_captions()
    expected = scores(letters_model, image, captions, penalty)
    found = beam_search(TransformerDecodingModel(letters_model), image[None], Letters(), len(captions), penalty)[0]
    assert len(found) == len(captions)
    order = np.argsort(-expected)
    assert np.allclose([score for score, _ in found], expected[order], atol=1e-3)
    assert found[0][1] == captions[order[0]]


@pytest.mark.parametrize("width, penalty, prefix", [(1, 1.0, []), (3, 0.0, []), (4, 0.6, [4])])
def test_a_batch_gives_the_results_of_each_image_alone(letters_model, width, penalty, prefix):
    """Their searches end at different positions: without a penalty, some images finish early."""
    images = np.random.default_rng(7).integers(0, CODES, [6, GRID[0] * GRID[1]])
    batched = beam_search(TransformerDecodingModel(letters_model), images, Letters(), width, penalty, prefix)
    for image, found in zip(images, batched):
        single = beam_search(TransformerDecodingModel(letters_model), image[None], Letters(), width, penalty, prefix)[0]
        assert [words for _, words in found] == [words for _, words in single]
        assert np.allclose([score for score, _ in found], [score for score, _ in single], atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_scores_of_a_narrow_beam_are_exact_and_at_most_the_optimum(letters_model, width):
    image = np.random.default_rng(5).integers(0, CODES, GRID[0] * GRID[1])
    found = beam_search(TransformerDecodingModel(letters_model), image[None], Letters(), width, 1.0)[0]
    assert 1 <= len(found) <= width and sorted(found, key=lambda one: -one[0]) == found
    assert np.allclose(
        [score for score, _ in found], scores(letters_model, image, [words for _, words in found], 1.0), atol=1e-3
    )
    assert found[0][0] <= scores(letters_model, image, all_captions(), 1.0).max() + 1e-3


@pytest.mark.parametrize("prefix", [[3], [4, 3]])
def test_a_prefix_is_kept(letters_model, prefix):
    """The best of all captions with this prefix. Greedy decoding continues the prefix too."""
    image = np.random.default_rng(6).integers(0, CODES, GRID[0] * GRID[1])
    captions = [words for words in all_captions() if words[: len(prefix)] == prefix]
    expected = scores(letters_model, image, captions, 1.0)
    found = beam_search(TransformerDecodingModel(letters_model), image[None], Letters(), len(captions), 1.0, prefix)[0]
    assert np.allclose([score for score, _ in found], np.sort(expected)[::-1], atol=1e-3)
    assert found[0][1] == captions[expected.argmax()]
    written = caption(
        TransformerDecodingModel(letters_model), np.stack([image] * 2), Letters(), Sampler(greedy=True), prefix
    )
    assert written[0] == written[1] and written[0].startswith(Letters().decode(prefix))


def test_a_prefix_that_fills_the_text_is_refused(letters_model):
    image = np.zeros([1, GRID[0] * GRID[1]], np.int64)
    full = [3] * max_caption_tokens(T)
    assert caption(TransformerDecodingModel(letters_model), image, Letters(), Sampler(greedy=True), full) == [
        Letters().decode(full)
    ]
    with pytest.raises(UserError, match="--prefix: 5 tokens, but captions have at most 4"):
        caption(TransformerDecodingModel(letters_model), image, Letters(), Sampler(greedy=True), [*full, 3])
