"""Generating images and captions one token at a time, against the likelihood of the model."""

import numpy as np
import paddle
import pytest

from vilg import config
from vilg.attention.patterns import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from vilg.evaluation.likelihood import Pair, caption_exact_match
from vilg.generation.contact_sheet import contact_sheet
from vilg.generation.decoder import TransformerDecodingModel
from vilg.generation.image_to_text import caption
from vilg.generation.sampling import Sampler
from vilg.generation.text_to_image import Guidance, generate_codes
from vilg.model.transformer import Transformer
from vilg.text.sequence import CaptionEncoder

T, GRID, CODES = 7, (2, 3), 11


class Letters:
    vocab_size, cls_id, sep_id, unk_id = 30, 1, 2, 0

    def encode(self, text):
        return [ord(letter) - ord("a") + 3 for letter in text]

    def decode(self, ids):
        return "".join(chr(number - 3 + ord("a")) if number > 2 else "?" for number in ids)


@pytest.fixture
def model():
    paddle.seed(5)
    model = Transformer(config.Model(layers=3, hidden=32, heads=2, conv_kernel=3), Letters.vocab_size, CODES, T, GRID)
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    set_end(model, 8.0)
    model.eval()
    return model


def test_greedy_text_to_image_takes_the_most_likely_code_at_every_position(model):
    text = np.stack([CaptionEncoder(Letters(), T)(word) for word in ("ab", "xyz")])
    codes = generate_codes(TransformerDecodingModel(model), text, Sampler(greedy=True))
    assert codes.shape == (2, *GRID)
    with paddle.no_grad():
        logits = model(TEXT_TO_IMAGE, paddle.to_tensor(text), paddle.to_tensor(codes.reshape(2, -1)))
    assert np.array_equal(logits.numpy().argmax(-1), codes.reshape(2, -1))


@pytest.mark.parametrize(
    "sampler", [Sampler(greedy=True), Sampler(seed=3), Sampler(seed=9, temperature=2.0, top_p=0.8)]
)
def test_decoding_without_caches_gives_the_same_tokens(model, sampler):
    """The reference: a full forward pass for every token, with the same random numbers."""
    text = np.stack([CaptionEncoder(Letters(), T)(word) for word in ("ab", "xyz")]).repeat(3, axis=0)
    codes, choose = np.zeros([6, GRID[0] * GRID[1]], np.int64), sampler.start(2, 3)
    for place in range(codes.shape[1]):
        codes[:, place] = choose(
            model(TEXT_TO_IMAGE, paddle.to_tensor(text), paddle.to_tensor(codes)).numpy()[:, place]
        )
    assert np.array_equal(
        generate_codes(TransformerDecodingModel(model), text[::3], sampler, samples=3).reshape(6, -1), codes
    )


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_extrapolates_from_the_empty_caption(model, scale):
    """At 0 the text has no effect, at 1 the logits are those of the text. Each code is the most likely one of the mixed
    logits.
    """
    encode = CaptionEncoder(Letters(), T)
    text, nothing = np.stack([encode(word) for word in ("ab", "xyz")]), encode("")
    codes = generate_codes(
        TransformerDecodingModel(model), text, Sampler(greedy=True), guidance=Guidance(scale, nothing)
    ).reshape(2, -1)
    conditional, unconditional = (
        model(TEXT_TO_IMAGE, paddle.to_tensor(given), paddle.to_tensor(codes)).numpy()
        for given in (text, np.stack([nothing] * 2))
    )
    assert np.array_equal((unconditional + scale * (conditional - unconditional)).argmax(-1), codes)
    if scale == 1:
        assert np.array_equal(
            codes, generate_codes(TransformerDecodingModel(model), text, Sampler(greedy=True)).reshape(2, -1)
        )


def test_a_batch_of_texts_gives_the_codes_of_each_text_alone(model):
    text = np.stack([CaptionEncoder(Letters(), T)(word) for word in ("ab", "xyz")])
    three = generate_codes(TransformerDecodingModel(model), text[1:], Sampler(seed=3, temperature=2.0), samples=3)
    assert np.array_equal(
        three[:1], generate_codes(TransformerDecodingModel(model), text[1:], Sampler(seed=3, temperature=2.0))
    )
    assert len({drawing.tobytes() for drawing in three}) > 1


