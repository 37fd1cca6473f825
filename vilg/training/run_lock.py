"""Only one job at a time writes into the folder of a run and into the folder of its checkpoints."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vilg import checkpoint, config
from vilg.distributed.folder_lock import HEARTBEAT_S, FolderLock
from vilg.distributed.world import World
from vilg.files import printable


@contextmanager
def run_lock(settings: config.TrainingSettings, world: World) -> Iterator[None]:
    """Hold the locks of a run within the block. All ranks call this, and rank 0 holds them for the job.

    Raises UserError on all ranks if another job holds one. Object stores have no lock. If another job takes a lock over
    because this process was suspended for long, this process ends at once, before it writes anything.
    """
    with ExitStack() as held:
        with world.fail_together():
            locks = [FolderLock(folder) for folder in _folders(settings)] if world.is_rank_zero else []
            for lock in locks:
                lock.acquire()
                held.callback(lock.release)
        held.enter_context(_heartbeat(locks))
        yield


def _folders(settings: config.TrainingSettings) -> list[Path]:
    run = settings.run.folder
    checkpoints = checkpoint.location(settings.checkpoint.directory(settings.run))
    separate = isinstance(checkpoints, Path) and not checkpoints.absolute().is_relative_to(run.absolute())
    return [run, Path(checkpoints)] if separate else [run]


@contextmanager
def _heartbeat(locks: list[FolderLock]) -> Iterator[None]:
    """Keep the locks fresh during steps of any length. The thread has ended when the block is left."""
    ending = threading.Event()

    def beat() -> None:
        while not ending.wait(HEARTBEAT_S):
            for lock in locks:
                if not lock.beat():
                    print(f"vilg: {printable(lock.folder)}: another job has taken this folder over", file=sys.stderr)
                    sys.stderr.flush()
                    os._exit(1)

    thread = threading.Thread(target=beat, daemon=True)
    if locks:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        if locks:
            thread.join()
