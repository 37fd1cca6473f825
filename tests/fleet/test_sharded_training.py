"""Training with every stage of sharding equals training on one process, and needs the memory that `vilg plan` says."""

import json
import sys
from collections import Counter
from math import prod
from pathlib import Path

import numpy as np
import pytest

from tests.processes import ROOT, run
from vilg import checkpoint, config
from vilg.distributed.topology import Topology, build_topology
from vilg.plan.states import states
from vilg.plan.traffic import collectives, host_copies

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(200)]

PROGRAM = ROOT / "tests" / "fleet" / "sharded_program.py"
FP32 = 4  # bytes
SPLIT = {"segment_size": 0}  # with Paddle's default 2^20, stage 3 would not shard this model


def train(out: Path, processes: int, settings: dict, accumulation: int, *more: str) -> list[dict]:
    """The reports of all ranks."""
    out.mkdir()
    settings = {"precision": "fp32"} | settings
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir", str(out / "log")]
    done = run([*start, str(PROGRAM), str(out), json.dumps(settings), str(accumulation), *more], out, seconds=150)
    logs = "".join(log.read_text(errors="replace")[-3000:] for log in sorted(out.glob("log/workerlog.*")))
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{logs}"
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """(report, tensors) of one process."""
    out = tmp_path_factory.mktemp("sharded") / "alone"
    return train(out, 1, {}, 1)[0], parameters(out)


def parameters(out: Path) -> dict[str, np.ndarray]:
    tensors = checkpoint.load(out / "step-00000010")[1]
    return {name: value for name, value in tensors.items() if name.startswith(("model/", "moment1/", "ema/"))}


def check(one_process, out, ranks):
    alone, expected = one_process
    assert np.abs(np.array(alone["lines"]) - np.array(ranks[0]["lines"])).max() < 1e-5
    check_group_norms(alone, ranks)
    ours = parameters(out)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        # The gradient of a key bias is 0 up to rounding, and Adam turns this rounding into steps.
        difference = np.abs(ours[name] - value)
        if name.endswith("qkv.bias"):
            difference = np.delete(difference.reshape(3, -1), 1, axis=0)
        assert difference.max() < 1e-4, name
    for name, value in alone["averaged"].items():  # the model has the averages while images are generated
        assert all(abs(rank["averaged"][name] / value - 1) < 1e-5 for rank in ranks)


def check_group_norms(alone: dict, ranks: list[dict]):
    """Every rank has the gradient norms of all groups, and together they are the norm of the whole gradient."""
    heads = {name.partition(".")[0] for name in alone["shapes"] if "_head." in name}
    assert set(alone["group_norms"][0]) == {
        *("embed_text", "embed_image", "norm", *heads),
        *(f"blocks_{number}" for number in range(4)),
    }
    for step, norms in enumerate(alone["group_norms"]):
        assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(alone["lines"][step][2], rel=1e-5)
        for rank in ranks:
            assert rank["group_norms"][step] == pytest.approx(norms, rel=1e-3, abs=1e-5)


def check_memory(ranks: list[dict], settings: config.Distributed, topology: Topology, width: int = FP32):
    """Every rank stores exactly as many bytes as `vilg plan` predicts."""
    planned = states(list(ranks[0]["shapes"].values()), settings, topology.shards, width)
    for number, rank in enumerate(ranks):
        plan, held = planned[number % topology.shards], rank["held"]
        assert held["moments"] == plan.moments + plan.host_moments
        assert held["parameters"] == plan.parameters and held["gradients"] == plan.gradients
        assert held["masters"] == plan.masters + plan.host_masters
        plan = plan.with_averages()
        assert FP32 * rank["averages"] == plan.averages + plan.host_averages


def check_host_traffic(ranks: list[dict], settings: config.Distributed, topology: Topology, width: int = FP32):
    """A step copies each gradient to the host and each parameter back once, however many micro-batches it has.

    Small parameters, which are not sharded, come back in another way that is not counted here.
    """
    shapes = ranks[0]["shapes"]
    to_host, to_device = host_copies(shapes, settings, topology, width)
    small = sum(size for size in map(prod, shapes.values()) if size <= settings.segment_size)
    expected = {"to host": to_host, "to device": to_device - small} if settings.offload else {}
    assert all(rank["copied"] == expected for rank in ranks)


