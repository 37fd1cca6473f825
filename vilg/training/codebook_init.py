"""Codes for a run that began as an autoencoder and chose none."""

from collections.abc import Callable, Iterator

import paddle

from vilg.data.loader import Batch
from vilg.distributed.world import World
from vilg.image.kmeans import kmeans

_FEATURES_PER_CODE = 128  # k-means' codes are means of so many


@paddle.no_grad()
def initial_codebook(
    features: Callable[[paddle.Tensor], paddle.Tensor], batches: Iterator[Batch], codes: int, seed: int, world: World
) -> tuple[paddle.Tensor, float]:
    """k-means' codes [codes, d] of what `features` makes of the first images, [B, 3, H, W] -> [B, h, w, d], and the mean
    squared distance of a feature from its code. Alike on every rank."""
    found, count, wanted = [], 0, _FEATURES_PER_CODE * codes
    while count < wanted:
        with world.fail_together():
            images = paddle.to_tensor(next(batches).images)
        found.append(world.interleave(features(images).flatten(1, 2)).flatten(0, 1))  # in the order of the data
        count += found[-1].shape[0]
    means, spread = kmeans(paddle.concat(found)[:wanted], codes, seed)
    # Every rank has counted, but a float on one device is not always that on another.
    return world.broadcast(means), float(world.broadcast(paddle.to_tensor(spread)))
