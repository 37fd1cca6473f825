"""`vilg watch`: shows a run in the terminal."""

import sys
import time
from pathlib import Path

from vilg.errors import UserError
from vilg.monitoring.run_folder import RunFolder


def watch(folder: Path, curves: list[str], once: bool, every: float) -> None:
    """Show the run in `folder` until Ctrl-C, every `every` seconds; once if `once` is set or stdout is no terminal.

    curves: metrics to plot; empty: a choice. Raises UserError for a folder that is no run's.
    """
    try:
        from rich.console import Console
        from rich.live import Live

        from vilg.monitoring.frame import frame
    except ImportError as error:
        raise UserError(f"vilg watch: {error.name} is not installed; pip install 'vilg[watch]'") from None
    run, console = RunFolder(folder), Console(highlight=False)
    run.update()
    if once or not sys.stdout.isatty():
        console.print(frame(run, time.time(), console, curves))
        return
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(frame(run, time.time(), console, curves, console.height), refresh=True)
                time.sleep(every)
                run.update()
    except KeyboardInterrupt:  # the usual way to leave
        console.print(frame(run, time.time(), console, curves))
