"""ASGI middleware that knows which sessions of the page have a client that reads the answers."""

import asyncio
import time
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_POLL = 0.05  # seconds
_GRACE = 5.0  # seconds in which a client that has sent a request opens the stream of its answers


class Listeners:
    """An application around another one, which counts the open event streams of each session.

    gradio would compute the answers of a request also if nobody reads them.
    """

    def __init__(self):
        self._open: dict[str, int] = {}
        self._app: ASGIApp | None = None
        self._is_known: Callable[[str], bool]

    def around(self, app: ASGIApp, is_known: Callable[[str], bool]) -> "Listeners":
        """This object around an application. is_known: whether a session has sent a request.

        The page needs this object before the application exists.
        """
        self._app, self._is_known = app, is_known
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None
        session = _session(scope)
        if session is None:
            await self._app(scope, receive, send)
            return
        if not self._is_known(session):
            await JSONResponse({"error": "no request of this session"}, 404)(scope, receive, send)
            return
        self._open[session] = self._open.get(session, 0) + 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[session] -= 1
            if not self._open[session]:
                del self._open[session]

    def is_present(self, session: str | None) -> bool:
        """Whether a client reads the answers of this session."""
        return (session or "") in self._open

    async def arrives(self, session: str | None) -> bool:
        """Whether a client reads the answers of this session now or within a few seconds."""
        until = time.monotonic() + _GRACE
        while not self.is_present(session) and time.monotonic() < until:
            await asyncio.sleep(_POLL)
        return self.is_present(session)


def _session(scope: Scope) -> str | None:
    """The session of a request for the stream of answers."""
    if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/queue/data"):
        return None
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [""])[0]
