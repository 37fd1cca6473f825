"""Crops for the perceptual loss, whose time is proportional to the number of pixels."""

import paddle


def random_crop(side: int, *images: paddle.Tensor) -> list[paddle.Tensor]:
    """The same random square of `side` pixels (by Paddle's generator) of all images [B, 3, H, W]. side 0: the images
    themselves.
    """
    if not side:
        return list(images)
    top, left = (paddle.randint(0, space - side + 1, [1]).item() for space in images[0].shape[2:])
    return [batch[:, :, top : top + side, left : left + side] for batch in images]
