"""A program that runs on a host, on this machine or over ssh, and is controlled through its standard input."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vilg import runtime
from vilg.distributed.launch.hosts import Host


class HostProcess:
    """Runs `command` on `host`, in the folder of the same name as the current one. Its errors are among its output.

    ssh: the command that takes a host and a shell line. first: another command, which runs before the folder is
    entered. The environment is that of this process before it was prepared for Paddle, and signals of the terminal do
    not reach the process.
    """

    def __init__(self, host: Host, command: list[str], ssh: list[str], first: list[str] | None = None):
        steps = [first] if first else []
        steps += [["cd", str(Path.cwd())], ["exec", *command]]
        self._process = subprocess.Popen(
            host.shell_command(ssh, " && ".join(map(shlex.join, steps))),
            env=runtime.environment_before(),
            text=True,
            errors="replace",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, line: str) -> None:
        """Write a line to its input. Without effect if it has ended."""
        with suppress(OSError):
            self._stdin.write(line + "\n")
            self._stdin.flush()

    def messages(self) -> Iterator[dict | str]:
        """Its output until it ends: JSON objects, and other lines as they are, for example those of ssh."""
        for line in self._stdout:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            yield message if isinstance(message, dict) else line.rstrip()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait()

    def end(self, seconds: float) -> None:
        """Close its input, and kill it if it has not ended after `seconds`."""
        with suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
