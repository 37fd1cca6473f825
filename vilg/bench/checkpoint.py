"""`vilg bench checkpoint`: saving and loading compared with plain file writing, and how long a save blocks training."""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import paddle

from vilg import config
from vilg.attention.patterns import DIRECTIONS
from vilg.bench.random_pairs import random_losses
from vilg.bench.train import DEFAULTS
from vilg.checkpoint import CheckpointInfo, CheckpointManager, CheckpointReader, Location, verify
from vilg.checkpoint.format import BLOCK
from vilg.checkpoint.publish import ShardResult, publish, rank_file, tensor_chunk
from vilg.checkpoint.slices import write
from vilg.checkpoint.storage import LocalStorage
from vilg.distributed.engine import Engine
from vilg.distributed.states import TensorShard
from vilg.distributed.world import World
from vilg.plan.input_sizes import PAPER, InputSizes
from vilg.training.optimizer import adamw

# Models for measuring the stall: the one of the embedded data set, and one with half a gigabyte of states.
EMOJI = [
    "model.layers=4",
    "model.hidden=256",
    "model.heads=4",
    "text.length=20",
    "data.image_size=64",
    "train.micro_batch=8",
    "train.global_batch=8",
]
RUNS = {"emoji": (EMOJI, InputSizes(vocab_size=4000, codebook_size=1024, pixels=4)), "hidden 512": (DEFAULTS, PAPER)}


def bench(
    folder: Path, megabytes: int = 500, repeats: int = 7, runs: dict[str, tuple[list[str], InputSizes]] = RUNS
) -> dict:
    """Returns {"plain": .., "write": .., "read": .., "load": .., "stall": ..}; rates in bytes per second, for
    `megabytes` in `folder`.

    - write: a synchronous save, including hashes and fsync, compared with a plain write of the same bytes with fsync
    - read: verifying and reading the checkpoint, compared with the same plain write
    - load: seconds in which one of two ranks reads its part of checkpoints that 1 to 4 ranks have written
    - stall: seconds that an asynchronous save blocks training, compared with a step
    """
    logging.getLogger("vilg.checkpoint").setLevel(logging.WARNING)  # one line for each save
    with TemporaryDirectory(dir=folder) as scratch:
        return {
            "megabytes": megabytes,
            **_rates(Path(scratch) / "rates", megabytes, repeats),
            "load": _loads(Path(scratch) / "loads", megabytes, repeats),
            "stall": {name: _stall(Path(scratch) / name, *run) for name, run in runs.items()},
        }


def table(result: dict) -> str:
    """The result as text."""
    lines = [
        f"{result['megabytes']} MB: plain write {result['plain'] / 1e6:.0f} MB/s, saved at "
        f"{result['write'] / 1e6:.0f} MB/s ({result['write_share']:.2f}), read at {result['read'] / 1e6:.0f} MB/s "
        f"({result['read_share']:.2f})"
    ]
    lines += [
        f"half of it, written by {ranks} ranks: {seconds * 1e3:.0f} ms" for ranks, seconds in result["load"].items()
    ]
    for name, row in result["stall"].items():
        lines.append(
            f"{name}: {row['megabytes']:.0f} MB of states, blocks training for {row['seconds'] * 1e3:.0f} ms, "
            f"{row['share']:.2f} of a step of {row['step_seconds']:.2f} s; written in "
            f"{row['background_seconds']:.2f} s, while a step takes {row['slower']:.2f} times as long"
        )
    return "\n".join(lines)


