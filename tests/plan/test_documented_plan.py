"""The figures of docs/launch.md are those that `vilg plan` computes for fleet_configs/10b.yaml."""

import re

import pytest

from tests.processes import ROOT
from vilg import config
from vilg.plan.estimate import RESERVE, Estimate, estimate
from vilg.plan.input_sizes import PAPER

PAGE = (ROOT / "docs/launch.md").read_text("utf-8")
COLUMNS = ([], ["distributed.stage=3", "distributed.offload=true"])
ROWS = {
    "states on a device": lambda plan: plan.states.device / 1e9,
    "activations, with recomputation": lambda plan: plan.activations / 1e9,
    f"a device, with a reserve of {RESERVE // 10**9} GB": lambda plan: plan.device_bytes / 1e9,
    "host memory of a node, including the copy for saving": lambda plan: plan.host_bytes / 1e9,
    "sent by a device inside its node, per step": lambda plan: plan.traffic.inside / 1e9,
    "sent by a node to others, per step": lambda plan: plan.traffic.across / 1e9,
    "a device to host memory and back, per step": lambda plan: plan.traffic.host / 1e9,
    "arithmetic at 0.4 of 312 TFLOPS": lambda plan: plan.seconds,
}


def planned(nodes: int, *overrides: str) -> Estimate:
    settings = config.resolve(
        config.Pretraining, ROOT / "fleet_configs/10b.yaml", [f"cluster.nodes={nodes}", *overrides]
    )
    return estimate(settings, PAPER, 0.4)


def rounded_like(written: str, value: float) -> str:
    """The value with as many decimals as the written number."""
    decimals = len(written.partition(".")[2])
    return f"{value:,.{decimals}f}"


def number(cell: str) -> str:
    return re.match(r"[\d,.]+", cell).group()


@pytest.mark.parametrize("column", [0, 1], ids=["stage 2", "stage 3, offload"])
def test_the_table_shows_what_the_plan_says(column):
    plan = planned(4, *COLUMNS[column])
    assert "| 4 nodes of 8 devices, micro-batches of 16 | stage 2 | stage 3, offload |" in PAGE
    for label, figure in ROWS.items():
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {label} |")]
        written = number(line.split("|")[2 + column].strip())
        assert rounded_like(written, figure(plan)) == written, label


def test_the_sentences_around_the_table_say_the_same():
    eight = planned(8)
    seconds, sent = re.search(r"(\d+) seconds of\s+arithmetic .* and (\d+) GB sent by each node", PAGE).groups()
    assert (round(eight.seconds), round(eight.traffic.across / 1e9)) == (int(seconds), int(sent))
    assert f"({eight.start / 1e9:.1f} GB for ten billion parameters)" in PAGE
    across = planned(4, *COLUMNS[1]).traffic.across / 1e9
    assert f"{round(across, -1):,.0f} GB per step are {across / 50:.0f} seconds at 50 GB/s" in PAGE


def test_the_days_of_the_whole_run_are_those_of_the_plan():
    four, eight = planned(4).run, planned(8).run
    said = f"{four.days:.0f} days on 4 nodes"
    assert said in PAGE and f"{eight.days:.0f} days on 8" in PAGE
    yaml = (ROOT / "fleet_configs/10b.yaml").read_text("utf-8")
    assert said in yaml and f"{eight.days:.0f} days on 8 nodes: {four.device_hours:,.0f} device hours" in yaml
    performance = (ROOT / "docs/performance.md").read_text("utf-8")
    assert f"{four.days:.0f} days; on 8 nodes {eight.days:.0f} days" in performance
    assert f"takes {planned(4).seconds:.0f} seconds on 4 nodes" in performance
