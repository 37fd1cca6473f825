"""Files are complete or absent, and errors of the operating system name the file and what to do."""

import errno
import os

import pytest

from vilg.errors import UserError
from vilg.files import os_errors, printable, user_message, write_atomically


def test_a_file_is_replaced_at_once(tmp_path):
    file = tmp_path / "x"
    for data in (b"old", b"new" * 1000):
        write_atomically(file, data)
        assert file.read_bytes() == data and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_older_file(tmp_path, monkeypatch, error):
    file = tmp_path / "x"
    write_atomically(file, b"old")

    def fail(_):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as raised:
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]
    if raised.type is UserError:
        assert str(raised.value) == f"{file}: no space left on device; free some space, or choose another folder"


def test_errors_of_libraries_get_the_name_of_the_file(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: permission denied; check its permissions"), os_errors(tmp_path):
        raise OSError(errno.EACCES, "Permission denied")  # without a name


@pytest.mark.parametrize(
    "error", [OSError("(External) CUDA error(719)"), OSError(errno.EIO, "Input/output error", "x")]
)
def test_errors_that_a_user_cannot_correct_keep_their_traceback(tmp_path, error):
    assert user_message(error) is None
    with pytest.raises(OSError) as raised, os_errors(tmp_path):
        raise error
    assert raised.value is error


def test_names_that_are_not_utf_8_can_be_printed():
    assert printable(os.fsdecode(b"/tmp/\xff.png")) == "/tmp/\\xff.png" and printable("红.png") == "红.png"
