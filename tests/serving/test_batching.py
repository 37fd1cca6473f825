"""Requests in one thread's batches, without a model."""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from vilg.errors import UserError
from vilg.serving.batching import Batcher, ProgressEvent


@dataclass
class Task:
    """Says its name in `steps` steps; the batch stops at `gate` until the test opens it."""

    name: str
    kind: Any = "a"
    rows: int = 1
    steps: int = 1
    fails: Exception | None = None
    gate: threading.Event | None = None
    batches: list = field(default_factory=list)  # the names that were carried out together, of all tasks of a test

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


def carried_out(tasks, rows=8, waiting=8):
    """The results, or errors, of tasks that arrive together; and what their batches were."""
    batches = []

    async def all_of_them():
        for task in tasks:
            task.batches = batches
        return await asyncio.gather(*(submitted(batcher, task) for task in tasks), return_exceptions=True)

    with Batcher(None, rows, waiting) as batcher:
        return asyncio.run(all_of_them()), batches, batcher


def test_what_arrives_together_is_one_batch():
    results, batches, batcher = carried_out([Task(name, steps=steps) for name, steps in zip("xyz", (1, 3, 2))])
    assert results == ["x0", "y2", "z1"] and batches == ["xyz"]
    assert (batcher.requests, batcher.batches, batcher.given_up) == (3, 1, 0)


def test_a_batch_has_no_more_rows_than_it_may_and_one_kind():
    tasks = [Task("u", rows=3), Task("v", kind="b"), Task("w", rows=2), Task("x", rows=1), Task("y", kind="b")]
    results, batches, _ = carried_out(tasks, rows=4)
    assert results == ["u0", "v0", "w0", "x0", "y0"] and batches == ["ux", "vy", "w"]


def test_more_than_may_wait_are_told_so():
    results, _, _ = carried_out([Task(name) for name in "uvwx"], waiting=3)
    assert results[:3] == ["u0", "v0", "w0"]
    assert isinstance(results[3], UserError) and str(results[3]).startswith("busy: 3 requests are waiting")


def test_one_that_fails_does_not_take_the_others_with_it(caplog):
    results, batches, _ = carried_out([Task("x"), Task("y", fails=RuntimeError("deep down")), Task("z")])
    assert [results[0], results[2]] == ["x0", "z0"] and batches == ["xyz", "x", "y", "z"]
    assert isinstance(results[1], UserError) and "log" in str(results[1]) and "deep down" in caplog.text
    assert carried_out([Task("x", fails=UserError("not so"))])[0][0].args == ("not so",)


def test_the_thread_lives_on_behind_an_error():
    async def one_after_the_other():
        with pytest.raises(UserError):
            await result(batcher.submit(Task("x", fails=MemoryError())))
        return await result(batcher.submit(Task("y")))

    with Batcher(None, 8, 8) as batcher:
        assert asyncio.run(one_after_the_other()) == "y0"


def test_who_leaves_is_dropped_while_waiting_and_while_it_is_his_turn():
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


def test_only_the_newest_news_is_heard():
    async def listen():
        with batcher.submit(Task("x", steps=100)) as handle:
            await asyncio.sleep(0.3)
            return await handle.next_event(10), await handle.next_event(0.01)

    with Batcher(None, 8, 8) as batcher:
        assert asyncio.run(listen()) == (ProgressEvent("x99", True), None)


def test_closing_ends_what_runs_and_what_waits():
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
