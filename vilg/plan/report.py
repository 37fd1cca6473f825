"""Formats a plan as text."""

from vilg.plan.estimate import RESERVE, Estimate
from vilg.plan.schedule import RunSchedule


def report(plan: Estimate) -> str:
    """Memory by purpose, then traffic, operations and time."""
    states = plan.states
    lines = [
        f"{plan.parameters:,} parameters on {plan.ranks} devices: {plan.replicas} replicas x {plan.shards} "
        f"shards, {plan.accumulation} micro-batches a step",
        "",
    ]
    device = {
        "parameters": states.parameters,
        "gradients": states.gradients,
        "master weights": states.masters,
        "moments": states.moments,
        **({"moving averages": states.averages} if states.averages else {}),
        "activations": plan.activations,
        "communication": plan.buffers,
    }
    if (idle := plan.update - plan.activations - plan.buffers) > 0:
        device["more during the update"] = idle
    device["reserve (assumed)"] = RESERVE
    if plan.device_bytes > (training := sum(device.values())):
        device["more at the start (whole model in fp32)"] = plan.device_bytes - training
    lines += _column("a device", device, plan.device_bytes, plan.device_limit)
    if plan.host_bytes:
        by_kind = {
            "gradients": states.host_gradients,
            "master weights": states.host_masters,
            "moments": states.host_moments,
            "moving averages": states.host_averages,
        }
        host = {name: size * plan.devices_per_node for name, size in by_kind.items() if size}
        host["copy for a checkpoint"] = plan.saving
        lines += ["", *_column("host memory of a node", host, plan.host_bytes, plan.host_limit)]
    again = f" and {plan.recomputed:.3g} recomputed" if plan.recomputed else ""
    lines += [
        "",
        "a step",
        f"  {'sent by a device inside its node':34}{_gb(plan.traffic.inside)}",
        f"  {'sent by a node to others':34}{_gb(plan.traffic.across)}",
        f"  {'device to host memory and back':34}{_gb(plan.traffic.host)}",
        f"  {'operations':34}{plan.operations:12.3g}{again}",
        f"  {'time at this utilisation':34}{plan.seconds:12.2f} s, without waiting for communication",
        "",
        *_run(plan.run),
    ]
    return "\n".join(lines)


def format_suggestion(better: tuple[list[str], Estimate] | None) -> str:
    """The result of `suggest` as text."""
    if better is None:
        return (
            "No change of micro-batch, recompute, stage or offload makes the job fit. Use a smaller model or larger "
            "devices."
        )
    overrides, plan = better
    return (
        f"Fits with: {' '.join(overrides)}\n  {_gb(plan.device_bytes).strip()} a device, "
        f"{_gb(plan.host_bytes).strip()} of host memory a node, {plan.seconds:.2f} s a step"
    )


def _run(run: RunSchedule) -> list[str]:
    cost = "" if run.cost is None else f", which cost {run.cost:,.0f}"
    save = "not known without cluster.storage_speed" if run.save_seconds is None else f"{run.save_seconds:12.1f} s"
    verdict = {True: "suffices for both", False: "DOES NOT SUFFICE for both", None: "suffices for the micro-batch"}
    return [
        "the run at this pace, without evaluations, saves and restarts",
        f"  {'time for train.steps':34}{run.days:12.1f} days",
        f"  {'devices':34}{run.device_hours:12,.0f} device hours{cost}",
        f"  {'between checkpoints':34}{_hours(run.checkpoint_hours)}",
        f"  {'between held-out evaluations':34}{_hours(run.eval_hours)}",
        f"  {'to write a checkpoint':34}{save}",
        f"  {'a micro-batch':34}{run.micro_batch_seconds:12.1f} s",
        f"  {'notice before SIGKILL':34}{run.notice_seconds:12} s: {verdict[run.notice_suffices]}",
    ]


def _hours(hours: float | None) -> str:
    return "none before the end" if hours is None else f"{hours:12.2f} hours"


def _column(title: str, parts: dict[str, int], total: int, limit: int) -> list[str]:
    verdict = "fits" if total <= limit else "DOES NOT FIT"
    return [
        title,
        *(f"  {name:34}{_gb(size)}" for name, size in parts.items()),
        f"  {'total':34}{_gb(total)} of {limit / 1e9:.0f}: {verdict}",
    ]


def _gb(size: float) -> str:
    return f"{size / 1e9:12.2f} GB"
