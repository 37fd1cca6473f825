"""The initial codebook of a run that has been trained as an autoencoder so far."""

from collections.abc import Callable, Iterator

import paddle

from vilg.data.loader import Batch
from vilg.distributed.world import World
from vilg.image.kmeans import kmeans

_FEATURES_PER_CODE = 128  # features per code for k-means


@paddle.no_grad()
def initial_codebook(
    features: Callable[[paddle.Tensor], paddle.Tensor], batches: Iterator[Batch], codes: int, seed: int, world: World
) -> tuple[paddle.Tensor, float]:
    """Cluster the features of the first images by k-means.

    features: function from images [B, 3, H, W] to features [B, h, w, d]. Returns codes [codes, d] and the mean squared
    distance of a feature from its code, identical on all ranks.
    """
    vectors, count, limit = [], 0, _FEATURES_PER_CODE * codes
    while count < limit:
        with world.fail_together():
            images = paddle.to_tensor(next(batches).required("images"))
        vectors.append(world.interleave(features(images).flatten(1, 2)).flatten(0, 1))  # in the order of the data
        count += vectors[-1].shape[0]
    means, spread = kmeans(paddle.concat(vectors)[:limit], codes, seed)
    # All ranks have computed this, but results may differ between devices.
    return world.broadcast(means), float(world.broadcast(paddle.to_tensor(spread)))
