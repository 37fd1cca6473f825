"""The T text positions."""

import numpy as np

from vilg.text.sequence import CaptionEncoder, boi_id, embedding_size, padding


class Letters:
    vocab_size, cls_id, sep_id = 100, 1, 2

    def encode(self, text):
        return [ord(letter) - ord("a") + 10 for letter in text]


def test_tokens_are_between_begin_and_end_tokens_followed_by_padding():
    assert CaptionEncoder(Letters(), 8)("abc").tolist() == [1, 10, 11, 12, 2, 106, 107, 108]


def test_the_longest_caption_leaves_the_last_position_for_the_begin_of_image_token():
    encode = CaptionEncoder(Letters(), 6)
    assert encode("abc").tolist() == [1, 10, 11, 12, 2, 106]
    assert encode.truncated == 0
    assert encode("abcdef").tolist() == [1, 10, 11, 12, 2, 106]
    assert encode.truncated == 1


def test_ids_after_the_vocabulary_do_not_collide():
    ids = np.concatenate([np.arange(100), [boi_id(100)], padding(100, 8)])
    assert len(set(ids.tolist())) == embedding_size(100, 8) == ids.max() + 1
