"""Batches of requests in one thread, without a model."""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from vilg.errors import UserError
from vilg.serving.batching import Batcher, ProgressEvent


@dataclass
class Task:
    """Returns its name in `steps` steps. The batch waits at `gate` until the test opens it."""

    name: str
    kind: Any = "a"
    rows: int = 1
    steps: int = 1
    fails: Exception | None = None
    gate: threading.Event | None = None
    batches: list = field(default_factory=list)  # the names in each batch, of all tasks of a test

    @staticmethod
    def run_batch(pipeline, tasks):
        tasks[0].batches.append("".join(task.name for task in tasks))
        for step in range(max(task.steps for task in tasks)):
            for task in tasks:
                if task.gate:
                    task.gate.wait(10)
                if task.fails:
                    raise task.fails
            yield [
                ProgressEvent(f"{task.name}{step}", step == task.steps - 1) if step < task.steps else None
                for task in tasks
            ]


async def result(handle):
    with handle:
        while True:
            event = await handle.next_event(10)
            if event.last:
                return event.result


async def submitted(batcher, task):
    return await result(batcher.submit(task))


def run_together(tasks, rows=8, waiting=8):
    """(results or errors of tasks that are submitted together, the batches)."""
    batches = []

    async def all_of_them():
        for task in tasks:
            task.batches = batches
        return await asyncio.gather(*(submitted(batcher, task) for task in tasks), return_exceptions=True)

    with Batcher(None, rows, waiting) as batcher:
        return asyncio.run(all_of_them()), batches, batcher


def test_simultaneous_requests_form_one_batch():
    results, batches, batcher = run_together([Task(name, steps=steps) for name, steps in zip("xyz", (1, 3, 2))])
    assert results == ["x0", "y2", "z1"] and batches == ["xyz"]
    assert (batcher.requests, batcher.batches, batcher.given_up) == (3, 1, 0)


def test_a_batch_respects_the_row_limit_and_has_one_task_type():
    tasks = [Task("u", rows=3), Task("v", kind="b"), Task("w", rows=2), Task("x", rows=1), Task("y", kind="b")]
    results, batches, _ = run_together(tasks, rows=4)
    assert results == ["u0", "v0", "w0", "x0", "y0"] and batches == ["ux", "vy", "w"]


def test_requests_beyond_the_queue_limit_are_refused():
    results, _, _ = run_together([Task(name) for name in "uvwx"], waiting=3)
    assert results[:3] == ["u0", "v0", "w0"]
    assert isinstance(results[3], UserError) and str(results[3]).startswith("busy: 3 requests are waiting")


def test_a_failing_request_does_not_fail_the_others(caplog):
    results, batches, _ = run_together([Task("x"), Task("y", fails=RuntimeError("deep down")), Task("z")])
    assert [results[0], results[2]] == ["x0", "z0"] and batches == ["xyz", "x", "y", "z"]
    assert isinstance(results[1], UserError) and "log" in str(results[1]) and "deep down" in caplog.text
    assert run_together([Task("x", fails=UserError("not so"))])[0][0].args == ("not so",)


def test_the_worker_thread_survives_an_error():
    async def one_after_the_other():
        with pytest.raises(UserError):
            await result(batcher.submit(Task("x", fails=MemoryError())))
        return await result(batcher.submit(Task("y")))

    with Batcher(None, 8, 8) as batcher:
        assert asyncio.run(one_after_the_other()) == "y0"


def test_cancelled_requests_are_dropped_while_waiting_and_while_running():
    gate, batches = threading.Event(), []

    async def exit_process():
        running = batcher.submit(Task("x", steps=10**9, gate=gate, batches=batches))
        while batcher.position(running) is not None:
            await asyncio.sleep(0.01)
        waiting, other = (batcher.submit(Task(name, kind="b", batches=batches)) for name in "yz")
        assert (batcher.position(waiting), batcher.position(other), batcher.waiting) == (0, 1, 2)
        with running, waiting:
            pass
        gate.set()
        return await result(other)

    with Batcher(None, 8, 8) as batcher:
        assert asyncio.run(exit_process()) == "z0"
    assert batches == ["x", "z"] and batcher.given_up == 2


def test_only_the_newest_progress_event_is_delivered():
    async def listen():
        with batcher.submit(Task("x", steps=100)) as handle:
            await asyncio.sleep(0.3)
            return await handle.next_event(10), await handle.next_event(0.01)

    with Batcher(None, 8, 8) as batcher:
        assert asyncio.run(listen()) == (ProgressEvent("x99", True), None)


def test_closing_ends_running_and_waiting_requests():
    gate = threading.Event()

    async def close():
        handles = [batcher.submit(Task("x", steps=10**9, gate=gate)), batcher.submit(Task("y", kind="b"))]
        while batcher.position(handles[0]) is not None:
            await asyncio.sleep(0.01)
        gate.set()
        await asyncio.to_thread(batcher.__exit__)
        for handle in handles:
            with pytest.raises(UserError, match="stopped"):
                await result(handle)
        with pytest.raises(UserError, match="stopped"):
            batcher.submit(Task("z"))

    batcher = Batcher(None, 8, 8)
    batcher.__enter__()
    asyncio.run(close())
