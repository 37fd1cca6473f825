"""ASGI middleware: limits request bodies, and removes references to other hosts from pages."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
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
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:  # the length would be known only after reading it
            await PlainTextResponse("a Content-Length is required", 411)(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._longest:
            await PlainTextResponse(f"more than {self._longest} bytes", 413)(scope, receive, send)
            return
        await self._app(scope, receive, _ResponseFilter(send))


class _ResponseFilter:
    """Adds the content security policy to responses, and removes elements that load from other hosts from HTML."""

    def __init__(self, send: Send):
        self._send, self._body = send, b""
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
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
