"""ASGI middleware: who may send requests, and which addresses exist."""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Addresses of gradio that its page and gradio_client need. Others, such as a proxy, component methods and monitoring,
# do not exist here; /file= followed by another URL would redirect to it. /call, /run and /api, gradio's protocols
# without a session, are replaced by /v1.
_GRADIO = re.compile(
    r"/(|config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(static|assets|svelte)/[^?]*"
    r"|gradio_api/(info|app_id|startup-events|theme\.css|upload|upload_progress|run/predict|cancel|reset|heartbeat/[\w-]+|file=/[^/].*"
    r"|queue/(join|data)))/?"
)
_OURS = re.compile(r"/(health|docs|openapi\.json|v1/[a-z]+|docs-assets/[\w.-]+)")
_SAFE = ("GET", "HEAD", "OPTIONS")


class AccessControl:
    """An application around another one.

    Refuses addresses that do not exist (404), requests without the token (401, except for /health), requests that a
    page of another site makes in a user's browser, and requests for another host name than expected (403).

    token: None if everybody may send requests. hosts: the expected names; None if any name is. Otherwise a page of
    another site could make its own name resolve to this machine, and would count as a page of this server.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, hosts: Iterable[str] | None = None):
        self._app, self._token = app, token
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets
            await send({"type": "websocket.close", "code": 1003})
            return
        headers = Headers(scope=scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        refusal = None
        if not (_OURS.fullmatch(path) or _GRADIO.fullmatch(path)):
            refusal = JSONResponse({"error": "no such address"}, 404)
        elif self._token and path != "/health" and not self._authorized(headers):
            refusal = JSONResponse(
                {"error": "a token is required: as the password in a browser, or as `Authorization: Bearer TOKEN`"},
                401,
                {"WWW-Authenticate": 'Basic realm="vilg", charset="UTF-8"'},
            )
        elif self._hosts is not None and _host_name(headers) not in self._hosts:
            refusal = JSONResponse({"error": "unexpected host name; `vilg serve --allowed-host NAME` adds one"}, 403)
        elif scope["method"] not in _SAFE and _from_another_site(headers):
            refusal = JSONResponse({"error": "requests from pages of other sites are refused"}, 403)
        await (refusal or self._app)(scope, receive, send)

    def _authorized(self, headers: Headers) -> bool:
        assert self._token is not None
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                value = base64.b64decode(value.strip(), validate=True).decode("utf-8", "replace").partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(value.strip().encode(), self._token.encode())


def _host_name(headers: Headers) -> str:
    """The Host header without the port, in lower case."""
    return re.sub(r":\d+$", "", headers.get("host", "")).lower()


def _from_another_site(headers: Headers) -> bool:
    """Whether a browser sends this request for a page of another origin."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:  # not a browser
        return False
    return urlsplit(origin).netloc not in (headers.get("host"), headers.get("x-forwarded-host"))
