"""Saves checkpoints while training continues.

A save has three phases: every rank writes its own file, the results are gathered, and rank 0 writes the manifest and
renames the directory. If any rank fails in any phase, no new checkpoint exists and older ones are unchanged.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from vilg import config
from vilg.checkpoint import slices
from vilg.checkpoint.format import CheckpointError, checkpoints_after, step_directory
from vilg.checkpoint.publish import CheckpointInfo, ShardResult, prune, publish, rank_file, tensor_chunk
from vilg.checkpoint.slices import TensorChunk
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

    A failure on any rank leaves older checkpoints unchanged. All ranks try again together, `save_retries` times, while
    training continues. The last failure raises CheckpointError on all ranks, or is only logged with `on_failure:
    continue`.
    """

    def __init__(self, folder: Location, world: World, settings: config.Checkpoint, storage: Storage | None = None):
        self.folder, self.world, self.settings = folder, world, settings
        self.newest: Location | None = None  # the newest checkpoint of this run
        self.newest_step = 0  # its step; 0 if there is none
        self.last_failure = ""  # why the last save that failed could not be written
        self.stall_seconds = 0.0  # seconds that the last save has blocked training
        self._storage = storage or open_storage(folder)
        self._buffers: dict[str, np.ndarray] = {}
        self._save: _PendingSave | None = None
        self._damaged: set[Location] = set()  # on rank 0

    @property
    def ready(self) -> bool:
        """Whether this rank has finished the current phase, so that `advance` can be called."""
        return self._save is not None and self._save.task.done

    def continue_after(self, newest: Location, step: int) -> None:
        """Continue a run after `newest`, the checkpoint of this step in its folder that resuming chose.

        Later checkpoints in the folder are damaged, or one of them would have been chosen. Only their hashes may show
        it, so they are remembered: they do not count for `keep_last`.
        """
        self.newest, self.newest_step = newest, step
        if self.world.is_rank_zero:
            self._damaged = set(checkpoints_after(self.folder, step))

    def save(self, parts: list[TensorShard], info: CheckpointInfo) -> None:
        """Start saving `parts`, the tensor shards of this rank. Ranks that hold identical shards divide them between
        them.

        Waits for an earlier save first.
        """
        self.finish()
        began = time.perf_counter()
        with self._handle_failure(info.step):
            own = assign_shards(parts, self.world.rank)
            with self._on_every_rank("copy its tensors"):
                if self.settings.asynchronous:
                    self._copy(own)
                    contents = [tensor_chunk(part, partial(self._buffers.__getitem__, part.name)) for part in own]
                else:
                    contents = [tensor_chunk(part, part.read) for part in own]
            self._save = _PendingSave(own, contents, info)
            self._write(self._save)
        self.stall_seconds = time.perf_counter() - began
        if not self.settings.asynchronous:
            self.finish()

    def advance(self) -> None:
        """Move the current save to its next phase. Call it when all ranks are `ready`."""
        began, save = time.perf_counter(), self._save
        assert save is not None, "no save is in progress"
        with self._handle_failure(save.info.step):
            if save.phase == "wait":
                self._write(save)
            elif save.phase == "write":
                with self._on_every_rank("write its file"):
                    result = save.task.result()
                save.seconds, save.written = save.task.seconds, self.world.gather(ShardResult.of(result, save.parts))
                save.phase = "publish"
                save.task = _Task(self._publish, save) if self.world.is_rank_zero else _Task(lambda: None)
            else:
                with self._on_every_rank("write the manifest"):
                    save.task.result()
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

    def _write(self, save: "_PendingSave") -> None:
        """Create the folder, and start to write the file of this rank."""
        with self._on_every_rank("create the folder"):
            unfinished = self._storage.begin(step_directory(save.info.step)) if self.world.is_rank_zero else ""
        save.unfinished = self.world.gather(unfinished)[0]
        save.phase = "write"
        save.task = _Task(slices.write, self._storage, f"{save.unfinished}/{rank_file(self.world.rank)}", save.contents)

    def _publish(self, save: "_PendingSave") -> None:
        topology = {"ranks": self.world.ranks, "shards": self.world.topology.shards}
        publish(self._storage, save.unfinished, save.info, topology, save.written)
        save.published = True
        self._damaged.discard(join(self.folder, step_directory(save.info.step)))  # it has been replaced
        prune(self.folder, self._storage, save.info.step, self.settings, self._damaged)

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
        """An error of the storage on one rank in this block becomes a CheckpointError on all ranks."""
        with self.world.fail_together():
            try:
                yield
            except (OSError, CheckpointError) as error:
                if not _is_storage_error(error):
                    raise
                failure = CheckpointError(
                    f"{self.folder}: rank {self.world.rank} could not {what}: {error}; older checkpoints are unchanged"
                )
                failure.is_transient = _is_transient(error)
                raise failure from error

    @contextmanager
    def _handle_failure(self, step: int) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            save = self._save
            if self.world.is_rank_zero and save is not None and save.unfinished and not save.published:
                self._remove_unfinished(save.unfinished)
            if save is not None and error.is_transient and save.retries < self.settings.save_retries:
                self._wait_before_retry(save, error)
                return
            self._save, self.last_failure = None, str(error)
            if self.settings.on_failure == "stop":
                raise
            if self.world.is_rank_zero:
                log.error("checkpoint of step %d: %s; training continues (checkpoint.on_failure=continue)", step, error)

    def _wait_before_retry(self, save: "_PendingSave", error: CheckpointError) -> None:
        seconds = self.settings.save_backoff * 2**save.retries
        save.retries += 1
        save.phase, save.unfinished = "wait", ""
        save.task = _Task(time.sleep, seconds)
        if self.world.is_rank_zero:
            log.warning(
                "checkpoint of step %d: %s; attempt %d of %d follows in %g s (checkpoint.save_retries, save_backoff)",
                save.info.step,
                error,
                save.retries + 1,
                self.settings.save_retries + 1,
                seconds,
            )

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

    contents: the same shards as they are written, from the host buffers or from the memory of the model. phase: what
    the task does. written: results of all ranks, once all of them have written their files.
    """

    parts: list[TensorShard]
    contents: list[TensorChunk]
    info: CheckpointInfo
    phase: Literal["write", "publish", "wait"] = "write"
    task: _Task = field(init=False)
    unfinished: str = ""  # the name of the folder while it is written; "": none
    written: list[ShardResult] = field(default_factory=list)
    seconds: float = 0.0
    published: bool = False
    retries: int = 0


def _is_storage_error(error: Exception) -> bool:
    """Whether the storage has failed. Paddle raises a bare OSError, without a number, for errors of a device."""
    return type(error) is not OSError or error.errno is not None


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed. Disks are freed and servers return; a wrong path stays wrong."""
    permanent = (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError, CheckpointError)
    return not isinstance(error, permanent) and getattr(error, "errno", None) not in (errno.EROFS, errno.ENAMETOOLONG)


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
