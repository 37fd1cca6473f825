"""Model states in bytes. tests/fleet compares them with real jobs in fp32 and bf16."""

import pytest

from vilg import config
from vilg.plan.states import assign_greedily, padded_to_shards, padding, states

SHAPES = [[100, 10], [10], [50, 4], [7]]
ALL = 1000 + 10 + 200 + 7


def planned(shards: int, width: int, **settings):
    return states(SHAPES, config.Distributed(**settings), shards, width)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_shard_holds_everything(stage):
    (alone,) = planned(1, 2, stage=stage)
    assert (alone.parameters, alone.gradients, alone.masters, alone.moments) == (2 * ALL, 4 * ALL, 4 * ALL, 8 * ALL)
    assert planned(1, 2, stage=stage, amp_master_grad=False)[0].gradients == 2 * ALL
    assert planned(1, 4, stage=stage)[0].masters == 0


def test_whole_parameters_go_to_the_rank_with_the_fewest_elements():
    assert assign_greedily([5, 3, 3, 1], 2) == [6, 6]
    assert [one.moments for one in planned(2, 2, stage=1)] == [8 * 1000, 8 * 217]  # largest first
    assert [one.moments for one in planned(2, 2, stage=2)] == [8 * 1000, 8 * 217]  # in model order
    assert [one.gradients for one in planned(2, 2, stage=2)] == [4 * 1000, 4 * 217]
    assert [one.gradients for one in planned(2, 2, stage=1)] == [4 * ALL, 4 * ALL]


def test_stage_2_pads_parameters_to_256_bytes():
    assert [padding(size, 2) for size in (128, 1000, 10)] == [0, 24, 118]
    assert planned(2, 2, stage=2)[0].parameters == 2 * (1024 + 128 + 256 + 128)


def test_stage_3_slices_parameters_larger_than_segment_size():
    assert padded_to_shards(1000, 3, 2) == 1026 and padded_to_shards(1000, 2, 4) == 1024
    one, other = planned(2, 2, stage=3, segment_size=100)
    assert one == other
    assert one.parameters == 2 * (512 + 128 + 17) and one.moments == 8 * (512 + 128 + 17)
    assert one.gradients == 4 * (512 + 128 + 17 + 118 + 121)  # those of whole parameters are in one padded array


def test_offload_keeps_parameters_and_fp32_gradients_on_the_device():
    one = planned(2, 2, stage=3, segment_size=100, offload=True)[0]
    assert one.parameters == 2 * (512 + 128 + 17) and one.gradients == 4 * (512 + 128 + 17 + 118 + 121)
    assert one.masters == one.moments == 0
    assert one.host == (4 + 4 + 8) * (512 + 128 + 17)
