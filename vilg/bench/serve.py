"""`vilg bench serve`: throughput of a server with many concurrent clients, compared with one client."""

import base64
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np

from vilg import runtime
from vilg.errors import UserError

TEXTS = ["红苹果", "大象", "太阳", "蓝色的鱼"]


def bench(export: Path, requests: int = 64, together: int = 16, seconds: int = 300) -> dict:
    """Returns {"alone": .., "together": .., "ratio": ..} for a server that is started on the loopback address.

    Each request asks for one image over the JSON API: a quarter of `requests` from one thread, then
    all of them from `together` threads. A row has requests, lost, seconds, pictures_per_second, median and worst
    latency in seconds, and mean_batch; `ratio` compares pictures_per_second. Requests that are not answered within
    `seconds` (for the whole benchmark) count as lost.
    """
    if min(requests, together, seconds) < 1:
        raise UserError(f"--requests {requests} --together {together} --seconds {seconds}: must be positive")
    until = time.monotonic() + seconds
    with _server(export, together, until) as address:
        _ask(address, 0, until)
        alone = _measure(address, max(1, requests // 4), 1, until)
        crowd = _measure(address, requests, together, until)
    return {"alone": alone, "together": crowd, "ratio": crowd["pictures_per_second"] / alone["pictures_per_second"]}


def table(result: dict) -> str:
    """The result as text."""
    lines = [
        f"{'clients':>8} {'requests':>9} {'lost':>5} {'median s':>9} {'worst s':>8} {'images/s':>11} {'mean batch':>11}"
    ]
    lines += [
        f"{row['clients']:8} {row['requests']:9} {row['lost']:5} {row['median']:9.2f} {row['worst']:8.2f} "
        f"{row['pictures_per_second']:11.2f} {row['mean_batch']:11.1f}"
        for row in (result["alone"], result["together"])
    ]
    return "\n".join([*lines, f"{result['ratio']:.1f} times as many images per second with concurrent clients"])


@contextmanager
def _server(export: Path, together: int, until: float) -> Iterator[str]:
    """Start a server process and yield its address. The process ends with the context."""
    command = [
        sys.executable,
        "-m",
        "vilg.cli",
        "serve",
        "--export",
        str(export),
        "--port",
        "0",
        "--waiting",
        str(together),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=runtime.environment_before())
    assert process.stdout is not None
    try:
        ready = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]
        address = process.stdout.readline().strip() if ready else ""
        if not address:
            raise UserError("the server did not start")
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _measure(address: str, requests: int, clients: int, until: float) -> dict:
    before, began = _get(f"{address}/health", until), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latencies = list(pool.map(lambda number: _ask(address, number, until), range(requests)))
    seconds, after = time.perf_counter() - began, _get(f"{address}/health", until)
    good = [latency for latency in latencies if latency is not None]
    if not good:
        raise UserError("the server answered no request")
    return {
        "clients": clients,
        "requests": requests,
        "lost": requests - len(good),
        "seconds": seconds,
        "pictures_per_second": len(good) / seconds,
        "median": float(np.median(good)),
        "worst": max(good),
        "mean_batch": (after["requests"] - before["requests"]) / (after["batches"] - before["batches"]),
    }


def _ask(address: str, number: int, until: float) -> float | None:
    """Seconds until the image has arrived, or None if it has not."""
    began = time.perf_counter()
    try:
        answer = _get(f"{address}/v1/images", until, {"text": TEXTS[number % len(TEXTS)], "seed": number})
        png = base64.b64decode(answer["images"][0]["png"])
        return time.perf_counter() - began if png.startswith(b"\x89PNG") else None
    except (OSError, HTTPException, ValueError):  # refused, disconnected, too late, not JSON
        return None


def _get(url: str, until: float, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=_left(until)) as answer:
        return json.load(answer)


def _left(until: float) -> float:
    return max(0.1, until - time.monotonic())
