"""What stands between the network and gradio: bodies that are too long stay out, references to other hosts stay in."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The browser shall load nothing from another host, whatever the page says. gradio's own scripts stand in the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)

# A font's host to connect to before it is needed, and a script for pages inside of other pages.
_ELSEWHERE = re.compile(rb"""<(link|script)\b[^>]*?\b(href|src)\s*=\s*["']https?://[^>]*>(\s*</script>)?""")


class RequestLimits:
    """An ASGI application around another one; `longest` bytes of a request's body at most."""

    def __init__(self, app: ASGIApp, longest: int):
        self._app, self._longest = app, longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers:  # its length is known only when it is here
            return await PlainTextResponse("a Content-Length is needed", 411)(scope, receive, send)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._longest:
            return await PlainTextResponse(f"more than {self._longest} bytes", 413)(scope, receive, send)
        await self._app(scope, receive, _ResponseFilter(send))


class _ResponseFilter:
    """Sends what it is given with the policy on it, and HTML without what lies elsewhere."""

    def __init__(self, send: Send):
        self._send, self._start, self._body = send, None, b""

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
