"""Saving and loading checkpoints: a checkpoint is complete or absent, and every damage is reported with its file."""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from vilg import checkpoint, config
from vilg.arrays import view_as_numpy
from vilg.checkpoint import CheckpointError, CheckpointInfo, CheckpointManager, slices
from vilg.checkpoint.format import Slice, Tensor
from vilg.checkpoint.publish import ShardResult, publish, rank_file, tensor_chunk
from vilg.checkpoint.save import assign_shards
from vilg.checkpoint.storage import LocalStorage
from vilg.distributed.states import TensorShard, replicated
from vilg.distributed.world import World


def tensors(seed=0):
    generator = np.random.default_rng(seed)
    return {
        "model/a": generator.normal(size=[3, 4]).astype("float32"),
        "model/b": np.array(7, dtype="int64"),
        "moment1/a": generator.normal(size=[3, 4]).astype("float32"),
        "model/none": np.zeros([0, 2], "float32"),
    }


def save(folder, step, changes=None, storage=None, **settings):
    parts = [replicated(name, value, ranks=1) for name, value in (tensors(step) | (changes or {})).items()]
    manager = CheckpointManager(folder, World(), config.Checkpoint(**({"save_backoff": 0} | settings)), storage)
    manager.save(
        parts, CheckpointInfo(step, step * 8, {"run": {"name": "x"}}, {"text": "abc"}, {"shards": 1}, {"scale": 2.0})
    )
    manager.finish()
    return manager.newest


def test_save_and_load_round_trip(tmp_path):
    path = save(tmp_path, 12)
    assert path.name == "step-00000012"
    manifest, loaded = checkpoint.load(path)
    assert (manifest.step, manifest.consumed_samples, manifest.topology) == (12, 96, {"ranks": 1, "shards": 1})
    assert manifest.settings == {"run": {"name": "x"}} and manifest.tokenizers == {"text": "abc"}
    assert manifest.data == {"shards": 1} and manifest.loss_scale == {"scale": 2.0}
    assert set(loaded) == set(tensors())
    for name, value in tensors(12).items():
        assert loaded[name].dtype == value.dtype and np.array_equal(loaded[name], value)


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep_last=2)
    assert [path.name for path in checkpoint.checkpoints_in(tmp_path)] == ["step-00000003", "step-00000004"]
    assert len(list(tmp_path.iterdir())) == 2


