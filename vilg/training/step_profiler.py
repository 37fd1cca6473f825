"""Traces some steps of a run, in a file that Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev) open."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle import profiler

from vilg import config
from vilg.distributed.world import World

log = logging.getLogger(__name__)


class StepProfiler:
    """Paddle's profiler for the steps from train.profile[0] to train.profile[1], both included.

    The trace of each rank in train.profile_ranks is `folder`/rank-00000_time_*.paddle_trace.json. On a GPU it includes
    kernels and the communication of NCCL, which in sharding stages 2 and 3 overlaps the backward pass.
    """

    def __init__(self, settings: config.Train, folder: Path, world: World):
        """Raises SettingsError for a rank that does not exist."""
        config.require(
            not settings.profile or max(settings.profile_ranks, default=0) < world.ranks,
            f"train.profile_ranks={settings.profile_ranks}: this job has {world.ranks} ranks",
        )
        self._steps = settings.profile if world.rank in settings.profile_ranks else []
        self._folder, self._rank = folder, world.rank
        self._profiler: profiler.Profiler | None = None

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Trace this block if `step` is one of the steps. A run that ends meanwhile leaves the trace of its steps."""
        if self._profiler is not None:
            self._profiler.step()
        elif self._steps and self._steps[0] <= step <= self._steps[1]:
            self._start()
        try:
            yield
        except BaseException:
            self.stop()
            raise
        if self._steps and step >= self._steps[1]:
            self.stop()

    def stop(self) -> None:
        """Write the trace if one is being recorded."""
        if self._profiler is None:
            return
        self._profiler.stop()
        self._profiler = None
        log.info("%s: the trace that train.profile asked for", self._folder)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write = profiler.export_chrome_tracing(str(self._folder), f"rank-{self._rank:05d}")
        self._profiler = profiler.Profiler(on_trace_ready=write)
        self._profiler.start()