def test_text_to_image_continues_from_prefix_codes(model):
    """Greedy decoding from any prefix of an image gives the same image."""
    text = np.stack([CaptionEncoder(Letters(), T)(word) for word in ("ab", "xyz")])
    whole = generate_codes(TransformerDecodingModel(model), text, Sampler(greedy=True)).reshape(2, -1)
    for length in range(1, whole.shape[1]):
        again = generate_codes(
            TransformerDecodingModel(model), text, Sampler(greedy=True), prefix_codes=whole[:, :length]
        ).reshape(2, -1)
        assert np.array_equal(again, whole)
    prefix_codes = np.array([[1, 2], [3, 4]])
    drawn = generate_codes(
        TransformerDecodingModel(model), text, Sampler(seed=1), samples=2, prefix_codes=prefix_codes
    ).reshape(4, -1)
    assert drawn[:, :2].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


def set_end(model, likely):
    """Only letters and the end token have a probability; that of the end token is `likely`."""
    bias = np.zeros(Letters.vocab_size, "float32")
    bias[:2], bias[Letters.sep_id] = -1000, likely
    model.text_head.bias.set_value(bias)


@pytest.mark.parametrize("end", [-1000.0, 0.0, 8.0])
def test_greedy_captions_take_the_most_likely_token_at_every_position(model, end):
    set_end(model, end)
    codes = np.random.default_rng(0).integers(0, CODES, [9, 6])
    texts = caption(TransformerDecodingModel(model), codes, Letters(), Sampler(greedy=True))
    text = np.stack([CaptionEncoder(Letters(), T)(text) for text in texts])
    with paddle.no_grad():
        most_likely = model(IMAGE_TO_TEXT, paddle.to_tensor(text), paddle.to_tensor(codes)).numpy().argmax(-1)
    for row, written in enumerate(texts):
        ids = Letters().encode(written) + ([Letters.sep_id] if len(written) < T - 3 else [])
        assert most_likely[row, : len(ids)].tolist() == ids


def test_captions_end_at_the_end_token_or_the_text_length(model):
    codes = np.random.default_rng(0).integers(0, CODES, [3, 6])
    set_end(model, 1000.0)
    assert caption(TransformerDecodingModel(model), codes, Letters(), Sampler(greedy=True)) == ["", "", ""]
    set_end(model, -1000.0)
    assert [len(text) for text in caption(TransformerDecodingModel(model), codes, Letters(), Sampler(greedy=True))] == [
        T - 3
    ] * 3


def test_caption_exact_match_agrees_with_decoding(model):
    """The check with one forward pass is true exactly for the captions of greedy decoding."""
    codes = np.random.default_rng(1).integers(0, CODES, [30, 6])
    encode = CaptionEncoder(Letters(), T)
    written = caption(TransformerDecodingModel(model), codes, Letters(), Sampler(greedy=True))
    candidates = [*sorted({text for text in written if len(text) < T - 3}), "q", "ab"]
    pairs = [
        (Pair("", text, encode(text), image), text == own) for image, own in zip(codes, written) for text in candidates
    ]
    expected = [same for _, same in pairs]
    assert any(expected) and not all(expected)
    assert caption_exact_match(model, [pair for pair, _ in pairs], 7, Letters.unk_id) == expected


def test_the_unknown_token_is_never_generated(model):
    codes = np.random.default_rng(1).integers(0, CODES, [9, 6])
    before = caption(TransformerDecodingModel(model), codes, Letters(), Sampler(greedy=True))
    likely = model.text_head.bias.numpy()
    likely[Letters.unk_id] = 1000
    model.text_head.bias.set_value(likely)
    assert caption(TransformerDecodingModel(model), codes, Letters(), Sampler(greedy=True)) == before
    pairs = [Pair("", text, CaptionEncoder(Letters(), T)(text), image) for text, image in zip(before, codes)]
    assert all(caption_exact_match(model, [pair for pair in pairs if len(pair.caption) < T - 3], 7, Letters.unk_id))


def test_a_batch_of_images_gives_the_captions_of_each_image_alone(model):
    codes = np.random.default_rng(2).integers(0, CODES, [5, 6])
    together = caption(TransformerDecodingModel(model), codes, Letters(), Sampler(greedy=True))
    assert together == [
        caption(TransformerDecodingModel(model), one[None], Letters(), Sampler(greedy=True))[0] for one in codes
    ]
    assert (
        model(IMAGE_TO_TEXT, paddle.zeros([1, T], "int64"), paddle.to_tensor(codes[:1])).shape[-1] == Letters.vocab_size
    )


def test_contact_sheet():
    sheet = contact_sheet(np.zeros([5, 3, 8, 6]), columns=3)
    assert sheet.shape == (8 + 4 + 8, 3 * 6 + 2 * 4, 3)
    assert sheet[0, 0, 0] == 0 and sheet[-1, -1, 0] == 255  # the sixth cell is empty
    assert contact_sheet(np.zeros([9, 3, 8, 6])).shape == (32, 26, 3)
