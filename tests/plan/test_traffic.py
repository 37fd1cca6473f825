"""Traffic in bytes. tests/fleet/test_sharded_training.py compares the collectives with real jobs."""

import pytest

from vilg import config
from vilg.distributed.topology import Topology
from vilg.plan.traffic import collectives, traffic

SHAPES = {
    "embed_text.words.weight": [1000],
    "blocks.0.attention.qkv.weight": [2000],
    "blocks.0.mlp.out.weight": [500],
    "text_head.weight": [300],
    "image_head.weight": [200],
}
ALL = 4000


def sent(ranks: int, shards: int, per_node: int, accumulation: int = 1, **settings):
    return traffic(SHAPES, config.Distributed(**settings), Topology(ranks, shards), per_node, accumulation, 2)


def test_single_rank_sends_nothing():
    one = sent(1, 1, 8)
    assert (one.inside, one.across) == (0, 0)


def test_a_ring_over_nodes_leaves_each_node_once():
    ring = 2 * 3 / 4 * 4 * ALL  # what each of four ranks sends, in fp32
    one = sent(4, 1, 2)
    assert (one.inside, one.across) == (ring, ring)


def test_each_shard_is_all_reduced_between_nodes():
    one = sent(4, 2, 2, stage=1)
    assert one.inside == 1 / 2 * 4 * ALL + 1 / 2 * 2 * ALL  # gradients reduced in fp32, parameters broadcast in bf16
    assert one.across == 2 * (2 * 1 / 2 * 4 * ALL / 2)  # both shards, each all-reduced between two replicas


def test_stage_1_communicates_once_per_step_whatever_the_accumulation():
    assert sent(4, 2, 2, 8, stage=1) == sent(4, 2, 2, 1, stage=1)
    assert sent(4, 2, 2, 8, stage=2).inside > 4 * sent(4, 2, 2, 1, stage=2).inside


def test_offload_copies_gradients_and_parameters_once_a_step_whatever_the_accumulation():
    """In fp32 in both directions: half of each sharded parameter, and all of the small one."""
    padded = sum(-(-size // 128) * 128 for size in (1000, 2000, 500, 300))
    settings = {"stage": 3, "offload": True, "segment_size": 200}
    assert sent(4, 2, 2, **settings).host == 2 * 4 * (padded / 2 + 200)
    assert sent(4, 2, 2, 8, **settings).host == sent(4, 2, 2, 1, **settings).host
    assert sent(4, 2, 2, **settings | {"offload": False}).host == 0


@pytest.mark.parametrize(
    "recompute, fetched", [("none", 2 * 3500 * 2 + 2 * 500), ("block", 2 * 3500 * 2 + 2 * 500 + 2 * 2000)]
)
def test_stage_3_gathers_the_parameters_that_each_direction_uses(recompute, fetched):
    """Once for forward and once for backward. A recomputed block gathers all but its last layer once more."""
    rounded = {size: -(-size // 128) * 128 for size in (1000, 2000, 500, 300, 200)}
    exact = fetched + sum(
        (rounded[size] - size) * times
        for size, times in ((1000, 4), (2000, 4 if recompute == "none" else 6), (500, 4), (300, 2), (200, 2))
    )
    settings = config.Distributed(stage=3, segment_size=100, recompute=recompute)
    found = {
        one.kind: one.elements for one in collectives(SHAPES, settings, Topology(2, 2), 1, 2) if one.over == "shards"
    }
    assert found["all_gather"] == exact
