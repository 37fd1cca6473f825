"""Ranks are arranged as replicas x shards, and invalid arrangements are refused."""

import pytest

from vilg.config import Distributed
from vilg.distributed.topology import Topology, build_topology
from vilg.errors import SettingsError


def test_two_nodes_of_four_by_hand():
    topology = build_topology(Distributed(stage=3), ranks=8, ranks_per_node=4)
    assert (topology.shards, topology.replicas) == (4, 2)
    assert topology.sharding_group(6) == [4, 5, 6, 7] and topology.replica_group(6) == [2, 6]


@pytest.mark.parametrize("ranks, shards", [(8, 4), (8, 2), (8, 1), (6, 3), (4, 4), (1, 1)])
def test_every_rank_has_unique_coordinates(ranks, shards):
    topology = Topology(ranks, shards)
    for rank in range(ranks):
        sharding, replicas = topology.sharding_group(rank), topology.replica_group(rank)
        assert set(sharding) & set(replicas) == {rank}
        assert sharding[rank % shards] == rank and len(sharding) == shards and len(replicas) == topology.replicas
        assert all(topology.sharding_group(peer) == sharding for peer in sharding)
        assert all(topology.replica_group(peer) == replicas for peer in replicas)


def test_stage_0_shards_nothing():
    assert build_topology(Distributed(), ranks=8, ranks_per_node=4) == Topology(8, 1)


@pytest.mark.parametrize(
    "degree, ranks, node, message",
    [
        (3, 8, 8, "does not divide the 8 processes of a node"),
        (8, 16, 4, "does not divide the 4 processes of a node"),
        (4, 6, 4, "does not divide the job's 6 processes"),
    ],
)
def test_a_degree_that_does_not_fit_is_refused(degree, ranks, node, message):
    with pytest.raises(SettingsError, match=f"distributed.sharding_degree={degree}: .*{message}"):
        build_topology(Distributed(stage=2, sharding_degree=degree), ranks, node)


def test_offload_without_shards_is_refused():
    with pytest.raises(SettingsError, match="distributed.offload=true: .* at least 2 processes"):
        build_topology(Distributed(stage=3, offload=True), ranks=1, ranks_per_node=1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"stage": 4}, "stage=4"),
        ({"sharding_degree": 2}, "stage 0 has no shards"),
        ({"stage": 2, "offload": True}, "requires stage 3"),
        ({"recompute": "all"}, "recompute=all"),
        ({"recompute": "0"}, "recompute=0"),
        ({"precision": "fp8"}, "precision=fp8"),
        ({"stage": 3, "segment_size": -1}, "segment_size=-1"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        Distributed(**settings)
