"""Started by fleetrun: saves step 1, and is killed while it saves step 2.

    killed_save_program.py FOLDER POINT VICTIM ASYNCHRONOUS

Rank VICTIM kills itself when the save reaches POINT. Points of a shard are reached by the victim. The other points are
reached by rank 0, which waits there until the victim is dead, and then continues.
"""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import vilg  # noqa: F401
from vilg import config
from vilg.checkpoint import CheckpointInfo, CheckpointManager
from vilg.checkpoint.format import BLOCK
from vilg.checkpoint.storage import LocalStorage
from vilg.distributed.shutdown import exit_process
from vilg.distributed.states import TensorShard
from vilg.distributed.world import World

POINTS = (
    "before the first byte",
    "in the middle of a shard",
    "before the manifest",
    "before the rename",
    "after the rename",
)


class KillingStorage(LocalStorage):
    def __init__(self, root: Path, marks: Path, rank: int, point: str, victim: int):
        super().__init__(root)
        self.marks, self.rank, self.point, self.victim, self.armed = marks, rank, point, victim, False
        (marks / f"rank-{rank}").write_text(str(os.getpid()))

    def reached(self, point: str) -> None:
        if not self.armed or point != self.point:
            return
        if self.rank == self.victim:
            die()
        if self.rank == 0 and point not in POINTS[:2]:
            (self.marks / "reached").touch()
            other = Path("/proc", (self.marks / f"rank-{self.victim}").read_text())
            while other.exists() and "State:\tZ" not in (other / "status").read_text():
                time.sleep(0.01)

    @contextmanager
    def create(self, file: str):
        if file.endswith("manifest.json"):
            self.reached("before the manifest")
            with super().create(file) as opened:
                yield opened
            return
        self.reached("before the first byte")
        with super().create(file) as opened:
            yield Counting(opened, self)

    def publish(self, unfinished: str, name: str) -> None:
        self.reached("before the rename")
        super().publish(unfinished, name)
        self.reached("after the rename")

    def watch(self) -> None:
        """On the victim, if rank 0 reaches the point: wait for that, then die."""
        while not (self.marks / "reached").exists():
            time.sleep(0.01)
        die()


class Counting:
    def __init__(self, opened, storage: KillingStorage):
        self.opened, self.storage, self.pieces = opened, storage, 0

    def write(self, data) -> None:
        self.pieces += 1
        if self.pieces == 3:
            self.opened.write(data[: len(data) // 2])
            self.storage.reached("in the middle of a shard")
            data = data[len(data) // 2 :]
        self.opened.write(data)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, point: str, victim: int, asynchronous: bool) -> None:
    world = World()
    if world.rank == 0:  # fleetrun notices the dead rank and must not interfere
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    storage = KillingStorage(folder / "checkpoints", folder, world.rank, point, victim)
    manager = CheckpointManager(folder / "checkpoints", world, config.Checkpoint(asynchronous=asynchronous), storage)
    for step in (1, 2):
        values = np.full(BLOCK, step, "uint8")
        parts = [
            TensorShard(f"{n}", [BLOCK], "uint8", 0, BLOCK, world.all_ranks, lambda values=values: values)
            for n in range(2 * world.ranks)
        ]
        manager.save(parts, CheckpointInfo(step, step, {}))
        manager.finish()
        if step == 1:
            storage.armed = True
            world.barrier()
            if world.rank == victim != 0 and point not in POINTS[:2]:
                threading.Thread(target=storage.watch, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "True")
    exit_process(0)
