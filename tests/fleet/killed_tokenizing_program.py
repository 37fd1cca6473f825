"""`vilg data tokenize` on a rank that kills itself: killed_tokenizing_program.py POINT VICTIM [key=value ..]."""

import builtins
import os
import signal
import sys

from vilg import files
from vilg.cli import main
from vilg.data import tokenizing

# Where the victim dies: in its first or second token file of two images, or in the manifest.
POINTS = (
    "while encoding",
    "in the middle of a file",
    "before the rename",
    "after the rename",
    "before the manifest",
    "in the middle of the manifest",
)


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillingFile:
    """A file whose writer is killed half-way."""

    def __init__(self, opened):
        self.opened = opened

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.close()

    def write(self, data: bytes) -> None:
        self.opened.write(data[: len(data) // 2])
        self.opened.flush()
        die()


def arm(point: str) -> None:
    """The process kills itself when it next reaches `point`."""
    if point == "while encoding":
        tokenizing.TokenShardWriter._encode = die
    elif point.startswith("in the middle"):
        files.open = lambda *arguments: KillingFile(builtins.open(*arguments))
    elif point == "before the rename":
        os.replace = die
    elif point == "after the rename":
        replace = os.replace
        os.replace = lambda *names: (replace(*names), die())
    else:
        tokenizing.Manifest.write = die


def main_with(point: str, settings: list[str]) -> int:
    write, written = tokenizing.write_part, []

    def counted(*arguments) -> None:
        write(*arguments)
        written.append(arguments[0].name)
        if len(written) == 1 and "manifest" not in point:
            arm(point)

    tokenizing.write_part = counted
    if "manifest" in point:
        finish = tokenizing._finish
        tokenizing._finish = lambda *arguments: (arm(point), finish(*arguments))[1]
    return main(["data", "tokenize", *settings])


if __name__ == "__main__":
    own = sys.argv[2] == os.environ.get("PADDLE_TRAINER_ID", "0")
    sys.exit(main_with(sys.argv[1], sys.argv[3:]) if own else main(["data", "tokenize", *sys.argv[3:]]))
