"""Writes files so that they are complete or absent, and turns errors of the operating system into messages."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vilg.errors import UserError, os_reason

# What a user can do about an error. Other errors of the operating system are defects and keep their traceback.
_HINTS = {
    errno.ENOENT: "",
    errno.ENOTDIR: "",
    errno.EISDIR: "",
    errno.EEXIST: "",
    errno.ENAMETOOLONG: "",
    errno.EILSEQ: "",
    errno.ELOOP: "",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose another folder",
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EFBIG: "choose another folder",
    errno.EMFILE: "raise the limit with `ulimit -n`",
}


def user_message(error: OSError, path: str | Path | None = None) -> str | None:
    """One line with the path, the reason and a hint; None if the user cannot correct the error, or no path is known.

    Paddle raises errors of GPUs and of NCCL as OSError without a number; these are not the user's.
    """
    where = path if path is not None else error.filename
    if where is None or error.errno not in _HINTS:
        return None
    hint = _HINTS[error.errno]
    return f"{printable(where)}: {os_reason(error)}" + (f"; {hint}" if hint else "")


def refuse_existing(option: str, path: Path, overwrite: bool) -> None:
    """Raise UserError if there is something at `path`, the value of an option, unless the user wants to replace it."""
    with os_errors(path):
        if path.exists() and not overwrite:
            raise UserError(f"{option} {printable(path)}: exists already; --overwrite replaces it")


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Convert errors of the operating system, from any library, to a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        if message := user_message(error, path):
            raise UserError(message) from None
        raise


def printable(path: object) -> str:
    """A path as text that can be printed and stored: bytes that are not UTF-8 become \\\\xNN."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def write_atomically(file: Path, data: bytes) -> None:
    """Write a file that is complete or absent, also after a kill or a power failure. An older file stays until then.

    Raises UserError if the file cannot be written.
    """
    # Processes on several hosts may have the same id.
    hidden = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with os_errors(file):
        try:
            with open(hidden, "wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(hidden, file)
        except BaseException:  # also an interrupt
            hidden.unlink(missing_ok=True)
            raise
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
