"""The middleware: refuses request bodies that are too large, and removes references to other hosts."""

import asyncio

import pytest

pytest.importorskip("starlette", reason="starlette, which comes with gradio: pip install 'vilg[serve]'")

from starlette.responses import HTMLResponse, StreamingResponse

from vilg.serving import offline
from vilg.serving.middleware import POLICY, RequestLimits

PAGE = """<!doctype html><link rel="preconnect" href="https://fonts.googleapis.com" />
<link
    rel="preconnect"
    href="https://fonts.gstatic.com"
    crossorigin="anonymous"
/><script
    src="https://cdnjs.cloudflare.com/x.js"
    async
></script><script src="./own.js"></script><link rel="stylesheet" href="/own.css"><a href="https://example.org">x</a>"""


def answer(app, headers=()):
    """(status, headers, body) of a GET request through the middleware."""
    sent = []

    async def receive():
        await asyncio.sleep(10)  # the client stays connected

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(k.encode(), v.encode()) for k, v in headers]}
    asyncio.run(RequestLimits(app, 100)(scope, receive, send))
    assert sent[0]["type"] == "http.response.start"
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


def test_pages_refer_to_no_other_host():
    status, headers, body = answer(HTMLResponse(PAGE))
    assert status == 200 and int(headers[b"content-length"]) == len(body)
    assert headers[b"content-security-policy"] == POLICY.encode() and "http" not in POLICY
    assert body == (
        b'<!doctype html>\n<script src="./own.js"></script><link rel="stylesheet" href="/own.css">'
        b'<a href="https://example.org">x</a>'
    )


def test_other_responses_are_passed_on_unchanged():
    async def parts():
        for part in (b'<link href="https://a">', b"2"):
            yield part

    _, headers, body = answer(StreamingResponse(parts(), media_type="text/event-stream"))
    assert body == b'<link href="https://a">2' and b"content-security-policy" in headers


@pytest.mark.parametrize(
    "headers, status",
    [([("content-length", "100")], 200), ([("content-length", "101")], 413), ([("content-length", "-1")], 413)],
)
def test_bodies(headers, status):
    assert answer(HTMLResponse("x"), headers)[0] == status


@pytest.mark.parametrize("size, status", [(100, 200), (101, 413)])
def test_bodies_in_chunks(size, status):
    """The size is known only after the body was read."""

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        await HTMLResponse("x")(scope, receive, send)

    async def app_with_its_own_error(scope, receive, send):
        try:
            await app(scope, receive, send)
        except Exception:
            await HTMLResponse("?", 400)(scope, receive, send)

    for one in (app, app_with_its_own_error):
        parts, sent = [b"x" * 60, b"x" * (size - 60)], []

        async def send(message, sent=sent):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"transfer-encoding", b"chunked")]}
        asyncio.run(RequestLimits(one, 100)(scope, receive, send))
        assert sent[0]["status"] == status


@pytest.mark.parametrize(
    "event, arguments",
    [
        ("socket.connect", (None, ("192.0.2.1", 80))),
        ("socket.connect", (None, ("127.0.0.1", 80))),
        ("socket.getaddrinfo", ("example.org", 80, 0, 0, 0)),
        ("socket.sendto", (None, ("192.0.2.1", 53))),
    ],
)
def test_outgoing_connections_are_refused(event, arguments):
    with pytest.raises(PermissionError, match="fetches nothing"):
        offline._refuse(event, arguments)


def test_other_socket_operations_are_allowed():
    offline._refuse("socket.connect", (None, "/run/log"))
    offline._refuse("socket.bind", (None, ("127.0.0.1", 80)))
    offline._refuse("open", ("x", "r", 0))
