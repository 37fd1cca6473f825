"""Steps whose loss or gradient norm is not finite, or far above its recent values, and the record of those passed over.

PaLM (arXiv 2204.02311, section 5.1) saw about 20 spikes in spite of clipping. Its authors restarted from a checkpoint
before the spike and passed over the batches seen before and during it, after which the loss did not rise again. That is
`train.on_spike: rollback`; `skip` leaves out the one step and keeps the weights.
"""

import json
import logging
import math
from collections import deque
from pathlib import Path

import numpy as np

from vilg import config
from vilg.distributed.world import World
from vilg.errors import UserError
from vilg.files import write_atomically

log = logging.getLogger(__name__)

NOT_FINITE = "not finite"  # the reason of a SpikeError
_MAD_TO_DEVIATION = 1.4826  # the median absolute deviation of a normal distribution, times this, is its deviation
_MIN_DEVIATION = 1e-3  # of the median, for losses that hardly vary


class SpikeError(Exception):
    """A step that must not be taken, on all ranks. `figures`: the values that show it."""

    def __init__(self, reason: str, **figures: float):
        self.reason, self.figures = reason, figures
        super().__init__(f"{reason} ({', '.join(f'{name} {value:g}' for name, value in figures.items())})")


class Spikes:
    """Recognizes spikes, and records the data that the run has passed over because of them.

    The record and the recent values are part of a checkpoint, so that a resumed run decides like an uninterrupted one.
    Rank 0 writes the record to spikes.jsonl in the folder of the run.
    """

    def __init__(self, settings: config.Train, folder: Path, world: World):
        self.settings, self.world, self._file = settings, world, folder / "spikes.jsonl"
        self.records: list[dict] = []
        self._recent = {name: deque[float](maxlen=settings.spike_window) for name in ("loss", "grad_norm")}

    @property
    def compares(self) -> bool:
        """Whether finite values can be spikes."""
        return self.settings.spike_threshold > 0

    @property
    def far(self) -> str:
        """The reason of a SpikeError for a finite value."""
        return f"far above the last {self.settings.spike_window} steps"

    def is_far(self, name: str, value: float) -> bool:
        """Whether a loss or grad_norm exceeds the median of the last `spike_window` steps by `spike_threshold`
        deviations, which are estimated by the median absolute deviation. Earlier spikes distort neither.
        """
        recent = self._recent[name]
        if not self.compares or len(recent) < self.settings.spike_window:
            return False
        values = np.array(recent)
        median = float(np.median(values))
        deviation = max(_MAD_TO_DEVIATION * float(np.median(abs(values - median))), _MIN_DEVIATION * abs(median))
        return value > median + self.settings.spike_threshold * deviation

    def accepts_norm(self, norm: float) -> bool:
        """Whether an update with a gradient of this norm may be made."""
        return not self.is_far("grad_norm", norm)

    def add_step(self, loss: float, grad_norm: float) -> None:
        """Remember the values of a step that was made."""
        if self.compares:
            self._recent["loss"].append(loss)
            if math.isfinite(grad_norm):  # in fp16 the scaler skips a step now and then
                self._recent["grad_norm"].append(grad_norm)

    def check_limit(self, spike: SpikeError, step: int) -> None:
        """Raise UserError if the run has passed over `train.max_spikes` spikes already."""
        if len(self.records) >= self.settings.max_spikes:
            raise UserError(
                f"step {step}: {spike}; {len(self.records)} spikes have been passed over before (train.max_spikes)"
            )

    def record(self, spike: SpikeError, step: int, begin: int, end: int) -> None:
        """Record that the samples at positions [begin, end) of the run are passed over. All ranks call this."""
        figures = {name: value if math.isfinite(value) else str(value) for name, value in spike.figures.items()}
        policy = self.settings.on_spike
        self.records.append(
            {"step": step, "policy": policy, "reason": spike.reason, **figures, "samples": [begin, end]}
        )
        self.write()
        if self.world.is_rank_zero:
            log.warning(
                "step %d: %s; samples %d to %d are passed over (train.on_spike=%s)", step, spike, begin, end - 1, policy
            )

    def write(self) -> None:
        """Make spikes.jsonl equal to the record. All ranks call this."""
        with self.world.fail_together():
            if self.world.is_rank_zero and (self.records or self._file.exists()):
                write_atomically(self._file, "".join(json.dumps(line) + "\n" for line in self.records).encode())

    def state(self) -> dict:
        """What a checkpoint stores, in JSON types."""
        recent = {name: list(values) for name, values in self._recent.items() if values}
        return recent | ({"records": list(self.records)} if self.records else {})

    def load_state(self, state: dict) -> None:
        """Load what `state` returned."""
        self.records = list(state.get("records", []))
        for name, values in self._recent.items():
            values.clear()
            values.extend(state.get(name, []))
