"""Servers in processes, and requests to them."""

import json
import select
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.processes import started


@contextmanager
def serving(exported, folder, *options):
    """`vilg serve` with these options: its process, with address, scratch folder, and log of attempted connections."""
    (folder / "tmp").mkdir()
    watched = [sys.executable, str(Path(__file__).parent / "watched.py"), str(folder / "log")]
    command = [*watched, "serve", "--export", str(exported), "--port", "0", *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        with started(command, folder) as process:
            assert select.select([process.stdout], [], [], 60)[0], "it did not start in a minute"
            process.address = process.stdout.readline().strip()
            assert process.address.startswith("http://"), process.communicate(timeout=20)[1]
            (process.scratch,) = (folder / "tmp").glob("vilg-serve-*")
            process.log = folder / "log"
            yield process


def fetch(request):
    """(status, body) of a request, also of a refused one."""
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except HTTPError as refusal:
        return refusal.code, refusal.read()


def get(address, **headers):
    return fetch(Request(address, headers=headers))


def post(address, body, **headers):
    headers = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return fetch(Request(address, json.dumps(body).encode(), headers))