def test_pruning_keeps_the_new_checkpoint_and_ignores_damaged_ones(tmp_path):
    for step in (100, 200, 300):
        save(tmp_path, step)
    (tmp_path / "step-00000200" / "manifest.json").unlink()
    new = save(tmp_path, 250, keep_last=2)
    assert [path.name for path in checkpoint.checkpoints_in(tmp_path)] == [
        "step-00000100",
        "step-00000250",
        "step-00000300",
    ]
    assert checkpoint.load(new)[0].step == 250
    save(tmp_path, 260, keep_last=1)
    assert [path.name for path in checkpoint.checkpoints_in(tmp_path)] == ["step-00000260", "step-00000300"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    path = save(tmp_path, 3, {"model/b": np.array(8)})
    assert checkpoint.load(path)[1]["model/b"] == 8


@pytest.mark.parametrize("file", ["manifest.json", "rank-00000.safetensors"])
@pytest.mark.parametrize("place", [0, 40, -2])
def test_one_flipped_byte_is_found_and_the_file_named(tmp_path, file, place):
    path = save(tmp_path, 1)
    data = bytearray((path / file).read_bytes())
    data[place] ^= 1
    (path / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=file):
        checkpoint.load(path)


@pytest.mark.parametrize("file", ["manifest.json", "rank-00000.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_missing_and_truncated_files_are_named(tmp_path, file, damage):
    path = save(tmp_path, 1)
    if damage == "missing":
        (path / file).unlink()
    else:
        os.truncate(path / file, 0 if damage == "empty" else (path / file).stat().st_size - 5)
    with pytest.raises(CheckpointError, match=file):
        checkpoint.load(path)


def test_swapped_files_are_found(tmp_path):
    one, two = save(tmp_path, 1), save(tmp_path, 2)
    shutil.copy(one / "rank-00000.safetensors", two / "rank-00000.safetensors")
    with pytest.raises(CheckpointError, match="step-00000002/rank-00000.safetensors: damaged"):
        checkpoint.load(two)


def test_another_format_is_named(tmp_path):
    path = save(tmp_path, 1)
    body = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(body | {"version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load(path)


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "none")


def test_auto_takes_the_newest_valid_checkpoint_and_reports_skipped_ones(tmp_path, caplog):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    (bad / "manifest.json").unlink()
    assert checkpoint.resolve_resume("auto", tmp_path) == good
    assert "skipped an invalid checkpoint" in caplog.text and "step-00000002" in caplog.text
    assert checkpoint.resolve_resume("none", tmp_path) is None
    assert checkpoint.resolve_resume("auto", tmp_path / "empty") is None
    with pytest.raises(CheckpointError, match="step-00000002: not a checkpoint"):
        checkpoint.resolve_resume(str(bad), tmp_path)  # a path has no fallback
    empty = tmp_path / "empty"
    assert checkpoint.resolve_resume("auto", tmp_path, initial=str(bad)) == good  # the run's own checkpoints come first
    assert checkpoint.resolve_resume("auto", empty, initial=str(good)) == good
    assert checkpoint.resolve_resume("none", empty, initial=str(good)) is None
    with pytest.raises(CheckpointError):
        checkpoint.resolve_resume("auto", empty, initial=str(bad))


def test_auto_does_not_start_from_scratch_if_all_checkpoints_are_damaged(tmp_path):
    (save(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="the newest of 1 checkpoints, none of which is valid"):
        checkpoint.resolve_resume("auto", tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"version": 1}'])
def test_a_manifest_of_another_shape_is_damaged(tmp_path, text):
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="manifest.json: damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_leaves_only_the_older_checkpoints(tmp_path, asynchronous):
    """A limit on the file size replaces the full disk. It is set in a separate process."""
    save(tmp_path, 1)
    program = textwrap.dedent(f"""
        import resource, signal, sys, numpy as np
        from pathlib import Path
        sys.path.insert(0, {os.getcwd()!r})
        from tests.checkpoint.test_checkpoint import save
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save(Path({str(tmp_path)!r}), 2, {{"big": np.zeros(10**6, "float32")}}, asynchronous={asynchronous})
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "CheckpointError" in done.stderr and "could not write its file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.load(tmp_path / "step-00000001")


def test_a_killed_save_leaves_no_checkpoint_and_the_next_save_removes_its_files(tmp_path):
    leftover = tmp_path / ".step-00000005.writing"
    leftover.mkdir()
    (leftover / "rank-00000.safetensors").write_bytes(b"half")
    assert checkpoint.resolve_resume("auto", tmp_path) is None
    save(tmp_path, 6)
    assert not leftover.exists()


def test_ranks_write_equal_shares():
    """Each part is written once, by a rank that holds it, whatever the order in which the ranks list the parts."""

    def part(number, size, holders):
        return TensorShard(f"t{number}", [size], "float32", 0, size, holders, None)

    of_all = [part(n, n + 1, (0, 1, 2)) for n in range(20)]
    of_two = [part(n, 5, (0, 2)) for n in range(20, 30)]
    written = [assign_shards(of_all + of_two, 0), assign_shards(of_all, 1), assign_shards((of_all + of_two)[::-1], 2)]
    assert sorted(one.name for mine in written for one in mine) == sorted(f"t{n}" for n in range(30))
    load = [sum(one.stop for one in mine if one.holders == (0, 1, 2)) for mine in written]
    assert max(load) - min(load) <= 20
    assert [len([one for one in mine if one.holders == (0, 2)]) for mine in written] == [5, 0, 5]


def test_any_range_is_read_across_the_slices_of_all_ranks(tmp_path):
    """The test writes the files of three ranks with uneven slices itself, with the safetensors library."""
    values = np.arange(24, dtype="float32")
    cuts = [(0, 5), (5, 6), (6, 24)]
    path = save(tmp_path, 1)
    reader = checkpoint.CheckpointReader(path)
    reader.manifest.tensors["x"] = Tensor([4, 6], "float32", [Slice(f"{n}", *cut) for n, cut in enumerate(cuts)])
    for number, (start, stop) in enumerate(cuts):
        save_file({"x": values[start:stop]}, path / f"{number}")
    for start in range(24):
        for stop in range(start, 25):
            assert np.array_equal(reader.range("x", start, stop), values[start:stop])
    assert np.array_equal(reader.tensor("x"), values.reshape(4, 6))
    del reader.manifest.tensors["x"].slices[1]
    assert np.array_equal(reader.range("x", 0, 5), values[:5])
    with pytest.raises(CheckpointError, match="x: elements from 5 on are missing"):
        reader.range("x", 2, 9)


def test_background_and_foreground_saves_write_the_same_bytes(tmp_path):
    one, other = save(tmp_path / "one", 5, asynchronous=True), save(tmp_path / "other", 5, asynchronous=False)
    assert [file.name for file in sorted(one.iterdir())] == [file.name for file in sorted(other.iterdir())]
    assert all(file.read_bytes() == (other / file.name).read_bytes() for file in one.iterdir())


def test_a_background_save_writes_the_state_at_its_start(tmp_path):
    """The background save has its own copy, and the next save can reuse its memory."""
    values = paddle.ones([1000])
    part = TensorShard("model/x", [1000], "float32", 0, 1000, (0,), lambda: view_as_numpy(values))
    manager = CheckpointManager(tmp_path, World(), config.Checkpoint())
    for step in (1, 2):
        manager.save([part], CheckpointInfo(step, 0, {}))
        values.set_value(values + 1)
        manager.finish()
    assert [checkpoint.load(tmp_path / checkpoint.step_directory(step))[1]["model/x"][7] for step in (1, 2)] == [1, 2]


def test_a_slow_disk_blocks_only_the_next_save(tmp_path):
    class Slow(LocalStorage):
        @contextmanager
        def create(self, file):
            time.sleep(0.5)
            with super().create(file) as opened:
                yield opened

    part = TensorShard("model/x", [10], "float32", 0, 10, (0,), lambda: np.ones(10, "float32"))
    manager = CheckpointManager(tmp_path, World(), config.Checkpoint(), Slow(tmp_path))
    began = time.perf_counter()
    manager.save([part], CheckpointInfo(1, 0, {}))
    assert time.perf_counter() - began < 0.4 and not manager.ready
    while not manager.ready:
        time.sleep(0.01)
    manager.advance()  # the manifest takes the same time again
    assert not manager.ready and manager.newest is None
    manager.save([part], CheckpointInfo(2, 0, {}))
    assert manager.newest == tmp_path / "step-00000001" and time.perf_counter() - began > 1
    manager.finish()
    assert checkpoint.resolve_resume("auto", tmp_path) == manager.newest == tmp_path / "step-00000002"


def test_a_failed_save_can_be_tolerated(tmp_path, caplog):
    """checkpoint.on_failure=continue: an error in the log, the older checkpoint stays, and the next save works."""
    good = save(tmp_path, 1)
    settings = config.Checkpoint(on_failure="continue", save_retries=0)
    manager = CheckpointManager(tmp_path, World(), settings, Failing(tmp_path, "create"))
    manager.save([], CheckpointInfo(2, 0, {}))
    manager.finish()
    assert "no space left" in caplog.text and "training continues (checkpoint.on_failure=continue)" in caplog.text
    assert checkpoint.resolve_resume("auto", tmp_path) == good and len(list(tmp_path.iterdir())) == 1
    manager._storage = LocalStorage(tmp_path)
    manager.save([], CheckpointInfo(3, 0, {}))
    manager.finish()
    assert checkpoint.resolve_resume("auto", tmp_path) == manager.newest == tmp_path / "step-00000003"


@pytest.mark.parametrize("operation", ["begin", "create", "write", "publish"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_any_failed_save_leaves_only_the_older_checkpoint(tmp_path, operation, asynchronous):
    good = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="no space left on device; older checkpoints are unchanged"):
        save(tmp_path, 2, storage=Failing(tmp_path, operation), asynchronous=asynchronous)
    assert list(tmp_path.iterdir()) == [good] and checkpoint.resolve_resume("auto", tmp_path) == good


def test_keep_every_keeps_checkpoints_forever(tmp_path):
    for step in range(10, 90, 10):
        save(tmp_path, step, keep_last=2, keep_every=30)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints_in(tmp_path)] == [30, 60, 70, 80]


@pytest.mark.parametrize("operation", ["begin", "create", "write", "publish"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failed_save_is_tried_again_with_the_same_values(tmp_path, caplog, operation, asynchronous):
    """Training goes on meanwhile, and the values of the model change."""
    storage = Failing(tmp_path, operation, times=2)
    settings = config.Checkpoint(asynchronous=asynchronous, save_retries=2, save_backoff=0.1)
    manager, values = CheckpointManager(tmp_path, World(), settings, storage), np.zeros(5, "float32")
    began = time.perf_counter()
    manager.save([replicated("x", values, ranks=1)], CheckpointInfo(1, 0, {}))
    if asynchronous:
        assert time.perf_counter() - began < 0.1
        values += 1
    manager.finish()
    assert time.perf_counter() - began >= 0.1 + 0.2 and storage.failed == 2
    assert [str(path.name) for path in tmp_path.iterdir()] == ["step-00000001"]
    assert not checkpoint.load(manager.newest)[1]["x"].any()
    assert "attempt 2 of 3 follows in 0.1 s" in caplog.text and "attempt 3 of 3 follows in 0.2 s" in caplog.text


def test_the_last_failed_attempt_is_an_error(tmp_path):
    storage = Failing(tmp_path, "write")
    with pytest.raises(CheckpointError, match="no space left"):
        save(tmp_path, 1, storage=storage, save_retries=2)
    assert storage.failed == 3


def test_a_save_that_cannot_succeed_is_not_tried_again(tmp_path):
    (tmp_path / "file").write_text("")
    began = time.perf_counter()
    with pytest.raises(CheckpointError, match="could not create the folder"):
        save(tmp_path / "file", 1, save_backoff=9)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("error", [OSError("(External) CUDA error(719), unspecified launch failure."), KeyError("x")])
def test_errors_of_devices_and_defects_are_not_errors_of_the_storage(tmp_path, error):
    """They keep their type and their traceback, so that the launcher does not take them for bad input."""

    def read():
        raise error

    part = TensorShard("x", [1], "float32", 0, 1, (0,), read)
    with pytest.raises(type(error)) as raised:
        CheckpointManager(tmp_path, World(), config.Checkpoint()).save([part], CheckpointInfo(1, 0, {}))
    assert raised.value is error


class Failing(LocalStorage):
    """A storage whose disk is full at `operation`, the first `times` times."""

    def __init__(self, root, operation, times=1000):
        super().__init__(root)
        self._operation, self._times, self.failed = operation, times, 0

    def _fail(self, operation):
        if operation == self._operation and self.failed < self._times:
            self.failed += 1
            raise OSError(errno.ENOSPC, "no space left on device")

    def begin(self, name):
        self._fail("begin")
        return super().begin(name)

    @contextmanager
    def create(self, file):
        self._fail("create")
        with super().create(file) as opened:
            self._fail("write")
            yield opened

    def publish(self, unfinished, name):
        self._fail("publish")
        super().publish(unfinished, name)


def test_an_edited_manifest_is_found(tmp_path):
    """The manifest is well-formed and its new value is possible."""
    path = save(tmp_path, 1)
    body = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(body | {"consumed_samples": 16}))
    with pytest.raises(CheckpointError, match="manifest.json: damaged, its contents do not match its hash"):
        checkpoint.load(path)


@pytest.mark.parametrize("held", [[(0, 4), (5, 10)], [(0, 6), (5, 10)], [(0, 9)], [(1, 10)]])
def test_an_incomplete_tensor_is_refused(tmp_path, held):
    parts = [
        TensorShard("x", [10], "float32", start, stop, (0,), lambda start=start, stop=stop: np.ones(stop - start, "f4"))
        for start, stop in held
    ]
    storage, written = LocalStorage(tmp_path), []
    unfinished = storage.begin("step-00000001")
    for rank, part in enumerate(parts):
        file = slices.write(storage, f"{unfinished}/{rank_file(rank)}", [tensor_chunk(part, part.read)])
        written.append(ShardResult.of(file, [part]))
    with pytest.raises(CheckpointError, match="x: the shards of all ranks do not cover it exactly once"):
        publish(storage, unfinished, CheckpointInfo(1, 0, {}), {"ranks": len(held), "shards": 1}, written)
    assert checkpoint.checkpoints_in(tmp_path) == []


def test_incomplete_checkpoints_do_not_count_for_keep_last(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-00000003" / "rank-00000.safetensors").unlink()
    save(tmp_path, 4, keep_last=2)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoints_in(tmp_path)] == [2, 4]


def flip_a_bit(path):
    """Damage that only the hash shows."""
    data = bytearray((path / "rank-00000.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "rank-00000.safetensors").write_bytes(data)


def test_checkpoints_that_resuming_found_damaged_do_not_count_for_keep_last(tmp_path):
    """Otherwise the run would keep the damaged ones and remove the good ones that it continued from."""
    for step in (10, 20, 30):
        flip_a_bit(save(tmp_path, step)) if step > 10 else save(tmp_path, step)
    manager = CheckpointManager(tmp_path, World(), config.Checkpoint(keep_last=2))
    chosen = checkpoint.resolve_resume("auto", tmp_path)
    manager.continue_after(chosen, checkpoint.step_of(chosen))

    def kept_after(step):
        manager.save([], CheckpointInfo(step, 0, {}))
        manager.finish()
        return [checkpoint.step_of(path) for path in checkpoint.checkpoints_in(tmp_path)]

    assert checkpoint.step_of(chosen) == 10
    assert kept_after(25) == [10, 25, 30]
    assert kept_after(30) == [25, 30]  # the damaged one has been replaced, and counts again
    assert kept_after(40) == [30, 40]


def test_a_new_checkpoint_that_is_incomplete_does_not_count_for_keep_last(tmp_path):
    class Losing(LocalStorage):
        def publish(self, unfinished, name):
            (self.root / unfinished / "rank-00000.safetensors").unlink()
            super().publish(unfinished, name)

    good = save(tmp_path, 1)
    save(tmp_path, 2, storage=Losing(tmp_path), keep_last=1)
    assert checkpoint.resolve_resume("auto", tmp_path) == good


def run_in_small_file_system(tmp_path, program):
    """Run `program` with SMALL, a file system of 2 MB that is mounted in its own namespace."""
    small = tmp_path / "small"
    small.mkdir()
    lines = f"mount -t tmpfs -o size=2m none {small} && exec {sys.executable} -c {shlex.quote(program)}"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", lines],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"SMALL": str(small), "PYTHONPATH": os.getcwd()},
    )
    if ("mount" in done.stderr and done.returncode in (1, 32)) or "unshare" in done.stderr:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip().splitlines()[-1]}")
    return done


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_that_is_really_full(tmp_path, asynchronous):
    done = run_in_small_file_system(
        tmp_path,
        textwrap.dedent(f"""
        import os, numpy as np
        from pathlib import Path
        from tests.checkpoint.test_checkpoint import save
        from vilg import checkpoint
        folder = Path(os.environ["SMALL"])
        good = save(folder, 1)
        try:
            save(folder, 2, {{"big": np.zeros(10**6, "float32")}}, asynchronous={asynchronous})
        except checkpoint.CheckpointError as error:
            print(error)
        assert list(folder.iterdir()) == [good] and checkpoint.resolve_resume("auto", folder) == good
        print("newest", save(folder, 3).name)
    """),
    )
    assert done.returncode == 0, done.stderr
    assert "No space left on device; older checkpoints are unchanged" in done.stdout
    assert "newest step-00000003" in done.stdout


def test_a_disk_that_is_really_read_only(tmp_path):
    done = run_in_small_file_system(
        tmp_path,
        textwrap.dedent("""
        import os, subprocess
        from pathlib import Path
        from tests.checkpoint.test_checkpoint import save
        from vilg import checkpoint
        folder = Path(os.environ["SMALL"])
        good = save(folder, 1)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        try:
            save(folder, 2)
        except checkpoint.CheckpointError as error:
            print(error)
        assert checkpoint.resolve_resume("auto", folder) == good
    """),
    )
    assert done.returncode == 0, done.stderr
    assert "Read-only file system" in done.stdout and "older checkpoints are unchanged" in done.stdout
