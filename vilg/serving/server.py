"""`vilg serve`: serves an export with a web page and a JSON API until it is stopped."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from PIL import Image

from vilg.errors import UserError
from vilg.export import Predictor
from vilg.files import os_errors
from vilg.generation.sampling import Sampler
from vilg.serving import offline
from vilg.serving.batching import Batcher
from vilg.serving.limits import Limits
from vilg.serving.tasks import CaptionTask, ImageTask

_SHUTDOWN_TIMEOUT = 2  # seconds for open connections when the server stops


_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Access:
    """Who may connect, and how. token: required in every request. open: also without a token from other machines.

    allowed_hosts: names of this server besides localhost, for a reverse proxy; used without a token. root_path: the
    path below which a reverse proxy publishes the server, such as /vilg. Raises UserError.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    open: bool = False
    allowed_hosts: tuple[str, ...] = ()
    root_path: str = ""

    def __post_init__(self):
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise UserError(f"--root-path {self.root_path}: must begin with / and not end with it, such as /vilg")

    @property
    def hosts(self) -> Iterable[str] | None:
        """The expected names of this server; None if requests are not limited by them."""
        return None if self.token or self.open else (*_LOOPBACK, *self.allowed_hosts)


def read_token(file: Path) -> str:
    """The first line of a file, at least 16 characters. Raises UserError."""
    with os_errors(file):
        token = (file.read_text("utf-8", "replace").splitlines() or [""])[0].strip()
    if len(token) < 16 or not token.isascii():
        raise UserError(f"--token-file {file}: the first line must be a token of at least 16 ASCII characters")
    return token


def serve(export: Path, access: Access, limits: Limits) -> None:
    """Serve an export at host:port (0: any free port) until SIGINT or SIGTERM. Prints the address to stdout.

    This process opens no connections to other hosts afterwards. Raises UserError if the address is not available, or
    can be reached from other machines without a token or `open`, if the folder is not an export, or if gradio is
    missing.
    """
    with _listen(access.host, access.port) as listener:
        if not (access.token or access.open or ip_address(listener.getsockname()[0]).is_loopback):
            raise UserError(
                f"--host {access.host}: other machines could use this server; require a token with --token-file FILE, "
                "or allow everybody with --open"
            )
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
            os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = scratch
            with contextlib.redirect_stdout(sys.stderr):  # some versions of gradio print while building a page
                app, end_heartbeats = application(
                    predictor, batcher, limits, Path(scratch), access.token, access.hosts, access.root_path
                )
            _run(app, end_heartbeats, listener, access.root_path)


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


def _run(app, end_heartbeats: Callable[[], None], listener: socket.socket, root_path: str) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            host, port = listener.getsockname()[:2]
            print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

        async def shutdown(self, sockets=None) -> None:
            end_heartbeats()
            await super().shutdown(sockets)

    offline.disable_network_access()
    # uvloop, if installed, would connect without the audit events that offline.py uses.
    settings = uvicorn.Config(
        app, log_level="warning", loop="asyncio", timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT, root_path=root_path
    )
    Server(settings).run([listener])
