"""`vilg serve`: serves an export with a web page and an HTTP API until it is stopped."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from PIL import Image

from vilg.errors import UserError
from vilg.export import Predictor
from vilg.generation.sampling import Sampler
from vilg.serving import offline
from vilg.serving.batching import Batcher
from vilg.serving.limits import Limits
from vilg.serving.tasks import CaptionTask, ImageTask

_SHUTDOWN_TIMEOUT = 2  # seconds for open connections when the server stops


def serve(export: Path, host: str, port: int, limits: Limits) -> None:
    """Serve an export at host:port (0: any free port) until SIGINT or SIGTERM. Prints the address to stdout.

    This process opens no connections to other hosts afterwards. Raises UserError if the address is not available, if
    the folder is not an export, or if gradio is missing.
    """
    with _listen(host, port) as listener:
        predictor = Predictor(export)
        os.environ.update(offline.ENVIRONMENT)
        try:
            from vilg.serving.application import application
        except ImportError as missing:
            raise UserError(f"vilg serve: {missing}; pip install 'vilg[serve]'") from None
        _warm_up(predictor)
        for signal_number in signal.SIGINT, signal.SIGTERM:
            signal.signal(
                signal_number, lambda *_: sys.exit(0)
            )  # uvicorn installs its own handler and restores this one when it ends
        with (
            tempfile.TemporaryDirectory(prefix="vilg-serve-") as scratch,
            Batcher(predictor, limits.rows, limits.waiting) as batcher,
        ):
            os.environ["GRADIO_TEMP_DIR"] = scratch
            with contextlib.redirect_stdout(sys.stderr):  # some versions of gradio print while building a page
                app = application(predictor, batcher, limits)
            _run(app, listener)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host} --port {port}: {reason.lower()}") from None


def _warm_up(predictor: Predictor) -> None:
    """Load everything that is loaded at its first call before requests arrive."""
    image, caption = ImageTask("", 1, Sampler(), 1.0), CaptionTask(Image.new("RGB", (8, 8)), 1)
    for events in (image.run_batch(predictor, [image]), caption.run_batch(predictor, [caption])):
        for _ in zip(range(2), events):
            pass


def _run(app, listener: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            host, port = listener.getsockname()[:2]
            print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    offline.disable_network_access()
    # uvloop, if installed, would connect without the audit events that offline.py uses.
    Server(uvicorn.Config(app, log_level="warning", loop="asyncio", timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT)).run(
        [listener]
    )
