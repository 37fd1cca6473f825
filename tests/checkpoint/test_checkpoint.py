"""A checkpoint is whole or it is not there; whatever is wrong with it is named."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from vilg import checkpoint
from vilg.checkpoint import CheckpointError
from vilg.checkpoint.format import Slice, Tensor
from vilg.checkpoint.save import share_of
from vilg.distributed.states import Part, whole
from vilg.distributed.world import World


def tensors(seed=0):
    generator = np.random.default_rng(seed)
    return {"model/a": generator.normal(size=[3, 4]).astype("float32"), "model/b": np.array(7, dtype="int64"),
            "moment1/a": generator.normal(size=[3, 4]).astype("float32"), "model/none": np.zeros([0, 2], "float32")}


def save(folder, step, keep_last=3, **changes):
    parts = [whole(name, value, ranks=1) for name, value in (tensors(step) | changes).items()]
    return checkpoint.save(folder, World(), parts, step, step * 8, {"run": {"name": "x"}}, {"text": "abc"}, keep_last)


def test_what_was_saved_is_loaded(tmp_path):
    path = save(tmp_path, 12)
    assert path.name == "step-00000012"
    manifest, loaded = checkpoint.load(path)
    assert (manifest.step, manifest.consumed_samples, manifest.topology) == (12, 96, {"ranks": 1, "shards": 1})
    assert manifest.settings == {"run": {"name": "x"}} and manifest.tokenizers == {"text": "abc"}
    assert set(loaded) == set(tensors())
    for name, value in tensors(12).items():
        assert loaded[name].dtype == value.dtype and np.array_equal(loaded[name], value)


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep_last=2)
    assert [path.name for path in checkpoint.checkpoints_in(tmp_path)] == ["step-00000003", "step-00000004"]
    assert len(list(tmp_path.iterdir())) == 2


def test_pruning_never_touches_what_was_just_written_nor_counts_what_cannot_be_read(tmp_path):
    for step in (100, 200, 300):
        save(tmp_path, step)
    (tmp_path / "step-00000200" / "manifest.json").unlink()
    new = save(tmp_path, 250, keep_last=2)
    assert [path.name for path in checkpoint.checkpoints_in(tmp_path)] == [
        "step-00000100", "step-00000250", "step-00000300"]
    assert checkpoint.load(new)[0].step == 250
    save(tmp_path, 260, keep_last=1)
    assert [path.name for path in checkpoint.checkpoints_in(tmp_path)] == ["step-00000260", "step-00000300"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    path = save(tmp_path, 3, **{"model/b": np.array(8)})
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


def test_auto_takes_the_newest_valid_one_and_says_what_it_passed_over(tmp_path, caplog):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    (bad / "manifest.json").unlink()
    assert checkpoint.choose("auto", tmp_path) == good
    assert "passed over" in caplog.text and "step-00000002" in caplog.text
    assert checkpoint.choose("none", tmp_path) is None
    assert checkpoint.choose("auto", tmp_path / "empty") is None
    with pytest.raises(CheckpointError, match="step-00000002: not a checkpoint"):
        checkpoint.choose(str(bad), tmp_path)  # a path never falls back


def test_auto_does_not_start_anew_where_everything_is_broken(tmp_path):
    (save(tmp_path, 1) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints can be read"):
        checkpoint.choose("auto", tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"version": 1}'])
def test_a_manifest_of_another_shape_is_damaged(tmp_path, text):
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="manifest.json: damaged"):
        checkpoint.load(path)


def test_a_full_disk_leaves_the_older_checkpoints_and_nothing_else(tmp_path):
    """A file-size limit stands in for the disk; it must be set in a process of its own."""
    save(tmp_path, 1)
    program = textwrap.dedent(f"""
        import resource, signal, sys, numpy as np
        from pathlib import Path
        sys.path.insert(0, {os.getcwd()!r})
        from tests.checkpoint.test_checkpoint import save
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        save(Path({str(tmp_path)!r}), 2, big=np.zeros(10**6, "float32"))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "CheckpointError" in done.stderr and "could not write the checkpoint" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    checkpoint.load(tmp_path / "step-00000001")


def test_a_killed_save_leaves_no_checkpoint_and_the_next_save_clears_it_away(tmp_path):
    leftover = tmp_path / ".step-00000005.writing"
    leftover.mkdir()
    (leftover / "rank-00000.safetensors").write_bytes(b"half")
    assert checkpoint.choose("auto", tmp_path) is None
    save(tmp_path, 6)
    assert not leftover.exists()


def test_ranks_share_the_writing_evenly():
    """Each part is written once, by one that holds it, whatever order the ranks list them in."""
    def part(number, size, holders):
        return Part(f"t{number}", [size], "float32", 0, size, holders, None)

    of_all = [part(n, n + 1, (0, 1, 2)) for n in range(20)]
    of_two = [part(n, 5, (0, 2)) for n in range(20, 30)]
    written = [share_of(of_all + of_two, 0), share_of(of_all, 1), share_of((of_all + of_two)[::-1], 2)]
    assert sorted(one.name for mine in written for one in mine) == sorted(f"t{n}" for n in range(30))
    load = [sum(one.stop for one in mine if one.holders == (0, 1, 2)) for mine in written]
    assert max(load) - min(load) <= 20
    assert [len([one for one in mine if one.holders == (0, 2)]) for mine in written] == [5, 0, 5]


def test_any_range_is_read_across_the_slices_of_all_ranks(tmp_path):
    """Files of three ranks with uneven slices, made of one by hand."""
    values = np.arange(24, dtype="float32")
    cuts = [(0, 5), (5, 6), (6, 24)]
    path = save(tmp_path, 1)
    reader = checkpoint.Reader(path)
    reader.manifest.tensors["x"] = Tensor([4, 6], "float32", [Slice(f"{n}", *cut) for n, cut in enumerate(cuts)])
    for number, (start, stop) in enumerate(cuts):
        save_file({"x": values[start:stop]}, path / f"{number}")
        reader._opened[f"{number}"] = safe_open(path / f"{number}", framework="numpy")
    for start in range(24):
        for stop in range(start, 25):
            assert np.array_equal(reader.range("x", start, stop), values[start:stop])
    assert np.array_equal(reader.tensor("x"), values.reshape(4, 6))
    del reader.manifest.tensors["x"].slices[1]
    assert np.array_equal(reader.range("x", 0, 5), values[:5])
    with pytest.raises(CheckpointError, match="x lacks its elements from 5 on"):
        reader.range("x", 2, 9)
