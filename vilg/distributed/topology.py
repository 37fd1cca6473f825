"""The sharding groups and replica groups of a job.

ranks 0 1 2 3 | 4 5 6 7        two nodes with four ranks each, sharding_degree 4: two replicas of four shards
sharding groups {0 1 2 3}, {4 5 6 7}: each rank holds a quarter of the states
replica groups {0 4}, {1 5}, ..: ranks that hold the same quarter
"""

from dataclasses import dataclass

from vilg import config
from vilg.config import require


@dataclass(frozen=True)
class Topology:
    """`ranks` = replicas x shards processes; rank = replica x shards + shard."""

    ranks: int
    shards: int

    @property
    def replicas(self) -> int:
        return self.ranks // self.shards

    def sharding_group(self, rank: int) -> list[int]:
        """The ranks that shard the states together with `rank`, in the order of their shards."""
        first = rank - rank % self.shards
        return list(range(first, first + self.shards))

    def replica_group(self, rank: int) -> list[int]:
        """The ranks that hold the same shard as `rank`."""
        return list(range(rank % self.shards, self.ranks, self.shards))


def build_topology(settings: config.Distributed, ranks: int, ranks_per_node: int) -> Topology:
    """The topology of a job. Raises SettingsError if the settings do not fit the number of ranks.

    Stage 0 shards nothing. Otherwise `sharding_degree` ranks of one node (0: all of them) shard the states: sharding
    communicates in every layer, so it should not use the slower network between nodes.
    """
    if settings.stage == 0:
        return Topology(ranks, 1)
    degree = settings.sharding_degree or ranks_per_node
    require(
        ranks_per_node % degree == 0,
        f"distributed.sharding_degree={degree}: does not divide the {ranks_per_node} processes of a node, so a "
        "sharding group would cross nodes",
    )
    require(ranks % degree == 0, f"distributed.sharding_degree={degree}: does not divide the job's {ranks} processes")
    require(
        degree > 1 or not settings.offload,
        "distributed.offload=true: Paddle offloads shards, so it takes at least 2 processes on a node",
    )
    return Topology(ranks, degree)
