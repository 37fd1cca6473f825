"""Saving while the training goes on, so that each checkpoint either exists whole or not at all."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from vilg import config
from vilg.checkpoint import slices
from vilg.checkpoint.format import CheckpointError, step_directory
from vilg.checkpoint.publish import CheckpointInfo, ShardResult, prune, publish, rank_file, tensor_chunk
from vilg.checkpoint.storage import Location, Storage, join, open_storage
from vilg.distributed.states import TensorShard
from vilg.distributed.world import World

log = logging.getLogger(__name__)


class CheckpointManager:
    """Writes the checkpoints of a run. Every rank calls `save`, `advance` and `finish`, at the same steps.

    Asynchronously: `save` copies what this rank holds into buffers of the host and returns; a thread writes and
    hashes them. Once every rank is `ready`, `advance` gathers the results, and a thread of rank 0 writes the manifest
    and gives the checkpoint its name; once that is done, `advance` concludes. In place: `save` does all of it.

    A failure on any rank leaves the older checkpoints as they were. It raises CheckpointError on all ranks, or, with
    `on_failure: continue`, is an error in the log.
    """

    def __init__(self, folder: Location, world: World, settings: config.Checkpoint, storage: Storage | None = None):
        self.folder, self.world, self.settings = folder, world, settings
        self.newest: Location | None = None  # the last checkpoint of this run
        self.newest_step = 0  # its step; of none 0
        self.stall_seconds = 0.0  # seconds that the training has stood still for the last save
        self._storage = storage or open_storage(folder)
        self._buffers: dict[str, np.ndarray] = {}
        self._save: _PendingSave | None = None

    @property
    def ready(self) -> bool:
        """Whether this rank waits for `advance`."""
        return self._save is not None and self._save.task.done

    def save(self, parts: list[TensorShard], about: CheckpointInfo) -> None:
        """Save what all ranks hold. Ranks that hold the same part share the writing. A save that is still under way is
        waited for."""
        self.finish()
        began = time.perf_counter()
        with self._handle_failure(about.step):
            with self._on_every_rank("make its folder"):
                unfinished = self._storage.begin(step_directory(about.step)) if self.world.is_rank_zero else None
            self._save = save = _PendingSave(
                self.world.gather(unfinished)[0], assign_shards(parts, self.world.rank), about
            )
            with self._on_every_rank("copy its share"):
                if self.settings.asynchronous:
                    self._copy(save.parts)
                    contents = [tensor_chunk(part, partial(self._buffers.get, part.name)) for part in save.parts]
                else:
                    contents = [tensor_chunk(part, part.read) for part in save.parts]
                save.task = _Task(
                    slices.write, self._storage, f"{save.unfinished}/{rank_file(self.world.rank)}", contents
                )
        self.stall_seconds = time.perf_counter() - began
        if not self.settings.asynchronous:
            self.finish()

    def advance(self) -> None:
        """Take the save under way, whose every rank is ready, one stage on."""
        began, save = time.perf_counter(), self._save
        with self._handle_failure(save.about.step):
            with self._on_every_rank("write the manifest" if save.written else "write its share"):
                result = save.task.result()
            if save.written is None:
                save.seconds, save.written = save.task.seconds, self.world.gather(ShardResult.of(result, save.parts))
                save.task = _Task(self._publish, save) if self.world.is_rank_zero else _Task(lambda: None)
            else:
                self._save, self.newest_step = None, save.about.step
                self.newest = join(self.folder, step_directory(save.about.step))
                self.stall_seconds += time.perf_counter() - began
                if self.world.is_rank_zero:
                    log.info(
                        "saved %s: %.1f MB; training stood still for %.3f s, written in %.2f s",
                        self.newest,
                        sum(one.file.size for one in save.written) / 1e6,
                        self.stall_seconds,
                        save.seconds,
                    )
                return
        self.stall_seconds += time.perf_counter() - began

    def finish(self) -> None:
        """Wait until the save under way, if there is one, is a checkpoint."""
        while self._save is not None:
            began = time.perf_counter()
            self._save.task.wait()
            self.stall_seconds += time.perf_counter() - began
            self.advance()

    def _publish(self, save: "_PendingSave") -> None:
        topology = {"ranks": self.world.ranks, "shards": self.world.topology.shards}
        publish(self._storage, save.unfinished, save.about, topology, save.written)
        save.published = True
        prune(self.folder, self._storage, save.about.step, self.settings)

    def _copy(self, parts: list[TensorShard]) -> None:
        """Into buffers that are made once: fresh memory takes longer than the copy."""
        for part in parts:
            values = part.read()
            buffer = self._buffers.get(part.name)
            if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
                self._buffers[part.name] = buffer = np.empty_like(values)
            np.copyto(buffer, values)

    @contextmanager
    def _on_every_rank(self, what: str) -> Iterator[None]:
        """What fails on one rank fails on every rank."""
        with self.world.fail_together():
            try:
                yield
            except Exception as error:  # whatever it is, every rank must hear of it
                raise CheckpointError(
                    f"{self.folder}: rank {self.world.rank} could not {what}: {error}; older "
                    "checkpoints are as they were"
                ) from error

    @contextmanager
    def _handle_failure(self, step: int) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            save, self._save = self._save, None
            if self.world.is_rank_zero and save is not None and not save.published:
                self._remove_unfinished(save.unfinished)
            if self.settings.on_failure == "stop":
                raise
            if self.world.is_rank_zero:
                log.error(
                    "checkpoint of step %d: %s; the training goes on (checkpoint.on_failure=continue)", step, error
                )

    def _remove_unfinished(self, unfinished: str) -> None:
        try:
            self._storage.remove(unfinished)
        except OSError as error:
            log.warning("%s: cannot be removed (%s)", join(self.folder, unfinished), error.strerror or error)


class _Task:
    """A call in a thread of its own."""

    def __init__(self, call: Callable, *arguments):
        self.seconds = 0.0
        self._outcome: Future = Future()
        threading.Thread(target=self._run, args=(call, arguments), daemon=True).start()

    def _run(self, call: Callable, arguments: tuple) -> None:
        began = time.perf_counter()
        try:
            result = call(*arguments)
        except BaseException as error:
            self._outcome.set_exception(error)
            return
        self.seconds = time.perf_counter() - began
        self._outcome.set_result(result)

    @property
    def done(self) -> bool:
        return self._outcome.done()

    def wait(self) -> None:
        wait([self._outcome])

    def result(self):
        """What the call returned, or its exception."""
        return self._outcome.result()


@dataclass
class _PendingSave:
    """A save under way: this rank's parts and what it does now; `written` once all ranks have written theirs."""

    unfinished: str
    parts: list[TensorShard]
    about: CheckpointInfo
    task: _Task | None = None
    written: list[ShardResult] | None = None
    seconds: float = 0.0
    published: bool = False


def assign_shards(parts: list[TensorShard], rank: int) -> list[TensorShard]:
    """Which of the parts that `rank` holds it writes: of those that the same ranks hold, the largest first, always to
    the one with the least to write."""
    mine = []
    for holders in sorted({part.holders for part in parts}):
        load = dict.fromkeys(holders, 0)
        alike = [part for part in parts if part.holders == holders]
        for part in sorted(alike, key=lambda part: (part.start - part.stop, part.name)):
            writer = min(load, key=load.get)
            load[writer] += part.stop - part.start
            if writer == rank:
                mine.append(part)
    return mine
