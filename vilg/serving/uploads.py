"""The server's folder for uploaded and generated files."""

import asyncio
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def read_upload(folder: Path, path: str, longest: int) -> bytes:
    """At most longest + 1 bytes of an uploaded file. Raises ValueError unless it is a regular file in `folder`.

    Never waits: a FIFO or a device is not read, and links are not followed.
    """
    real = os.path.realpath(path)
    if os.path.commonpath([real, os.path.realpath(folder)]) != os.path.realpath(folder):
        raise ValueError("not an uploaded file")
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError("not an uploaded file") from error
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not an uploaded file")
        return stream.read(longest + 1)


def remove_old_files(folder: Path, seconds: float) -> int:
    """Delete files that have not changed for this time. Returns the size of the others in bytes."""
    total, limit = 0, time.time() - seconds
    for path, _, files in os.walk(folder):
        for name in files:
            file = os.path.join(path, name)
            with suppress(OSError):  # deleted meanwhile
                status = os.lstat(file)
                if status.st_mtime < limit:
                    os.unlink(file)
                else:
                    total += status.st_size
    return total


class UploadLimit:
    """An application around another one, which refuses uploads while the folder is full.

    Files are deleted after `seconds`, so that a later upload succeeds.
    """

    def __init__(self, app: ASGIApp, folder: Path, most: int, seconds: float):
        self._app, self._folder, self._most, self._seconds = app, folder, most, seconds
        self._arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/gradio_api/upload"):
            await self._app(scope, receive, send)
            return
        length = int(Headers(scope=scope).get("content-length", "0"))
        stored = await asyncio.to_thread(remove_old_files, self._folder, self._seconds)
        if stored + self._arriving + length > self._most:
            refusal = JSONResponse(
                {"error": f"uploads take {stored / 1e6:.0f} of {self._most / 1e6:.0f} MB; try again in some minutes"},
                503,
                {"Retry-After": "60"},
            )
            await refusal(scope, receive, send)
            return
        self._arriving += length
        try:
            await _answer_malformed_uploads(self._app, scope, receive, send)
        finally:
            self._arriving -= length


async def _answer_malformed_uploads(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """gradio answers with an internal error (500) to an upload that is malformed or not of files. Answer with 400."""
    held: list[Message] = []

    async def hold_errors(message: Message) -> None:
        if held or (message["type"] == "http.response.start" and message["status"] == 500):
            held.append(message)
        else:
            await send(message)

    try:
        await app(scope, receive, hold_errors)
    except (TypeError, ValueError):  # the latter for a malformed body
        await JSONResponse({"error": "not an upload of files"}, 400)(scope, receive, send)
        return
    except Exception:
        for message in held:
            await send(message)
        raise
    for message in held:
        await send(message)
