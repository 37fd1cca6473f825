"""What a step sends, inside nodes and between them.

Collectives are counted as rings, in the order of their ranks: a ring needs the fewest bytes there are, and each rank
sends to its neighbour only. tests/fleet/test_sharded_training.py compares the collectives with those of real jobs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from vilg import config
from vilg.distributed.recompute import recomputed_blocks
from vilg.distributed.topology import Topology
from vilg.plan.states import padded_to_shards, padding

# What a member of a ring of n sends, for each byte of the array that they have together.
_SENT = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce": lambda n: (n - 1) / n,  # n - 1 of n pass the array on
    "broadcast": lambda n: (n - 1) / n,
}


@dataclass(frozen=True)
class Traffic:
    """Bytes a step: the most that a device sends to others of its node, and that a node sends to others."""

    inside: float
    across: float


@dataclass(frozen=True)
class Collective:
    """`kind`, a key of _SENT, of `elements` in all, over the sharding groups or over the replica groups."""

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
) -> Traffic:
    """For trained parameters {name: shape}; `per_node` ranks a node; width: bytes of a parameter and of a gradient."""
    sent = {"shards": 0.0, "replicas": 0.0}
    for one in collectives(shapes, settings, topology, accumulation, width):
        members = topology.shards if one.over == "shards" else topology.replicas
        sent[one.over] += _SENT[one.kind](members) * one.elements * width
    return _on_wires(topology, per_node, sent["shards"], sent["replicas"])


def collectives(
    shapes: dict[str, list[int]], settings: config.Distributed, topology: Topology, accumulation: int, width: int
) -> Iterator[Collective]:
    """Those of a step. Where they differ between ranks, in what a rank owns, this is the average."""
    n, sizes = topology.shards, {name: prod(shape) for name, shape in shapes.items()}
    everything = sum(sizes.values())
    if n == 1:
        yield Collective("all_reduce", "replicas", everything)
    elif settings.stage == 1:
        yield Collective("reduce", "shards", everything)
        yield Collective("all_reduce", "replicas", everything / n)
        yield Collective("broadcast", "shards", everything)
    elif settings.stage == 2:
        yield Collective("reduce", "shards", _used(sizes) * accumulation)
        yield Collective("all_reduce", "replicas", everything / n)
        yield Collective("broadcast", "shards", sum(size + padding(size, width) for size in sizes.values()))
    else:
        sliced = {
            name: padded_to_shards(size, n, width) for name, size in sizes.items() if size > settings.segment_size
        }
        whole = sum(size + padding(size, width) for name, size in sizes.items() if name not in sliced)
        fetched = {name: size * (3 if _recomputed(name, settings.recompute) else 2) for name, size in sliced.items()}
        yield Collective("all_gather", "shards", _used(fetched) * accumulation)
        # Paddle sums whole gradients up and keeps a slice (GroupShardedStage3._get_allreduce_fn); with replicas too.
        for over in ("shards", "replicas"):
            yield Collective("all_reduce", over, _used(sliced) * accumulation + whole)


def _used(sizes: dict[str, int]) -> int:
    """Elements that the two directions use: all of them twice, but the heads, of which each direction has one."""
    return sum(size if name.startswith(("text_head.", "image_head.")) else 2 * size for name, size in sizes.items())


def _recomputed(name: str, setting: str) -> bool:
    """Whether a parameter is fetched once more for a block that goes forward again. The last layer of such a block is
    there already: it is what goes backward first, and asks for the rest."""
    parts = name.split(".")
    return (
        parts[0] == "blocks"
        and int(parts[1]) in recomputed_blocks(setting, int(parts[1]) + 1)
        and parts[2:4] != ["mlp", "out"]
    )


def _on_wires(topology: Topology, per_node: int, sharded: float, replicated: float) -> Traffic:
    """sharded, replicated: what each rank sends to the next of its sharding group and of its replica group."""
    inside, across = [0.0] * topology.ranks, [0.0] * -(-topology.ranks // per_node)
    groups = [(topology.sharding_group(first), sharded) for first in range(0, topology.ranks, topology.shards)]
    groups += [(topology.replica_group(first), replicated) for first in range(topology.shards)]
    for group, size in groups:
        for rank, following in zip(group, group[1:] + group[:1]):
            if rank // per_node == following // per_node:
                inside[rank] += size
            else:
                across[rank // per_node] += size
    return Traffic(max(inside), max(across))
