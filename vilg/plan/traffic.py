"""Bytes that a step sends within nodes, between nodes, and between a device and host memory.

Collectives are counted as rings in rank order: a ring sends the fewest bytes possible, and only between neighbours.
tests/fleet/test_sharded_training.py compares the collectives with those of real jobs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from vilg import config
from vilg.distributed.recompute import recomputed_blocks
from vilg.distributed.topology import Topology
from vilg.plan.states import gradient_width, padded_to_shards, padding

_HOST_WIDTH = 4  # bytes of an element that is copied to or from host memory

# Bytes that a member of a ring of n sends for each byte of the array.
_SENT = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce": lambda n: (n - 1) / n,  # n - 1 of n members forward the array
    "broadcast": lambda n: (n - 1) / n,
}
_OF_GRADIENTS = ("all_reduce", "reduce")  # the other collectives send parameters


@dataclass(frozen=True)
class Traffic:
    """Bytes per step: the most that one device sends within its node, and that one node sends to other nodes; and what
    one device exchanges with host memory, in both directions together.

    host: model states only, so it is 0 without offload. A checkpoint and the training data are not included.
    """

    inside: float
    across: float
    host: float


@dataclass(frozen=True)
class Collective:
    """`kind` (a key of _SENT) over `elements` in total, in the sharding groups or in the replica groups."""

    kind: str
    over: str  # "shards" or "replicas"
    elements: float


def traffic(
    shapes: dict[str, list[int]],
    settings: config.Distributed,
    topology: Topology,
    per_node: int,
    accumulation: int,
    width: int,
    directions: int = 2,
) -> Traffic:
    """The traffic for trained parameters {name: shape}.

    per_node: ranks on a node. width: bytes of an element of a parameter. directions: how many are trained.
    """
    volume = {"shards": 0.0, "replicas": 0.0}
    for collective in collectives(shapes, settings, topology, accumulation, width, directions):
        members = topology.shards if collective.over == "shards" else topology.replicas
        bytes_of_element = gradient_width(settings, width) if collective.kind in _OF_GRADIENTS else width
        volume[collective.over] += _SENT[collective.kind](members) * collective.elements * bytes_of_element
    inside, across = _on_wires(topology, per_node, volume["shards"], volume["replicas"])
    return Traffic(inside, across, sum(host_copies(shapes, settings, topology, width)) * _HOST_WIDTH)


def host_copies(
    shapes: dict[str, list[int]], settings: config.Distributed, topology: Topology, width: int
) -> tuple[int, int]:
    """Elements that one device copies to host memory and back in a step: gradients for the update, and then parameters.
    Both are fp32. Their number does not depend on accumulation (vilg/distributed/offload.py).
    """
    if not settings.offload or topology.shards == 1:
        return 0, 0
    n, sizes = topology.shards, [prod(shape) for shape in shapes.values()]
    own = sum(padded_to_shards(size, n, width) // n if size > settings.segment_size else size for size in sizes)
    return own, own


def collectives(
    shapes: dict[str, list[int]],
    settings: config.Distributed,
    topology: Topology,
    accumulation: int,
    width: int,
    directions: int = 2,
) -> Iterator[Collective]:
    """The collectives of one step. Where ranks differ in what they own, this is the average."""
    n, sizes = topology.shards, {name: prod(shape) for name, shape in shapes.items()}
    everything = sum(sizes.values())
    if n == 1:
        yield Collective("all_reduce", "replicas", everything)
    elif settings.stage == 1:
        yield Collective("reduce", "shards", everything)
        yield Collective("all_reduce", "replicas", everything / n)
        yield Collective("broadcast", "shards", everything)
    elif settings.stage == 2:
        yield Collective("reduce", "shards", _used(sizes, directions) * accumulation)
        yield Collective("all_reduce", "replicas", everything / n)
        yield Collective("broadcast", "shards", sum(size + padding(size, width) for size in sizes.values()))
    else:
        sliced = {
            name: padded_to_shards(size, n, width) for name, size in sizes.items() if size > settings.segment_size
        }
        whole = sum(size + padding(size, width) for name, size in sizes.items() if name not in sliced)
        fetched = {name: size * (3 if _recomputed(name, settings.recompute) else 2) for name, size in sliced.items()}
        yield Collective("all_gather", "shards", _used(fetched, directions) * accumulation)
        # Paddle all-reduces whole gradients, also over replicas, and keeps a slice
        # (GroupShardedStage3._get_allreduce_fn).
        for over in ("shards", "replicas"):
            yield Collective("all_reduce", over, _used(sliced, directions) * accumulation + whole)


def _used(sizes: dict[str, int], directions: int) -> int:
    """Elements that all directions use: all parameters once in each direction, but each output head in one."""
    heads = ("text_head.", "image_head.")
    return sum(size if name.startswith(heads) else directions * size for name, size in sizes.items())


def _recomputed(name: str, setting: str) -> bool:
    """Whether a parameter is gathered once more because its block is recomputed.

    The last layer of a recomputed block is still gathered: the backward pass starts with it.
    """
    parts = name.split(".")
    return (
        parts[0] == "blocks"
        and int(parts[1]) in recomputed_blocks(setting, int(parts[1]) + 1)
        and parts[2:4] != ["mlp", "out"]
    )


def _on_wires(topology: Topology, per_node: int, sharded: float, replicated: float) -> tuple[float, float]:
    """(inside, across) of `Traffic`. sharded, replicated: bytes that each rank sends to the next rank of its sharding
    group and of its replica group.
    """
    inside, across = [0.0] * topology.ranks, [0.0] * -(-topology.ranks // per_node)
    groups = [(topology.sharding_group(first), sharded) for first in range(0, topology.ranks, topology.shards)]
    groups += [(topology.replica_group(first), replicated) for first in range(topology.shards)]
    for group, size in groups:
        for rank, following in zip(group, group[1:] + group[:1]):
            if rank // per_node == following // per_node:
                inside[rank] += size
            else:
                across[rank // per_node] += size
    return max(inside), max(across)
