"""Activation recompute: activations are dropped in the forward pass and computed again in the backward pass."""

from functools import partial

from paddle import nn
from paddle.distributed.fleet.utils import recompute


def recomputed_blocks(setting: str, blocks: int) -> range:
    """The indices of the blocks that keep only their input. setting: `none`, `block` (all), or a number n (every
    n-th).
    """
    if setting == "none":
        return range(0)
    return range(0, blocks, 1 if setting == "block" else int(setting))


def apply_recompute(blocks: nn.LayerList, setting: str) -> None:
    for number in recomputed_blocks(setting, len(blocks)):
        # The reentrant kind silently loses gradients when the input does not require any.
        blocks[number].forward = partial(  # type: ignore[method-assign]
            recompute, blocks[number].forward, use_reentrant=False
        )
