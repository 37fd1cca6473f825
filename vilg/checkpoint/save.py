"""Saves checkpoints while training continues.

A save has three phases: every rank writes its own file, the results are gathered, and rank 0 writes the manifest and
renames the directory. If any rank fails in any phase, no new checkpoint exists and older ones are unchanged.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """Writes the checkpoints of a run. All ranks call `save`, `advance` and `finish` at the same steps.

    Asynchronous saving: `save` copies this rank's tensors into host buffers and returns, and a thread writes and hashes
    them. When all ranks are `ready`, `advance` gathers the results and a thread of rank 0 writes the manifest and
    renames the directory; the next `advance` completes the save. Synchronous saving: `save` does all of this before it
    returns.

    A failure on any rank leaves older checkpoints unchanged. It raises CheckpointError on all ranks, or is only logged
    with `on_failure: continue`.
    """

    def __init__(self, folder: Location, world: World, settings: config.Checkpoint, storage: Storage | None = None):
        self.folder, self.world, self.settings = folder, world, settings
        self.newest: Location | None = None  # the newest checkpoint of this run
        self.newest_step = 0  # its step; 0 if there is none
        self.stall_seconds = 0.0  # seconds that the last save has blocked training
        self._storage = storage or open_storage(folder)
        self._buffers: dict[str, np.ndarray] = {}
        self._save: _PendingSave | None = None

    @property
    def ready(self) -> bool:
        """Whether this rank has finished the current phase, so that `advance` can be called."""
        return self._save is not None and self._save.task.done

    def save(self, parts: list[TensorShard], info: CheckpointInfo) -> None:
        """Start saving `parts`, the tensor shards of this rank. Ranks that hold identical shards divide them between
        them.

        Waits for an earlier save first.
        """
        self.finish()
        began = time.perf_counter()
        with self._handle_failure(info.step):
            with self._on_every_rank("create the folder"):
                unfinished = self._storage.begin(step_directory(info.step)) if self.world.is_rank_zero else ""
            self._save = save = _PendingSave(
                self.world.gather(unfinished)[0], assign_shards(parts, self.world.rank), info
            )
            with self._on_every_rank("copy its tensors"):
                if self.settings.asynchronous:
                    self._copy(save.parts)
                    contents = [
                        tensor_chunk(part, partial(self._buffers.__getitem__, part.name)) for part in save.parts
                    ]
                else:
                    contents = [tensor_chunk(part, part.read) for part in save.parts]
                save.task = _Task(
                    slices.write, self._storage, f"{save.unfinished}/{rank_file(self.world.rank)}", contents
                )
        self.stall_seconds = time.perf_counter() - began
        if not self.settings.asynchronous:
            self.finish()

    def advance(self) -> None:
        """Move the current save to its next phase. Call it when all ranks are `ready`."""
        began, save = time.perf_counter(), self._save
        assert save is not None, "no save is in progress"
        with self._handle_failure(save.info.step):
            with self._on_every_rank("write the manifest" if save.written else "write its file"):
                result = save.task.result()
            if save.written is None:
                save.seconds, save.written = save.task.seconds, self.world.gather(ShardResult.of(result, save.parts))
                save.task = _Task(self._publish, save) if self.world.is_rank_zero else _Task(lambda: None)
            else:
                self._save, self.newest_step = None, save.info.step
                self.newest = join(self.folder, step_directory(save.info.step))
                self.stall_seconds += time.perf_counter() - began
                if self.world.is_rank_zero:
                    log.info(
                        "saved %s: %.1f MB; training was blocked for %.3f s, writing took %.2f s",
                        self.newest,
                        sum(shard.file.size for shard in save.written) / 1e6,
                        self.stall_seconds,
                        save.seconds,
                    )
                return
        self.stall_seconds += time.perf_counter() - began

    def finish(self) -> None:
        """Wait until the current save, if any, is complete."""
        while self._save is not None:
            began = time.perf_counter()
            self._save.task.wait()
            self.stall_seconds += time.perf_counter() - began
            self.advance()

    def _publish(self, save: "_PendingSave") -> None:
        assert save.written is not None
        topology = {"ranks": self.world.ranks, "shards": self.world.topology.shards}
        publish(self._storage, save.unfinished, save.info, topology, save.written)
        save.published = True
        prune(self.folder, self._storage, save.info.step, self.settings)

    def _copy(self, parts: list[TensorShard]) -> None:
        """Copy into buffers that are allocated once, because allocating takes longer than copying."""
        for part in parts:
            values = part.read()
            buffer = self._buffers.get(part.name)
            if buffer is None or buffer.shape != values.shape or buffer.dtype != values.dtype:
                self._buffers[part.name] = buffer = np.empty_like(values)
            np.copyto(buffer, values)

    @contextmanager
    def _on_every_rank(self, what: str) -> Iterator[None]:
        """An exception of one rank in this block becomes a CheckpointError on all ranks."""
        with self.world.fail_together():
            try:
                yield
            except Exception as error:  # every rank has to learn of any error
                raise CheckpointError(
                    f"{self.folder}: rank {self.world.rank} could not {what}: {error}; older checkpoints are unchanged"
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
                log.error("checkpoint of step %d: %s; training continues (checkpoint.on_failure=continue)", step, error)

    def _remove_unfinished(self, unfinished: str) -> None:
        try:
            self._storage.remove(unfinished)
        except OSError as error:
            log.warning("%s: cannot be removed (%s)", join(self.folder, unfinished), error.strerror or error)


class _Task:
    """A function call in a thread of its own."""

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
        """The return value of the call; raises its exception."""
        return self._outcome.result()


@dataclass
class _PendingSave:
    """The save in progress: the shards of this rank, and the current task.

    written: results of all ranks, once all of them have written their files.
    """

    unfinished: str
    parts: list[TensorShard]
    info: CheckpointInfo
    task: _Task = field(init=False)
    written: list[ShardResult] | None = None
    seconds: float = 0.0
    published: bool = False


def assign_shards(parts: list[TensorShard], rank: int) -> list[TensorShard]:
    """The shards that `rank` writes.

    Among ranks that hold identical shards, each shard is assigned to the rank with the fewest elements so far, largest
    first.
    """
    mine = []
    for holders in sorted({part.holders for part in parts}):
        load = dict.fromkeys(holders, 0)
        alike = [part for part in parts if part.holders == holders]
        for part in sorted(alike, key=lambda part: (part.start - part.stop, part.name)):
            writer = min(load, key=lambda holder: load[holder])
            load[writer] += part.stop - part.start
            if writer == rank:
                mine.append(part)
    return mine
