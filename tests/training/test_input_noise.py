"""Random replacement of input tokens."""

import numpy as np
import pytest

from vilg import config
from vilg.attention.patterns import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from vilg.distributed.world import World
from vilg.errors import SettingsError
from vilg.training.input_noise import corrupt_tokens
from vilg.training.pretraining import Pretraining

IDS = np.full([400, 64], 7)
SEEDS = list(range(400))


def test_the_noise_share_of_each_sample_is_uniform_up_to_the_maximum():
    shares = (corrupt_tokens(IDS, True, 0.4, 1000, SEEDS) != IDS).mean(1)
    assert abs(shares.mean() - 0.2) < 0.02
    assert (shares == 0).any() and 0.35 < shares.max() < 0.6


def test_replacement_tokens_are_uniform_over_the_vocabulary():
    drawn = np.bincount(corrupt_tokens(IDS, True, 1.0, 8, SEEDS).ravel(), minlength=8)
    assert len(drawn) == 8
    others = np.delete(drawn, 7)
    assert others.min() > 0.9 * others.mean()


def test_noise_depends_on_the_seed_alone_and_does_not_modify_its_argument():
    whole = corrupt_tokens(IDS, True, 0.5, 1000, SEEDS)
    assert (corrupt_tokens(IDS[10:12], True, 0.5, 1000, [10, 11]) == whole[10:12]).all()
    assert (IDS == 7).all()


def test_only_replaceable_positions_change():
    may = np.arange(64) % 2 == 0
    replaced = corrupt_tokens(IDS, may, 1.0, 1000, SEEDS)
    assert (replaced[:, ~may] == 7).all() and (replaced[:, may] != 7).any()


def test_inputs_of_pretraining(small):
    """Noise is where the settings ask for it. The source text, BOT, EOT, padding and the targets stay."""
    small.input_noise = config.InputNoise(target_image=0.2, source_image=1.0, target_text=1.0)
    objective = Pretraining(small, World())
    batches = objective.batches(0)
    hits = np.zeros(3)
    for _ in range(20):
        inputs = objective.prepare_batch(next(batches))
        text, image = inputs.text.numpy(), inputs.image.numpy()
        drawing, writing = ([part.numpy() for part in inputs.model_inputs(d)] for d in (TEXT_TO_IMAGE, IMAGE_TO_TEXT))
        assert (drawing[0] == text).all()
        tokenizer = objective.text_tokenizer
        words = (text < tokenizer.vocab_size) & (text != tokenizer.cls_id) & (text != tokenizer.sep_id)
        assert (writing[0][~words] == text[~words]).all()
        hits += (writing[0] != text).sum(), (drawing[1] != image).sum(), (writing[1] != image).sum()
    assert (hits > 0).all() and hits[1] < hits[2] / 3


@pytest.mark.parametrize("override", ["input_noise.target_image=1.5", "input_noise.target_text=-0.1"])
def test_an_invalid_share_is_refused(override):
    with pytest.raises(SettingsError, match=override + ": must be in"):
        config.resolve(config.Pretraining, None, [override])


def test_caption_dropout_applies_to_text_to_image(small):
    """With the share of the settings, by the seed of the sample. Image-to-text is not changed."""
    small.train.caption_dropout = 0.25
    objective = Pretraining(small, World())
    batches, empty, dropped = objective.batches(0), objective.encode(""), []
    for _ in range(60):
        inputs = objective.prepare_batch(next(batches))
        prompt, text = (inputs.model_inputs(d)[0].numpy() for d in (TEXT_TO_IMAGE, IMAGE_TO_TEXT))
        dropped += (prompt == empty).all(1).tolist()
        assert (prompt[~(prompt == empty).all(1)] == inputs.text.numpy()[~(prompt == empty).all(1)]).all()
        assert not (text == empty).all(1).any()
    assert 0.15 < np.mean(dropped) < 0.35