def check_traffic(
    ranks: list[dict],
    settings: config.Distributed,
    topology: Topology,
    accumulation: int,
    directions: int = 2,
    width: int = FP32,
):
    """A step sends as many elements as `vilg plan` predicts, plus a few for the gradient norm."""
    planned, sent = Counter(), Counter()
    for one in collectives(ranks[0]["shapes"], settings, topology, accumulation, width, directions):
        members = topology.shards if one.over == "shards" else topology.replicas
        if members > 1:
            planned[f"{one.kind} {members}"] += one.elements
    for rank in ranks:
        sent.update(rank["sent"])
    of_norms = {f"all_reduce {topology.shards}"} if topology.shards > 1 else set()
    assert sent.keys() == planned.keys() | of_norms
    groups = len(ranks[0]["group_norms"][0])
    assert all(0 <= sent[kind] / len(ranks) - planned[kind] <= 2 + groups for kind in sent), (sent, planned)


CASES = {
    "stage 1, accumulation": (2, {"stage": 1}, 4),
    "stage 2, accumulation": (2, {"stage": 2}, 4),
    "stage 3, accumulation, recompute": (2, {"stage": 3, "recompute": "block", **SPLIT}, 4),
    "stage 3, offload, accumulation, recompute": (
        2,
        {"stage": 3, "offload": True, "recompute": "2", "segment_size": 300},
        4,
    ),
    "stage 1, 2 x 2": (4, {"stage": 1, "sharding_degree": 2}, 1),
    "stage 2, 2 x 2": (4, {"stage": 2, "sharding_degree": 2}, 1),
    "stage 3, 2 x 2": (4, {"stage": 3, "sharding_degree": 2, **SPLIT}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_sharded_training_equals_training_on_one_process(one_process, tmp_path, case):
    processes, settings, accumulation = CASES[case]
    ranks = train(tmp_path / "out", processes, settings, accumulation)
    check(one_process, tmp_path / "out", ranks)
    distributed = config.Distributed(**settings)
    topology = build_topology(distributed, processes, processes)
    check_memory(ranks, distributed, topology)
    check_traffic(ranks, distributed, topology, accumulation)
    check_host_traffic(ranks, distributed, topology)
    # In stages 2 and 3, reductions are part of the backward pass.
    assert all((rank["reduction_seconds"] is not None) == (distributed.stage == 1) for rank in ranks)
    largest = {what: max(rank["held"][what] for rank in ranks) / ranks[0]["total"] for what in ranks[0]["held"]}
    half, whole = pytest.approx(0.5, abs=0.02), pytest.approx(1, abs=0.02)
    assert largest["moments"] == pytest.approx(1, abs=0.04)  # two of each parameter
    assert largest["gradients"] == (half if distributed.stage >= 2 else whole)
    assert largest["parameters"] == (half if distributed.stage == 3 else whole)
    if distributed.stage == 1:
        assert [rank["while_computing"] for rank in ranks] == [
            0
        ] * processes  # no communication before the last micro-batch


@pytest.fixture(scope="module")
def one_direction(tmp_path_factory):
    """(metrics, tensors) of one process that trains text-to-image only."""
    out = tmp_path_factory.mktemp("sharded") / "one direction"
    return train(out, 1, {}, 1, "--direction", "text_to_image")[0], parameters(out)


@pytest.mark.parametrize("settings", [{"stage": 1}, {"stage": 2}, {"stage": 3, "offload": True, **SPLIT}], ids=str)
def test_training_one_direction(one_direction, tmp_path, settings):
    """The output layer of the other direction is frozen: no rank waits for its gradient."""
    ranks = train(tmp_path / "out", 2, settings, 1, "--direction", "text_to_image")
    check(one_direction, tmp_path / "out", ranks)
    distributed = config.Distributed(**settings)
    check_traffic(ranks, distributed, build_topology(distributed, 2, 2), 1, directions=1)


def test_a_moving_average_is_resumed_on_another_number_of_ranks(one_process, tmp_path):
    """Five steps on two ranks in stage 2 and five on four ranks in stage 3 give the average of ten on one process."""
    train(tmp_path / "half", 2, {"stage": 2}, 1, "--steps", "5")
    resume = ["--resume", str(tmp_path / "half" / "step-00000005")]
    train(tmp_path / "out", 4, {"stage": 3, "sharding_degree": 2, **SPLIT}, 1, *resume)
    ours, (_, expected) = parameters(tmp_path / "out"), one_process
    averages = [name for name in expected if name.startswith("ema/")]
    assert len(averages) > 50
    for name in averages:
        difference = np.abs(ours[name] - expected[name])
        if name.endswith("qkv.bias"):  # see check
            difference = np.delete(difference.reshape(3, -1), 1, axis=0)
        assert difference.max() < 1e-4, name
        assert np.abs(expected[name] - expected[name.replace("ema/", "model/")]).max() > 1e-3
