"""What the folder of a run says about it. Nothing in the folder is changed."""

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from vilg.distributed.folder_lock import NAME, Holder, read_lock
from vilg.errors import UserError
from vilg.monitoring.metrics_file import MetricsFile

_CHECKPOINTS_EVERY = 30.0  # seconds between looks at the checkpoints, which may be at a URL
_CHECKPOINTS = 3  # newest ones shown
_TAIL = 4096  # bytes at the end of a log
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class RunSettings:
    """The settings that matter here. 0: not known."""

    steps: int = 0
    stop_at: int = 0
    stall_timeout: float = 1800.0


class RunFolder:
    """A run, for repeated looks at it with `update`.

    Raises UserError if `folder` is missing or is not the folder of a run.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        if not any((folder / name).exists() for name in ("metrics.jsonl", "settings.yaml", "checkpoints", "log")):
            raise UserError(
                f"{folder}: not the folder of a run, RUN.DIR/RUN.NAME: it has no settings.yaml and no metrics.jsonl"
            )
        self.folder = folder
        self.settings = RunSettings()
        self.checkpoints: list[str] = []
        self.log: tuple[Path, list[str]] | None = None
        self.holder: Holder | None = None  # the process whose job writes into the folder
        self.heartbeat = 0.0  # its last sign of life, in seconds since 1970
        self._metrics = MetricsFile(folder / "metrics.jsonl")
        self._listed_at = -_CHECKPOINTS_EVERY

    def update(self) -> None:
        """Look again."""
        self._metrics.update()
        self.settings = _read_settings(self.folder / "settings.yaml")
        self.log = _newest_log(self.folder / "log")
        with suppress(OSError):  # for example of a network file system; the next look may succeed
            lock = read_lock(self.folder / NAME)
            self.holder, self.heartbeat = (lock[0], lock[1] / 1e9) if lock else (None, 0.0)
        if time.monotonic() - self._listed_at >= _CHECKPOINTS_EVERY:
            self.checkpoints = self._list_checkpoints()
            self._listed_at = time.monotonic()

    @property
    def lines(self) -> list[dict[str, float]]:
        """The last lines of metrics.jsonl, up to 1000."""
        return list(self._metrics.lines)

    def series(self, name: str) -> tuple[Sequence[int], Sequence[float]]:
        """(steps, values) of a key in all lines."""
        return self._metrics.series.get(name, ((), ()))

    def written_at(self) -> float | None:
        """When the last line was written, in seconds since 1970. None if there is none."""
        if not self.lines:
            return None
        if "timestamp" in self.lines[-1]:
            return self.lines[-1]["timestamp"]
        return os.stat(self._metrics.path).st_mtime  # a run of an earlier version

    def _list_checkpoints(self) -> list[str]:
        """The heading and the newest checkpoints, or why there is none."""
        from vilg.checkpoint import inspection

        try:
            return list(inspection.list_checkpoints(str(self.folder), newest=_CHECKPOINTS))
        except (UserError, OSError) as error:
            return [str(error).removeprefix(f"{self.folder}: ")]


def _read_settings(file: Path) -> RunSettings:
    """Settings of any version of vilg; defaults where the file is missing or damaged."""
    try:
        tree = yaml.safe_load(file.read_text("utf-8"))
        train, cluster = tree["train"], tree.get("cluster", {})
        return RunSettings(
            int(train["steps"]), int(train.get("stop_at", 0)), float(cluster.get("stall_timeout", 1800.0))
        )
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError):
        return RunSettings()


def _newest_log(folder: Path) -> tuple[Path, list[str]] | None:
    """(the newest log of a rank, its last lines)."""
    try:
        newest = max(folder.glob("**/workerlog.*"), key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            return None
        with open(newest, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:  # removed meanwhile
        return None
    # A progress bar overwrites its line with carriage returns.
    lines = [line.rpartition("\r")[2] for line in _COLOUR.sub("", text).replace("\r\n", "\n").split("\n")]
    printable = ["".join(letter for letter in line if letter.isprintable()) for line in lines]
    return newest, [line for line in printable if line.strip()]
