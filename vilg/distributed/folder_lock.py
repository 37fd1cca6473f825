"""A lock on a folder, so that only one job at a time writes into it. Other hosts that mount the folder see it too.

The lock is a file that names its holder, and its modification time is the heartbeat. It is created by a hard link and
replaced by a rename, which are atomic on network file systems as well; flock(2) is not available on all of them. A
holder that is killed cannot remove the file. On the same machine another job sees that the process is gone. From
another machine it watches the heartbeat, and does not compare clocks.
"""

import errno
import json
import logging
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from vilg.distributed.processes import machine, start_time
from vilg.errors import UserError
from vilg.files import os_errors, printable

log = logging.getLogger(__name__)

NAME = "lock"
HEARTBEAT_S = 5.0
HEARTBEAT_LIMIT_S = 120.0  # a holder on another machine without a heartbeat for so long is gone
LAUNCHED_JOB = "VILG_JOB"  # JOB.ATTEMPT, set by `vilg launch --start`; attempts of one job follow each other

_PAUSE_S = 0.2
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. `token` differs between any two holders."""

    token: str
    host: str
    process: int
    started: int  # clock ticks, see processes.start_time
    machine: str
    job: str  # of `vilg launch --start`; empty without it
    scheduler: str  # the job there, for messages; on Kubernetes the name of the host is that of the pod
    since: str

    @staticmethod
    def this_process() -> "Holder":
        slurm_job = os.environ.get("SLURM_JOB_ID")
        return Holder(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            process=os.getpid(),
            started=start_time(os.getpid()) or 0,
            machine=machine(),
            job=os.environ.get(LAUNCHED_JOB, "").rpartition(".")[0],
            scheduler=f"Slurm job {slurm_job}" if slurm_job else "",
            since=datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        )

    def __str__(self) -> str:
        job = f" ({self.scheduler})" if self.scheduler else ""
        return f"process {self.process} on {self.host}{job}, since {self.since}"

    @property
    def is_on_this_machine(self) -> bool:
        return bool(self.machine) and self.machine == machine()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone; known on its own machine only."""
        return self.is_on_this_machine and start_time(self.process) != self.started


# A file without content: on a file system without links, its holder may not have written it yet.
_UNKNOWN = Holder("", "an unknown host", 0, 0, "", "", "", "an unknown time")


class FolderLock:
    """The lock of one folder. Call `beat` every HEARTBEAT_S seconds while it is held."""

    def __init__(self, folder: Path, heartbeat_limit_s: float = HEARTBEAT_LIMIT_S):
        self.folder, self.file = folder, folder / NAME
        self.holder = Holder.this_process()
        self._own = folder / f".{NAME}.{self.holder.token}"
        self._limit_s = heartbeat_limit_s

    def acquire(self) -> None:
        """Take the lock, also from a holder that has ended. Creates the folder.

        Raises UserError if another job holds it. If the holder is on another machine, this takes some seconds, or the
        limit of the heartbeat if it has ended. An earlier attempt of this job gets time to end.
        """
        with os_errors(self.file):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own.write_text(json.dumps(asdict(self.holder)), "utf-8")
            try:
                while not self._create(self.file):
                    found = read_lock(self.file)
                    if found is None:
                        continue  # it has just been released
                    self._await_end(*found)
                    if self._replace(found[0]):
                        log.warning("%s: taken over from %s, which has ended", printable(self.file), found[0])
                        break
            finally:
                self._own.unlink(missing_ok=True)

    def beat(self) -> bool:
        """Show that this process still works. Returns False if another job has taken the lock over.

        A failure of the file system is not reported: the next call tries again.
        """
        try:
            found = read_lock(self.file)
            if found is not None and found[0].token != self.holder.token:
                return False
            os.utime(self.file)
        except OSError:
            pass
        return True

    def release(self) -> None:
        """Remove the lock, and the folder if nothing else is in it."""
        try:
            found = read_lock(self.file)
            if found is not None and found[0].token == self.holder.token:
                self.file.unlink()
            self.folder.rmdir()
        except OSError:
            pass

    def _create(self, file: Path) -> bool:
        """Create `file` with the name of this holder; False if it exists."""
        try:
            os.link(self._own, file)
        except FileExistsError:
            # The answer of a network file system to a successful call may be lost, and the call repeated.
            return file.exists() and file.samefile(self._own)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                with open(file, "x", encoding="utf-8") as opened:
                    opened.write(self._own.read_text("utf-8"))
            except FileExistsError:
                return False
        return True

    def _replace(self, ended: Holder) -> bool:
        """Take the lock over from a holder that has ended; False if another job was faster."""
        claim = self.folder / f".{NAME}.after-{ended.token}"
        if not self._create(claim):
            # Another job is just doing this, unless it was killed in between.
            if _age_s(claim, self._own) > self._limit_s:
                claim.unlink(missing_ok=True)
            time.sleep(_PAUSE_S)
            return False
        try:
            found = read_lock(self.file)
            if found is None or found[0].token != ended.token:
                return False
            replacement = self.folder / f".{NAME}.{self.holder.token}.new"
            replacement.write_text(self._own.read_text("utf-8"), "utf-8")
            os.replace(replacement, self.file)
            return True
        finally:
            claim.unlink(missing_ok=True)

    def _await_end(self, holder: Holder, heartbeat: int) -> None:
        """Return when the holder has ended or has released the lock. Raises UserError if it still works."""
        follows = bool(self.holder.job) and self.holder.job == holder.job
        if follows or not holder.is_on_this_machine:
            log.info("%s: held by %s; looking whether it still works", printable(self.file), holder)
        began = silent_since = time.monotonic()
        works = holder.is_on_this_machine
        while not holder.has_ended:
            found, now = read_lock(self.file), time.monotonic()
            if found is None or found[0].token != holder.token:
                return
            if found[1] != heartbeat:
                heartbeat, silent_since, works = found[1], now, True
            if works and not (follows and now - began < 2 * self._limit_s):
                raise UserError(
                    f"{printable(self.folder)}: another job uses this folder: {holder}; stop it, or choose another "
                    "run.name"
                )
            if not holder.is_on_this_machine and now - silent_since > self._limit_s:
                return
            time.sleep(_PAUSE_S)


def read_lock(file: Path) -> tuple[Holder, int] | None:
    """The holder of a lock, and its heartbeat in nanoseconds; None if there is no lock."""
    try:
        with open(file, encoding="utf-8") as opened:  # opening makes a network file system ask its server
            text, heartbeat = opened.read(), os.fstat(opened.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text)), heartbeat
    except (ValueError, TypeError):
        return _UNKNOWN, heartbeat


def _age_s(file: Path, newer: Path) -> float:
    """Seconds between the changes of two files, by the clock of the file system; 0 if one is gone."""
    try:
        return newer.stat().st_mtime - file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
