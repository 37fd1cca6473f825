"""Activations thrown away in the forward pass and computed again in the backward pass."""

from functools import partial

from paddle import nn
from paddle.distributed.fleet.utils import recompute


def apply_recompute(blocks: nn.LayerList, setting: str) -> None:
    """`none`, `block`: every block keeps only its inputs, or a number n: every n-th does."""
    every = {"none": 0, "block": 1}.get(setting) or int(setting if setting.isdigit() else 0)
    for number, block in enumerate(blocks):
        if every and number % every == 0:
            # Non-reentrant: the other kind silently loses gradients when the input needs none.
            block.forward = partial(recompute, block.forward, use_reentrant=False)
