"""Requests that arrive together are carried out together, by the one thread that the model belongs to."""

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

_GATHER = 0.02  # seconds that a request waits for others to come along


@dataclass(frozen=True)
class ProgressEvent:
    """What there is of a request's result so far; the last is the result."""

    result: Any
    last: bool = False


class Task(Protocol):
    """What one request asks for."""

    kind: Hashable  # tasks of one kind may share a batch
    rows: int  # of the batch that it takes up

    @staticmethod
    def run_batch(pipeline: Pipeline, tasks: Sequence["Task"]) -> Iterator[list[ProgressEvent | None]]:
        """Carry out tasks of one kind: again and again the event for each of them, if there is any."""


class RequestHandle:
    """A request on its way: the thread tells its event, the coroutine that holds the handle hears them.

    Leaving the `with` block gives the request up.
    """

    def __init__(self, task: Task):
        self.task, self.since = task, time.monotonic()
        self.gone = self.finished = False
        self._loop, self._arrived = asyncio.get_running_loop(), asyncio.Event()
        self._newest: ProgressEvent | Exception | None = None

    async def next_event(self, seconds: float) -> ProgressEvent | None:
        """The newest event, or None if there were none for so long. The request's error is raised here."""
        try:
            await asyncio.wait_for(self._arrived.wait(), seconds)
        except asyncio.TimeoutError:
            return None
        self._arrived.clear()
        if isinstance(self._newest, Exception):
            raise self._newest
        return self._newest

    def notify(self, event: ProgressEvent | Exception) -> None:
        """From any thread. An event that has not been received yet is replaced."""
        self.finished = isinstance(event, Exception) or event.last
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # the loop is closed
            self.gone = True

    def _put(self, event: ProgressEvent | Exception) -> None:
        self._newest = event
        self._arrived.set()

    def __enter__(self) -> "RequestHandle":
        return self

    def __exit__(self, *_) -> None:
        self.gone = True


class Batcher:
    """Carries out tasks in batches of at most `rows`; a task more than `waiting` ones is refused.

    The first that waits is carried out with all others of its kind that there is room for. A request that was given up
    is dropped, and a batch that nobody waits for is not finished. `requests` and `batches` count what was started, and
    `given_up` the requests whose client left.
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
        """Within a running event loop. UserError if too many wait already."""
        with self._changed:
            self._forget()
            if self._closed:
                raise UserError("the server is being stopped")
            if len(self._waiting) >= self._limit:
                raise UserError(f"busy: {len(self._waiting)} requests are waiting; try again in a moment")
            handle = RequestHandle(task)
            self._waiting.append(handle)
            self._changed.notify()
        return handle

    def position(self, handle: RequestHandle) -> int | None:
        """How many wait before this one; None once it is being carried out."""
        with self._changed:
            return self._waiting.index(handle) if handle in self._waiting else None

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._waiting)

    def _forget(self) -> None:
        there = [handle for handle in self._waiting if not handle.gone]
        self.given_up += len(self._waiting) - len(there)
        self._waiting = there

    def _work(self) -> None:
        while batch := self._next():
            self.requests, self.batches = self.requests + len(batch), self.batches + 1
            self._carry_out(batch)
        for handle in self._waiting:
            handle.notify(UserError("the server is being stopped"))

    def _next(self) -> list[RequestHandle]:
        """The handles to carry out now, once there are any; none when the server ends."""
        with self._changed:
            while not self._closed:
                self._forget()
                if not self._waiting:
                    self._changed.wait()
                elif (early := self._waiting[0].since + _GATHER - time.monotonic()) > 0:
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

    def _carry_out(self, batch: list[RequestHandle]) -> None:
        try:
            for event in batch[0].task.run_batch(self._pipeline, [handle.task for handle in batch]):
                for handle, one in zip(batch, event):
                    if one is not None:
                        handle.notify(one)
                if self._closed or all(handle.gone or handle.finished for handle in batch):
                    break
            for handle in batch:
                if not handle.finished and handle.gone:
                    self.given_up += 1
                elif not handle.finished:
                    handle.notify(UserError("the server is being stopped"))
        except Exception as error:
            if len(batch) > 1:  # one of them is to blame; the others shall have their results
                for handle in batch:
                    if not handle.finished:
                        self._carry_out([handle])
                return
            if not isinstance(error, UserError):
                log.exception("a request failed")
                error = UserError("this request failed; the server's log says why")
            batch[0].notify(error)
