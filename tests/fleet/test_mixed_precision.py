"""16 bits on several processes: every sharding stage trains as one process does, with fp32 masters and gradients, and
needs the memory that `vilg plan` says. The program also checks after each step that parameters are rounded masters.
"""

import numpy as np
import pytest

from tests.fleet.test_sharded_training import SPLIT, check_host_traffic, check_memory, check_traffic, train
from vilg import config
from vilg.distributed.topology import build_topology

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(200)]

BYTES = 2  # of a parameter

CASES = {
    "stage 0": (2, {}, 1),
    "stage 1, accumulation": (2, {"stage": 1}, 4),
    "stage 2, 2 x 2": (4, {"stage": 2, "sharding_degree": 2}, 1),
    "stage 3, accumulation, recompute": (2, {"stage": 3, "recompute": "block", **SPLIT}, 4),
    "stage 3, 2 x 2": (4, {"stage": 3, "sharding_degree": 2, **SPLIT}, 1),
    "stage 3, offload": (2, {"stage": 3, "offload": True, "segment_size": 300}, 1),
}


def lines(report: dict) -> np.ndarray:
    """The two losses and the gradient norm of each step."""
    return np.array(report["lines"])


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """{precision: the lines of one process}."""
    folder = tmp_path_factory.mktemp("precision")
    return {name: lines(train(folder / name, 1, {"precision": name}, 1)[0]) for name in ("fp32", "bf16", "fp16")}


def test_16_bits_train_as_fp32(one_process):
    for name in ("bf16", "fp16"):
        assert np.abs(one_process[name] / one_process["fp32"] - 1).max() < 0.01
        assert not (one_process[name] == one_process["fp32"]).all()


@pytest.mark.parametrize("case", CASES)
def test_every_stage_trains_in_bf16_as_one_process(one_process, tmp_path, case):
    processes, settings, accumulation = CASES[case]
    settings = {"precision": "bf16"} | settings
    ranks = train(tmp_path / "out", processes, settings, accumulation)
    # Micro-batches of other sizes round other sums. A loss is a mean of hundreds of such errors of 2^-9.
    assert np.abs(lines(ranks[0]) / one_process["bf16"] - 1).max() < 2e-3
    distributed = config.Distributed(**settings)
    topology = build_topology(distributed, processes, processes)
    check_memory(ranks, distributed, topology, BYTES)
    check_traffic(ranks, distributed, topology, accumulation, width=BYTES)
    check_host_traffic(ranks, distributed, topology, BYTES)


@pytest.mark.parametrize(
    "precision, stage", [("fp16", {}), ("fp16", {"stage": 2}), ("bf16", {"stage": 3, **SPLIT})], ids=str
)
def test_gradients_of_the_type_of_the_parameters(one_process, tmp_path, precision, stage):
    """distributed.amp_master_grad=false halves the memory of gradients, which ranks then add in 16 bits."""
    settings = {"precision": precision, "amp_master_grad": False} | stage
    ranks = train(tmp_path / "out", 2, settings, 1)
    assert np.abs(lines(ranks[0]) / one_process[precision] - 1).max() < 2e-2
    check_memory(ranks, config.Distributed(**settings), build_topology(config.Distributed(**settings), 2, 2), BYTES)


@pytest.mark.parametrize("stage", [{}, {"stage": 1}, {"stage": 3, **SPLIT}], ids=str)
def test_all_ranks_skip_a_step_that_overflows_in_fp16(one_process, tmp_path, stage):
    """The gradient of one rank exceeds fp16: no rank updates, and all halve the loss scale."""
    ranks = train(tmp_path / "out", 2, {"precision": "fp16"} | stage, 1, "--overflow")
    for rank in ranks:
        assert rank["overflow"] == {"scale": 0.5, "updated": False}
    assert np.abs(lines(ranks[0]) / one_process["fp16"] - 1).max() < 2e-3
