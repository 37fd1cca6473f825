"""Traces some steps of a run, in a file that Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev) open."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle import profiler

log = logging.getLogger(__name__)


class StepProfiler:
    """Paddle's profiler for the steps from steps[0] to steps[1], both included; none if `steps` is empty.

    The trace is `folder`/rank-00000_time_...paddle_trace.json. On a GPU it includes kernels and the communication of
    NCCL, which in sharding stages 2 and 3 overlaps the backward pass.
    """

    def __init__(self, steps: list[int], folder: Path, rank: int):
        self._steps, self._folder, self._rank = steps, folder, rank
        self._profiler: profiler.Profiler | None = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Trace this block if `step` is one of the steps. A run that ends meanwhile leaves the trace of its steps."""
        if self._profiler is None and self._steps and self._steps[0] <= step <= self._steps[1]:
            self._start()
        try:
            yield
        except BaseException:
            self.stop()
            raise
        if self._profiler is not None:
            if step >= self._steps[1]:
                self.stop()
            else:
                self._profiler.step()

    def stop(self) -> None:
        """Write the trace if one is being recorded."""
        if self._profiler is None:
            return
        self._profiler.stop()
        self._profiler = None
        log.info("%s: trace of steps %d to %d", self._folder, *self._steps)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write = profiler.export_chrome_tracing(str(self._folder), f"rank-{self._rank:05d}")
        self._profiler = profiler.Profiler(on_trace_ready=write)
        self._profiler.start()
