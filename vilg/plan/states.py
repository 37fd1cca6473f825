"""Model states that a rank holds between two steps, in bytes, by the rules of Paddle's sharding.

Each rule names its source in Paddle 3.3.1. tests/fleet/test_sharded_training.py compares the result with real jobs.
"""

from dataclasses import dataclass, replace
from math import prod

from vilg import config

_ALIGNMENT = 256  # bytes; group_sharded_stage3.py, `alignment`
MASTER, MOMENTS = 4, 8  # bytes of a parameter's fp32 master and of Adam's two moments
AVERAGE = 4  # bytes of a parameter's moving average


@dataclass(frozen=True)
class States:
    """Bytes of one rank on its device and, with offload, in host memory. Adam's powers of beta (eight bytes a tensor)
    are left out.
    """

    parameters: int
    gradients: int
    masters: int
    moments: int
    averages: int = 0
    host_parameters: int = 0
    host_gradients: int = 0
    host_masters: int = 0
    host_moments: int = 0
    host_averages: int = 0

    @property
    def device(self) -> int:
        return self.parameters + self.gradients + self.masters + self.moments + self.averages

    @property
    def host(self) -> int:
        masters = self.host_masters + self.host_moments + self.host_averages
        return self.host_parameters + self.host_gradients + masters

    def with_averages(self) -> "States":
        """With moving averages of the weights (train.ema_decay) in fp32 next to Adam's moments."""
        return replace(self, averages=self.moments // 2, host_averages=self.host_moments // 2)


def states(shapes: list[list[int]], settings: config.Distributed, shards: int, width: int) -> list[States]:
    """The states of each rank of a sharding group, for trained parameters of these shapes in model order.

    width: bytes of an element in computation, 4 or 2. With 2 there are fp32 master weights.
    """
    sizes, widths = [prod(shape) for shape in shapes], (width, gradient_width(settings, width))
    if shards == 1:
        return [_states(widths, sum(sizes), sum(sizes), sum(sizes))]
    if settings.stage == 1:
        return [
            _states(widths, sum(sizes), sum(sizes), owned)
            for owned in assign_greedily(sorted(sizes, reverse=True), shards)
        ]
    if settings.stage == 2:
        padded = sum(size + padding(size, width) for size in sizes)
        return [_states(widths, padded, owned, owned) for owned in assign_greedily(sizes, shards)]
    sliced = sum(padded_to_shards(size, shards, width) // shards for size in sizes if size > settings.segment_size)
    whole = [size for size in sizes if size <= settings.segment_size]
    pads = sum(padding(size, width) for size in whole)
    return [_stage_3(widths, sliced, sum(whole), pads, settings.offload)] * shards


def gradient_width(settings: config.Distributed, width: int) -> int:
    """Bytes of an element of an accumulated gradient, for parameters of `width` bytes."""
    return 4 if settings.amp_master_grad else width


def _states(widths: tuple[int, int], parameters: int, gradients: int, updated: int) -> States:
    """widths: of parameters and of gradients."""
    width, of_gradients = widths
    masters = updated * MASTER if width < 4 else 0
    return States(parameters * width, gradients * of_gradients, masters, updated * MOMENTS)


def _stage_3(widths: tuple[int, int], sliced: int, whole: int, pads: int, offload: bool) -> States:
    """Parameters up to segment_size are replicated, with their gradients in one padded array."""
    if not offload:
        return _states(widths, sliced + whole, sliced + whole + pads, sliced + whole)
    width, of_gradients = widths
    # The gradients of slices are added in fp32 on the device, and copied to the host for the update
    # (vilg/distributed/offload.py).
    return States(
        (sliced + whole) * width,
        sliced * 4 + (whole + pads) * of_gradients,
        0,
        0,
        host_gradients=(sliced + whole) * 4,
        host_masters=(sliced + whole) * MASTER,
        host_moments=(sliced + whole) * MOMENTS,
    )


def assign_greedily(sizes: list[int], shards: int) -> list[int]:
    """Elements that each rank owns when each parameter goes to the rank with the fewest elements so far.

    This is DygraphShardingOptimizer._partition_parameters (after sorting) and
    GroupShardedOptimizerStage2._segment_params (in model order).
    """
    owned = [0] * shards
    for size in sizes:
        owned[owned.index(min(owned))] += size
    return owned


def padding(size: int, width: int) -> int:
    """Padding elements after a parameter of `size` elements in a shared array (GroupShardedStage3._param2align)."""
    return -size * width % _ALIGNMENT // width


def padded_to_shards(size: int, shards: int, width: int) -> int:
    """Elements of the array in which a sharded parameter is gathered (GroupShardedStage3._flatten_layer_params)."""
    return -(-(size + padding(size, width)) // shards) * shards