def _rates(folder: Path, megabytes: int, repeats: int) -> dict:
    values = np.random.default_rng(0).random(megabytes * 10**6 // 4, np.float32)
    parts = _parts(values, 1)[0]
    manager = CheckpointManager(folder, World(), config.Checkpoint(asynchronous=False, keep_last=1))
    folder.mkdir()
    seconds = [
        [
            _seconds(partial(_write_sequentially, folder / "plain", values)),
            _seconds(partial(manager.save, parts, CheckpointInfo(number, 0, {}))),
            _seconds(lambda: _read_whole(manager.newest)),
        ]
        for number in range(repeats)
    ]
    # The speed of a cached disk varies: use medians, and ratios of measurements that directly follow each other.
    plain, save, read = np.median(seconds, axis=0)
    ratios = np.median([[repeat[0] / repeat[1], repeat[0] / repeat[2]] for repeat in seconds], axis=0)
    size = values.nbytes
    return {
        "plain": size / plain,
        "write": size / save,
        "write_share": float(ratios[0]),
        "read": size / read,
        "read_share": float(ratios[1]),
    }


def _write_sequentially(file: Path, values: np.ndarray) -> None:
    data = values.data.cast("B")
    with open(file, "wb", buffering=0) as opened:
        for place in range(0, len(data), BLOCK):
            opened.write(data[place : place + BLOCK])
        os.fsync(opened.fileno())


def _read_whole(checkpoint: Location | None) -> None:
    assert checkpoint is not None
    verify(checkpoint)
    reader = CheckpointReader(checkpoint)
    for name in reader.shapes:
        reader.tensor(name)


def _loads(folder: Path, megabytes: int, repeats: int) -> dict[str, float]:
    """Seconds in which rank 0 of 2 reads its half of a checkpoint of 1, 2, 3 and 4 ranks."""
    values = np.random.default_rng(0).random(megabytes * 10**6 // 4, np.float32)
    mine = _parts(values, 2)[0]
    checkpoints = {}
    for ranks in (2, 1, 3, 4):
        storage, written = LocalStorage(folder / str(ranks)), []
        unfinished = storage.begin("step-00000001")
        for rank, parts in enumerate(_parts(values, ranks)):
            contents = [tensor_chunk(part, part.read) for part in parts]
            written.append(ShardResult.of(write(storage, f"{unfinished}/{rank_file(rank)}", contents), parts))
        publish(storage, unfinished, CheckpointInfo(1, 0, {}), {"ranks": ranks, "shards": ranks}, written)
        checkpoints[ranks] = folder / str(ranks) / "step-00000001"

    def load(checkpoint: Path) -> None:
        reader = CheckpointReader(checkpoint)
        for part in mine:
            reader.range(part.name, part.start, part.stop)

    seconds = {ranks: float("inf") for ranks in checkpoints}
    for _ in range(repeats):
        for ranks, checkpoint in checkpoints.items():
            seconds[ranks] = min(seconds[ranks], _seconds(partial(load, checkpoint)))
    return {str(ranks): taken for ranks, taken in seconds.items()}


def _parts(values: np.ndarray, ranks: int, tensors: int = 20) -> list[list[TensorShard]]:
    """The shards of each of `ranks` ranks, for `values` divided into `tensors` tensors."""
    shards_of_rank: list[list[TensorShard]] = [[] for _ in range(ranks)]
    for number, tensor in enumerate(np.array_split(values, tensors)):
        edges = np.linspace(0, tensor.size, ranks + 1).astype(int).tolist()
        for rank, (start, stop) in enumerate(pairwise(edges)):
            shards_of_rank[rank].append(
                TensorShard(
                    f"t{number}",
                    [tensor.size],
                    "float32",
                    start,
                    stop,
                    (rank,),
                    partial(tensor.__getitem__, slice(start, stop)),
                )
            )
    return shards_of_rank


def _stall(folder: Path, overrides: list[str], sizes: InputSizes, steps: int = 3) -> dict[str, float]:
    settings = config.resolve(config.Pretraining, None, overrides)
    paddle.seed(0)
    model = sizes.model(settings)
    engine = Engine(World(), model, partial(adamw, settings.train), settings.train.max_grad_norm)
    losses = random_losses(model, settings.train.micro_batch)

    def step():
        engine.micro_step(losses, dict.fromkeys(DIRECTIONS, 1e-3))
        engine.step(1e-6)

    manager = CheckpointManager(folder, World(), config.Checkpoint(keep_last=1))
    step()
    manager.save(engine.state(), CheckpointInfo(1, 0, {}))  # allocates the buffers
    manager.finish()
    quiet = min(_seconds(step) for _ in range(steps))
    stood = _seconds(lambda: manager.save(engine.state(), CheckpointInfo(2, 0, {})))
    began, busy = time.perf_counter(), []
    while manager.newest_step != 2:
        busy.append(_seconds(step))
        if manager.ready:
            stood += _seconds(manager.advance)
    background = time.perf_counter() - began
    assert manager.newest is not None
    size = sum(file.size for file in verify(manager.newest).files.values())
    return {
        "megabytes": size / 1e6,
        "step_seconds": quiet,
        "seconds": stood,
        "share": stood / quiet,
        "background_seconds": background,
        "slower": float(np.mean(busy)) / quiet if busy else 1.0,
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
