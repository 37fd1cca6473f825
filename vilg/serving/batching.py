"""Executes concurrent requests in batches, in the one thread that runs the model."""

import asyncio
import logging
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vilg.errors import UserError
from vilg.generation.pipeline import Pipeline

log = logging.getLogger(__name__)

_BATCHING_WINDOW = 0.02  # seconds that a request waits for others to join its batch


class BusyError(UserError):
    """The server cannot take a request now, but may do so later."""


@dataclass(frozen=True)
class ProgressEvent:
    """A partial result of a request, or with `last` the final one."""

    result: Any  # images or captions; the submitter of the task knows which
    last: bool = False


class Task(Protocol):
    """What a request asks for."""

    @property
    def kind(self) -> Hashable:
        """Tasks of one kind may share a batch."""

    @property
    def rows(self) -> int:
        """The number of rows of a batch that the task needs."""

    @staticmethod
    def run_batch(pipeline: Pipeline, tasks: Sequence[Any]) -> Iterator[list[ProgressEvent | None]]:
        """Execute tasks of one kind. Yields a list with an event, or None, for each task, several times."""


class RequestHandle:
    """A pending request. The thread sends events, and the coroutine that owns the handle receives them.

    Leaving the `with` block cancels the request.
    """

    def __init__(self, task: Task):
        self.task, self.since = task, time.monotonic()
        self.cancelled = self.finished = False
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._newest: ProgressEvent | Exception | None = None

    async def next_event(self, seconds: float) -> ProgressEvent | None:
        """The newest event, or None if there was none for `seconds`. Raises the error of the request."""
        try:
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except asyncio.TimeoutError:
            return None
        self._arrived.clear()
        if isinstance(self._newest, Exception):
            raise self._newest
        return self._newest

    def notify(self, event: ProgressEvent | Exception) -> None:
        """Send an event, from any thread. An event that has not been received yet is replaced."""
        self.finished = isinstance(event, Exception) or event.last
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # the loop is closed
            self.cancelled = True

    def _put(self, event: ProgressEvent | Exception) -> None:
        self._newest = event
        self._arrived.set()

    def __enter__(self) -> "RequestHandle":
        return self

    def __exit__(self, *_) -> None:
        self.cancelled = True


class Batcher:
    """Executes tasks in batches of at most `rows` rows. At most `waiting` tasks may wait.

    The first waiting task is executed together with all others of its kind that fit. Cancelled requests are dropped,
    and a batch in which all requests are cancelled is stopped. `requests` and `batches` count started ones, `given_up`
    cancelled requests.
    """

    def __init__(self, pipeline: Pipeline, rows: int, waiting: int):
        self._pipeline, self._rows, self._limit = pipeline, rows, waiting
        self._waiting: list[RequestHandle] = []
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self.requests = self.batches = self.given_up = 0

    def __enter__(self) -> "Batcher":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, task: Task) -> RequestHandle:
        """Add a task, within a running event loop. Raises BusyError if too many tasks wait."""
        with self._changed:
            self._drop_cancelled()
            if self._closed:
                raise BusyError("the server is being stopped")
            if len(self._waiting) >= self._limit:
                raise BusyError(f"busy: {len(self._waiting)} requests are waiting; try again in a moment")
            handle = RequestHandle(task)
            self._waiting.append(handle)
            self._changed.notify()
        return handle

    def position(self, handle: RequestHandle) -> int | None:
        """The number of tasks before this one; None once it is executed."""
        with self._changed:
            return self._waiting.index(handle) if handle in self._waiting else None

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._waiting)

    def _drop_cancelled(self) -> None:
        remaining = [handle for handle in self._waiting if not handle.cancelled]
        self.given_up += len(self._waiting) - len(remaining)
        self._waiting = remaining

    def _work(self) -> None:
        while batch := self._next():
            self.requests, self.batches = self.requests + len(batch), self.batches + 1
            self._run_batch(batch)
        for handle in self._waiting:
            handle.notify(BusyError("the server is being stopped"))

    def _next(self) -> list[RequestHandle]:
        """Wait for the next batch. Empty when the server stops."""
        with self._changed:
            while not self._closed:
                self._drop_cancelled()
                if not self._waiting:
                    self._changed.wait()
                elif (early := self._waiting[0].since + _BATCHING_WINDOW - time.monotonic()) > 0:
                    self._changed.wait(early)
                else:
                    return self._take()
        return []

    def _take(self) -> list[RequestHandle]:
        kind, free, batch = self._waiting[0].task.kind, self._rows, []
        for handle in self._waiting:
            if handle.task.kind == kind and handle.task.rows <= free:
                batch.append(handle)
                free -= handle.task.rows
        self._waiting = [handle for handle in self._waiting if handle not in batch]
        return batch

    def _run_batch(self, batch: list[RequestHandle]) -> None:
        try:
            for event in batch[0].task.run_batch(self._pipeline, [handle.task for handle in batch]):
                for handle, progress in zip(batch, event):
                    if progress is not None:
                        handle.notify(progress)
                if self._closed or all(handle.cancelled or handle.finished for handle in batch):
                    break
            for handle in batch:
                if not handle.finished and handle.cancelled:
                    self.given_up += 1
                elif not handle.finished:
                    handle.notify(BusyError("the server is being stopped"))
        except Exception as error:
            if len(batch) > 1:  # retry one by one, so that only the failing request fails
                for handle in batch:
                    if not handle.finished:
                        self._run_batch([handle])
                return
            if not isinstance(error, UserError):
                log.exception("a request failed")
                error = UserError("this request failed; the server's log says why")
            batch[0].notify(error)
