"""Cropping and resizing of images."""

import numpy as np
from PIL import Image

from vilg.data import images


def stripes(width, height):
    """An image whose columns have ascending values, so that a crop shows its position."""
    return Image.fromarray(np.tile(np.arange(width, dtype=np.uint8)[None, :, None], (height, 1, 3)))


def test_center_crop_takes_the_middle():
    pixels = images.center_crop(stripes(200, 100), 100)
    assert pixels.shape == (100, 100, 3) and pixels.dtype == np.uint8
    assert (pixels[0, 0, 0], pixels[0, -1, 0]) == (50, 149)


def test_crop_jitter_stays_inside_the_image_and_varies():
    cuts = [images.random_crop(stripes(200, 100), 50, 0.5, np.random.default_rng(seed)) for seed in range(20)]
    widths = [int(cut[0, -1, 0]) - int(cut[0, 0, 0]) for cut in cuts]
    assert min(widths) >= 45 and max(widths) <= 100
    assert len({int(cut[0, 0, 0]) for cut in cuts}) > 10
    assert np.array_equal(cuts[3], images.random_crop(stripes(200, 100), 50, 0.5, np.random.default_rng(3)))


def test_small_images_are_enlarged():
    assert images.center_crop(stripes(3, 9), 16).shape == (16, 16, 3)
