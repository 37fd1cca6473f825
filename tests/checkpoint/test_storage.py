"""All storages behave alike; they differ in how they hide an incomplete checkpoint."""

import numpy as np
import pytest

from tests.checkpoint.test_checkpoint import save, tensors
from vilg import checkpoint
from vilg.checkpoint import CheckpointError, inspection
from vilg.checkpoint.storage import LocalStorage, RemoteStorage, join, open_storage, split_location


@pytest.fixture(params=["path", "file", "fsspec's files", "fsspec's memory"])
def folder(request, tmp_path):
    if request.param == "path":
        return tmp_path
    if request.param == "file":
        return f"file://{tmp_path}"
    pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'vilg[storage]'")
    if request.param == "fsspec's files":
        return f"local://{tmp_path}"
    return f"memory://{tmp_path.name}/run"


def test_checkpoints_are_written_and_removed(folder):
    for step in (1, 2, 3):
        save(folder, step, keep_last=2)
    found = checkpoint.checkpoints_in(folder)
    assert [checkpoint.step_of(path) for path in found] == [2, 3]
    assert checkpoint.resolve_resume("auto", folder) == found[1]
    manifest, loaded = checkpoint.load(found[1])
    assert manifest.step == 3 and loaded.keys() == tensors().keys()
    assert all(np.array_equal(loaded[name], value) for name, value in tensors(3).items())


def test_without_a_manifest_there_is_no_checkpoint(folder):
    save(folder, 1)
    storage = open_storage(folder)
    unfinished = storage.begin("step-00000002")
    with storage.create(f"{unfinished}/rank-00000.safetensors") as file:
        file.write(b"half")
    assert checkpoint.resolve_resume("auto", folder) == join(folder, "step-00000001")
    save(folder, 2)
    assert checkpoint.resolve_resume("auto", folder) == join(folder, "step-00000002")


def test_a_flipped_byte_is_found(folder):
    path = save(folder, 1)
    storage, name = split_location(path)
    file = f"{name}/rank-00000.safetensors"
    data = bytearray(storage.read(file, 0, storage.size(file)))
    data[-1] ^= 1
    with storage.create(file) as opened:
        opened.write(bytes(data))
    with pytest.raises(CheckpointError, match="damaged between bytes 0 and"):
        checkpoint.verify(path)
    assert [good for _, good in inspection.verify_checkpoints(str(folder))] == [False]


def test_missing_paths(folder):
    assert checkpoint.resolve_resume("auto", join(folder, "none")) is None
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.verify(join(folder, "step-00000009"))


def test_a_checkpoint_that_cannot_be_removed_does_not_protect_the_others(tmp_path, monkeypatch, caplog):
    """Otherwise a link or an immutable folder would fill the disk."""
    for step in (1, 2, 3):
        save(tmp_path, step)
    remove = LocalStorage.remove

    def refuse(storage, name):
        if name == "step-00000001":
            raise PermissionError(1, "Operation not permitted")
        remove(storage, name)

    monkeypatch.setattr(LocalStorage, "remove", refuse)
    save(tmp_path, 4, keep_last=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000004"]
    assert "step-00000001: cannot be removed (Operation not permitted)" in caplog.text


@pytest.mark.parametrize("failing", ["create", "remove", "ls"])
def test_errors_of_the_store_are_reported(failing, tmp_path, monkeypatch, caplog):
    """Any exception of the store becomes a one-line error, and published checkpoints stay, also if pruning fails."""
    fsspec = pytest.importorskip("fsspec")
    folder = f"memory://{tmp_path.name}/run"
    for step in (1, 2):
        save(folder, step)

    class Broken(type(fsspec.filesystem("memory"))):
        def rm(self, path, *arguments, **options):
            raise RuntimeError("access denied")

        def _open(self, path, mode="rb", *arguments, **options):
            if failing == "create" and mode == "wb":
                raise RuntimeError("access denied")
            return super()._open(path, mode, *arguments, **options)

        def ls(self, path, *arguments, **options):
            if failing == "ls" and path.endswith("run") and self.exists(f"{path}/step-00000003/manifest.json"):
                raise RuntimeError("access denied")
            return super().ls(path, *arguments, **options)

    storage = open_storage(folder)
    storage._files = Broken()
    if failing == "create":
        with pytest.raises(CheckpointError, match="RuntimeError: access denied"):
            save(folder, 3, storage=storage, keep_last=1)
        assert checkpoint.step_of(checkpoint.resolve_resume("auto", folder)) == 2
    else:
        monkeypatch.setattr("vilg.checkpoint.format.open_storage", lambda folder: storage)
        save(folder, 3, storage=storage, keep_last=1)
        monkeypatch.undo()
        problem = {"remove": "step-00000001: cannot be removed", "ls": "old checkpoints cannot be listed"}[failing]
        assert problem in caplog.text and "access denied" in caplog.text
        assert checkpoint.step_of(checkpoint.resolve_resume("auto", folder)) == 3


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    """A step is saved again. The old checkpoint has been renamed, and the new one has not been published yet."""
    save(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / ".step-00000001.replaced")
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    checkpoint.verify(tmp_path / "step-00000001")


def test_urls_and_paths():
    assert isinstance(open_storage("runs/x"), LocalStorage) and isinstance(open_storage("file:///x"), LocalStorage)
    pytest.importorskip("fsspec")
    storage, name = split_location("memory://bucket/run/step-00000001/")
    assert isinstance(storage, RemoteStorage) and name == "step-00000001"


def test_short_writes_are_completed(tmp_path):
    from vilg.checkpoint.storage import _FullWrites

    class Slow:
        got = b""

        def write(self, data):
            self.got += bytes(data[:3])
            return min(3, len(data))

    slow = Slow()
    _FullWrites(slow).write(b"0123456789")
    assert slow.got == b"0123456789"
