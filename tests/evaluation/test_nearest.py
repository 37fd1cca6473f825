"""The nearest image is the one with the smallest squared error."""

import numpy as np

from vilg.evaluation.nearest import nearest


def test_each_image_finds_the_one_with_the_smallest_error():
    rng = np.random.default_rng(0)
    images, among = rng.random([7, 3, 4, 5], np.float32), rng.random([11, 3, 4, 5], np.float32)
    by_hand = [min(range(11), key=lambda n: ((image - among[n]) ** 2).sum()) for image in images]
    assert nearest(images, among).tolist() == by_hand


def test_an_image_with_noise_finds_itself():
    images = np.random.default_rng(0).random([9, 3, 8, 8], np.float32)
    assert nearest(images[::-1] + 0.1, images).tolist() == list(range(9))[::-1]
