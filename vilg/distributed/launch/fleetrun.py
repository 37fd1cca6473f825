"""`vilg fleetrun`: Paddle's fleetrun, which leaves its ranks enough time to save when it is stopped.

After a SIGTERM, fleetrun passes it on to its ranks and kills them 30 seconds later. A step of a large model and its
checkpoint take longer, and a scheduler sends the signal to fleetrun or to all processes at once. Here the time is an
option. A terminal that is closed counts as a SIGTERM too.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from vilg import runtime
from vilg.distributed.processes import FLEETRUN_PID
from vilg.distributed.stop_signals import STOPPED_EXIT_CODE, STOPPED_FILE


def run(grace_period: int, arguments: list[str]) -> None:
    """Run fleetrun in this process, which ends with its exit code.

    If a stopped run ends without an error, the exit code is STOPPED_EXIT_CODE: on Kubernetes, the pods of a job that
    did not get the SIGTERM themselves would else count as complete, and never be started again.

    grace_period: seconds between SIGTERM and SIGKILL. arguments: those of fleetrun.
    """
    environment = runtime.environment_before()  # each rank chooses its own number of threads
    os.environ.clear()
    folder = tempfile.TemporaryDirectory(prefix="vilg-fleetrun-")
    stopped = Path(folder.name) / "stopped"
    os.environ.update(environment, **{FLEETRUN_PID: str(os.getpid()), STOPPED_FILE: str(stopped)})

    from paddle.distributed.launch.controllers.controller import ControllerBase
    from paddle.distributed.launch.main import launch

    def stop(controller: ControllerBase, sigint: int | None = None) -> None:
        """As in Paddle, with another time: pass SIGTERM on, wait, and kill the ranks that are still there."""
        controller.watcher.stop()
        controller.master.stop()
        controller.pod.stop(timeout=grace_period)

    # Paddle has neither an option nor a variable for the time.
    ControllerBase.stop = stop  # type: ignore[method-assign]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    sys.argv = ["fleetrun", *arguments]
    try:
        launch()
    except SystemExit as end:
        if not end.code and stopped.exists():
            raise SystemExit(STOPPED_EXIT_CODE) from None
        raise
    finally:
        folder.cleanup()
