"""Visibility: which position sees which. The dense reference, the operator's layout, the cached decoder and the docs
use it.

A sequence of text length T and an h x w grid has the positions `[text 0 .. T-1][image 0 .. n-1]` in text_to_image and
`[image 0 .. n-1][text 0 .. T-1]` in image_to_text.
"""

import numpy as np

TEXT_TO_IMAGE = "text_to_image"
IMAGE_TO_TEXT = "image_to_text"
DIRECTIONS = (TEXT_TO_IMAGE, IMAGE_TO_TEXT)
PATTERNS = ("row", "column", "conv", "full")


def schedule(layers: int) -> list[str]:
    """The pattern of each of `layers` layers.

    Layer i, counted from 1, is `column` if i mod 4 = 2, `conv` if it is the last, otherwise `row` (section 3.1.2 of the
    paper, DALL-E appendix B).
    """
    patterns = ["column" if layer % 4 == 2 else "row" for layer in range(1, layers + 1)]
    patterns[-1:] = ["conv"]
    return patterns


def visibility(direction: str, pattern: str, text_length: int, grid: tuple[int, int], kernel: int) -> np.ndarray:
    """The visible keys of each query: bool [S, S], True at [query, key], S = text_length + h*w.

    kernel: side of the `conv` window (11 in the paper); not used by other patterns.
    """
    image = image_visibility(pattern, grid, kernel)
    if direction == TEXT_TO_IMAGE:
        return _text_to_image(image, text_length)
    if direction == IMAGE_TO_TEXT:
        return _image_to_text(image | image.T, text_length)
    raise ValueError(f"direction {direction!r} is none of {', '.join(DIRECTIONS)}")


def image_visibility(pattern: str, grid: tuple[int, int], kernel: int) -> np.ndarray:
    """The causal rule between image tokens in raster order: bool [n, n], True where query i sees key j."""
    height, width = grid
    tokens = np.arange(height * width)
    back = tokens[:, None] - tokens[None, :]  # i - j: distance from the key to the query
    causal = back >= 0
    if pattern == "row":
        return causal & (back <= width)
    if pattern == "column":
        return causal & (back % width == 0)
    if pattern == "conv":
        return causal & np.isin(back, _window_offsets(width, kernel))
    if pattern == "full":
        return causal
    raise ValueError(f"pattern {pattern!r} is none of {', '.join(PATTERNS)}")


def _window_offsets(width: int, kernel: int) -> np.ndarray:
    """Offsets a*w + b for rows a at and above the token and columns b around it; wraps at the edge, as in DALL-E."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"the conv kernel must be odd, not {kernel}")
    reach = kernel // 2
    return (np.arange(reach + 1)[:, None] * width + np.arange(-reach, reach + 1)[None, :]).ravel()


def _text_to_image(image: np.ndarray, text_length: int) -> np.ndarray:
    """All queries see the whole text, which is the source. Only image queries see the image."""
    mask = np.zeros((text_length + len(image),) * 2, dtype=bool)
    mask[:, :text_length] = True
    mask[text_length:, text_length:] = image
    return mask


def _image_to_text(image: np.ndarray, text_length: int) -> np.ndarray:
    """Image queries see no text. Text queries see the whole image, and the text up to themselves."""
    n = len(image)
    mask = np.zeros((n + text_length,) * 2, dtype=bool)
    mask[:n, :n] = image
    mask[n:, :n] = True
    mask[n:, n:] = np.tril(np.ones((text_length, text_length), dtype=bool))
    return mask
