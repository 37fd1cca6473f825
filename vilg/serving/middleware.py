"""ASGI middleware: limits request bodies, and removes references to other hosts from pages."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Browsers must not load anything from other hosts. gradio's own scripts are inline.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)

# gradio preconnects to a font host, and loads a script for embedded pages.
_ELSEWHERE = re.compile(rb"""<(link|script)\b[^>]*?\b(href|src)\s*=\s*["']https?://[^>]*>(\s*</script>)?""")


class RequestLimits:
    """An application around another one. Request bodies may have at most `longest` bytes."""

    def __init__(self, app: ASGIApp, longest: int):
        self._app, self._longest = app, longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_long = JSONResponse({"error": f"more than {self._longest} bytes"}, 413)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._longest:
            await too_long(scope, receive, send)
            return
        body = _LimitedBody(receive, self._longest)
        answer = _ResponseFilter(send)

        async def answer_unless_too_long(message: Message) -> None:
            if body.too_long and not answer.started:  # the application answers with an error of its own
                raise BodyTooLongError
            await answer(message)

        try:
            await self._app(scope, body, answer_unless_too_long)
        except BodyTooLongError:
            if answer.started:
                raise
            await too_long(scope, receive, answer)


class BodyTooLongError(Exception):
    """A body without a Content-Length, which is sent in chunks, is longer than allowed."""


class _LimitedBody:
    def __init__(self, receive: Receive, longest: int):
        self._receive, self._remaining, self.too_long = receive, longest, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._remaining -= len(message.get("body", b""))
        if self._remaining < 0:
            self.too_long = True
            raise BodyTooLongError
        return message


class _ResponseFilter:
    """Adds the content security policy to responses, and removes elements that load from other hosts from HTML."""

    def __init__(self, send: Send):
        self._send, self._body, self.started = send, b"", False
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=message["headers"])
            headers["Content-Security-Policy"] = POLICY
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body, self._body = _ELSEWHERE.sub(b"", self._body), b""
            MutableHeaders(raw=self._start["headers"])["content-length"] = str(len(body))
            await self._send(self._start)
            message = {"type": "http.response.body", "body": body}
        await self._send(message)
