"""Where a run stands, and where its time goes."""

import itertools
import statistics
from dataclasses import dataclass

from vilg.distributed.folder_lock import HEARTBEAT_LIMIT_S
from vilg.monitoring.run_folder import RunFolder
from vilg.progress import duration

_RECENT = 200  # lines that count as the present
_PARTS = {
    "data_seconds": "waiting for data",
    "evaluation_seconds": "evaluation",
    "sample_images_seconds": "sample images",
    "save_seconds": "saving",
    "communication_seconds": "gradient reduction",
}
_NOTABLE = 0.1  # share of the time
_ADVICE = {
    "data_seconds": "raise data.threads, or tokenize once with `vilg data tokenize`",
    "evaluation_seconds": "raise train.eval_every",
    "sample_images_seconds": "raise train.sample_images_every",
    "save_seconds": "raise checkpoint.every_steps, or set checkpoint.asynchronous=true",
    "communication_seconds": "raise train.global_batch, so that a step has more micro-batches",
}
_GRACE = 60.0  # seconds without a step that say nothing yet


@dataclass(frozen=True)
class Summary:
    """Where a run stands.

    - state: one line, for example "running"
    - ended: all steps are done; is_stalled: somebody should look at it
    - shares: {part: share of the recent time}, where "computing" is the rest; empty if it is not known
    - advice: about parts that take notable time
    """

    state: str
    ended: bool
    is_stalled: bool
    step: int
    steps: int
    shares: dict[str, float]
    advice: list[str]


def summarize(run: RunFolder, now: float) -> Summary:
    """now: seconds since 1970."""
    step = int(run.lines[-1]["step"]) if run.lines else 0
    shares = _shares(run.lines[-_RECENT:])
    advice = [f"{_PARTS[name]}: {text}" for name, text in _ADVICE.items() if shares.get(_PARTS[name], 0.0) > _NOTABLE]
    state, ended, is_stalled = _state(run, step, now)
    return Summary(state, ended, is_stalled, step, run.settings.steps, shares, advice)


def _state(run: RunFolder, step: int, now: float) -> tuple[str, bool, bool]:
    """(state, whether it has ended as planned, whether somebody should look at it)."""
    steps, stop_at = run.settings.steps, run.settings.stop_at
    if steps and step >= steps:
        return "finished", True, False
    if stop_at and step >= stop_at:
        return f"ended at train.stop_at={stop_at}", True, False
    written, holder = run.written_at(), run.holder
    if holder is None and (written is None or "timestamp" in run.lines[-1]):  # a run of this version has a lock
        return "ended before its last step: no job uses this folder", False, True
    if holder is not None and (holder.has_ended or now - run.heartbeat > HEARTBEAT_LIMIT_S):
        return f"ended before its last step: {holder} is gone", False, True
    by = f", {holder}" if holder else ""
    if written is None:
        return f"started, no step yet{by}", False, False
    silent, expected = now - written, _longest_pause(run.lines[-_RECENT:])
    if silent <= max(_GRACE, 3 * expected):
        return f"running{by}", False, False
    state = f"no step for {duration(silent)}"
    if silent > run.settings.stall_timeout:
        return f"{state}: stalled (over cluster.stall_timeout){by}", False, True
    return f"{state} (usually {duration(expected)} at most): slow or stalled{by}", False, True


def _longest_pause(lines: list[dict[str, float]]) -> float:
    """The longest time between two recent lines, in seconds."""
    times = [line["timestamp"] for line in lines if "timestamp" in line]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    return max(pauses, default=max((line.get("seconds", 0.0) for line in lines), default=0.0))


def _shares(lines: list[dict[str, float]]) -> dict[str, float]:
    """The share of each part in the time between the first and the last of these lines."""
    if len(lines) < 2 or not all("timestamp" in line for line in lines):
        return {}
    pauses = [later["timestamp"] - earlier["timestamp"] for earlier, later in itertools.pairwise(lines)]
    usual = statistics.median(pauses)
    # Between two attempts nothing runs, for any time. This is none of the parts.
    counted = [
        (pause, line)
        for pause, line in zip(pauses, lines[1:])
        if pause > 0 and pause < 20 * usual + sum(line.get(name, 0.0) for name in _PARTS)
    ]
    total = sum(pause for pause, _ in counted)
    if not total:
        return {}
    shares = {label: sum(line.get(name, 0.0) for _, line in counted) / total for name, label in _PARTS.items()}
    shares = {label: share for label, share in shares.items() if share > 0}
    return {"computing": max(0.0, 1 - sum(shares.values()))} | shares
