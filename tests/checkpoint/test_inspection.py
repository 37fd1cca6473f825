"""`vilg checkpoint list`, `verify`, `consolidate`."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.checkpoint.test_checkpoint import save, tensors
from vilg.checkpoint import inspection
from vilg.cli import main


@pytest.fixture
def run(tmp_path):
    """A run with two valid checkpoints, one that lacks a file, and one that was never finished."""
    folder = tmp_path / "runs" / "x" / "checkpoints"
    for step in (10, 20, 30, 40):
        save(folder, step, keep_last=9)
    (folder / "step-00000030" / "rank-00000.safetensors").unlink()
    (folder / "step-00000040" / "manifest.json").unlink()
    return folder.parent


def flip(file, place=-1):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_list_shows_complete_and_incomplete_checkpoints(run, capsys):
    assert main(["checkpoint", "list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["step", "10", "20", "30", "40"]
    assert "1 x 1" in lines[1] and lines[1].endswith("complete") and "20" in lines[1]
    assert "not valid" in lines[3] and lines[3].endswith("rank-00000.safetensors: missing")
    assert "not a checkpoint" in lines[4]
    assert main(["checkpoint", "list", str(run / "checkpoints" / "step-00000010")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_list_leaves_out_what_a_running_job_removes_meanwhile(run, capsys, monkeypatch):
    """Whether it is gone before its manifest is read, or before the sizes of its files are."""
    for function in ("read_manifest", "find_incomplete"):
        original = getattr(inspection, function)

        def remove_first(checkpoint, *arguments, original=original):
            if checkpoint.name == "step-00000010":
                shutil.rmtree(checkpoint, ignore_errors=True)
            return original(checkpoint, *arguments)

        save(run / "checkpoints", 10, keep_last=9)
        with monkeypatch.context() as patch:
            patch.setattr(inspection, function, remove_first)
            assert main(["checkpoint", "list", str(run)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["step", "20", "30", "40"]


def test_a_run_that_was_renamed(run):
    (run / "settings.yaml").write_text("checkpoint: {folder: ''}\nrun: {name: x}\n")
    assert inspection.checkpoint_folder(run.rename(run.with_name("y"))) == run.with_name("y") / "checkpoints"


@pytest.mark.parametrize("content", ["", "?", "- 1", "checkpoint: {}", "checkpoint: 3\nrun: {name: x}", "a: [", "\x00"])
def test_damaged_settings_of_a_run(run, capsys, caplog, content):
    (run / "settings.yaml").write_text(content)
    assert main(["checkpoint", "list", str(run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert f"{run}/settings.yaml: empty or damaged; its checkpoints are expected in {run}/checkpoints" in caplog.text


def test_verify_hashes_everything(run, capsys):
    good = run / "checkpoints" / "step-00000010"
    assert main(["checkpoint", "verify", str(good)]) == 0
    assert "step-00000010: valid, 1 files" in capsys.readouterr().out
    flip(good / "rank-00000.safetensors")
    assert main(["checkpoint", "verify", str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "step-00000010/rank-00000.safetensors: damaged between bytes 0 and" in lines[0]
    assert "step-00000020: valid" in lines[1] and "missing" in lines[2] and "not a checkpoint" in lines[3]


def test_consolidate_takes_the_newest_valid_checkpoint(run, tmp_path, capsys):
    out = tmp_path / "weights.safetensors"
    assert main(["checkpoint", "consolidate", str(run), "--out", str(out)]) == 0
    assert "3 tensors of" in capsys.readouterr().out
    weights = load_file(out)
    expected = {name.removeprefix("model/"): value for name, value in tensors(20).items() if name.startswith("model/")}
    assert weights.keys() == expected.keys()
    assert all(
        np.array_equal(weights[name], value) and weights[name].shape == value.shape for name, value in expected.items()
    )


def test_consolidate_does_not_replace_a_named_checkpoint(run, tmp_path, capsys):
    named = run / "checkpoints" / "step-00000010"
    flip(named / "rank-00000.safetensors")
    out = tmp_path / "weights.safetensors"
    out.write_bytes(b"before")
    assert main(["checkpoint", "consolidate", str(named), "--out", str(out), "--overwrite"]) == 1
    assert "damaged" in capsys.readouterr().err
    assert out.read_bytes() == b"before" and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["list", "verify"])
def test_a_folder_without_checkpoints_is_a_one_line_error(kind, tmp_path, capsys):
    assert main(["checkpoint", kind, str(tmp_path)]) == 1
    assert capsys.readouterr().err.strip() == f"vilg: {tmp_path}: no checkpoint in it"
