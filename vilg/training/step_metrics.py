"""What an operator watches: time, speed, utilization and memory of a step. docs/monitoring.md defines each value."""

import math
import time

import numpy as np

from vilg import config
from vilg.distributed.engine import Engine
from vilg.distributed.world import World
from vilg.training.device_memory import memory_used
from vilg.training.objective import Objective
from vilg.training.step_timer import StepTimer
from vilg.training.utilization import peak_flops

_REDUCTION = "communication_seconds"


class StepMetrics:
    """Computes the values that each line of metrics.jsonl has in addition to losses.

    Nothing here takes part in training: results are equal with and without it, to the last bit.
    """

    def __init__(self, settings: config.Train, objective: Objective, engine: Engine, world: World):
        self.timer = StepTimer()
        self._unit = objective.throughput_unit
        self._engine, self._world = engine, world
        peak = peak_flops(settings.peak_tflops, engine.precision.is_half)
        # The share of the peak that one sample a second would be.
        self._mfu = objective.flops_per_sample() / (world.ranks * peak) if peak else 0.0

    def line(self, step: dict[str, float], samples: int, samples_left: int) -> dict[str, float]:
        """The values of a step that ends now. All ranks call this; the values of rank 0 are those of the job.

        step: what the training step returned. samples: in the training data. samples_left: that the run will still
        consume.
        """
        seconds, batch = step["seconds"], int(step["global_batch"])
        # Other ranks wait for the slowest one, and the fullest one is the first to run out of memory. The rank that
        # started last to reduce gradients did not wait for others, so of this time the smallest counts.
        reduction = self._engine.reduction_seconds
        measured = self.timer.take() | memory_used() | ({} if reduction is None else {_REDUCTION: -reduction})
        largest = self._world.max(measured)
        if reduction is not None:
            largest[_REDUCTION] *= -1
        values = {
            "epoch": step["consumed_samples"] / samples,
            f"{self._unit}_per_second_per_device": step[f"{self._unit}_per_second"] / self._world.ranks,
            "data_wait_share": min(1.0, largest.get("data_seconds", 0.0) / seconds),
            **largest,
            "eta_seconds": self.timer.end_step(seconds, batch, samples_left),
        }
        if self._mfu:
            values["mfu"] = self._mfu * batch / seconds
        if "scale" in (scaler := self._engine.loss_scale):
            values["loss_scale"] = float(np.ravel(scaler["scale"])[0])
        norms = self._engine.group_norms
        values |= {f"grad_norm/{group}": norm for group, norm in norms.items() if math.isfinite(norm)}
        # Six digits are enough for all but the time of day.
        return {name: float(f"{value:.6g}") for name, value in values.items()} | {"timestamp": round(time.time(), 3)}
