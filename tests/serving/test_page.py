"""The whole server in a separate process: its page in a real browser, and its HTTP API from the command line."""

import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from tests.conftest import png
from tests.processes import ROOT, started
from vilg.data.images import to_uint8

pytest.importorskip("gradio", reason="gradio: pip install 'vilg[serve]'")
pytestmark = pytest.mark.fleet

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
PATIENCE = 20_000  # milliseconds
OBSERVE = """() => {
    window.seen = [];
    new MutationObserver(() => {
        const shown = document.querySelector("#images img");
        if (shown && seen.at(-1) !== shown.src) seen.push(shown.src);
    }).observe(document.querySelector("#images"), {subtree: true, childList: true, attributes: true});
}"""  # the successive sources of the first image


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """A running server: its process, address, temporary folder, and log of attempted connections."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "tmp").mkdir()
    command = [
        sys.executable,
        str(Path(__file__).parent / "watched.py"),
        str(folder / "log"),
        "serve",
        "--export",
        str(exported),
        "--port",
        "0",
        "--megabytes",
        "1",
        "--waiting",
        "2",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        with started(command, folder) as process:
            assert select.select([process.stdout], [], [], 60)[0], "it did not start in a minute"
            process.address = process.stdout.readline().strip()
            assert process.address.startswith("http://127.0.0.1:"), process.communicate(timeout=20)[1]
            process.scratch, process.log = folder / "tmp", folder / "log"
            yield process


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    """The opened page. After the test, no request may have gone to another host, and no script may have failed."""
    opened = browser.new_page()
    opened.set_default_timeout(PATIENCE)
    asked, failed = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: failed.append(error))
    opened.goto(server.address)
    opened.locator("#generate").wait_for()
    yield opened
    opened.close()
    assert len(asked) > 10 and not failed
    assert [url for url in asked if not url.startswith((server.address, "data:", "blob:"))] == []


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_generating_on_the_page_shows_partial_images(page, predictor):
    page.fill("#text textarea", "红苹果")
    page.get_by_role("button", name="Settings").first.click()
    page.get_by_text("1: off; this model was not trained for it").wait_for()
    page.get_by_label("Seed").fill("5")
    page.evaluate(OBSERVE)
    page.click("#generate")
    page.locator("#images-note", has_text="s, seed 5, 6, 7, 8").wait_for()
    page.wait_for_timeout(300)
    shown = [pixels(page.request.get(one.get_attribute("src")).body()) for one in page.locator("#images img").all()]
    grey = [(pixels(page.request.get(source).body()) == 128).all(-1).mean() for source in page.evaluate("() => seen")]
    assert len(grey) > 1 and grey[0] > 0 and grey == sorted(grey, reverse=True) and grey[-1] == 0
    assert np.array_equal(shown, to_uint8(predictor.generate(["红苹果"], 4, 5)[0]))


def test_an_example_is_a_caption(page):
    page.locator("button.gallery-item", has_text="大象").click()
    page.locator("#text textarea").wait_for()
    page.wait_for_timeout(300)
    assert page.locator("#text textarea").input_value() == "大象"


def test_uploading_an_image_shows_its_captions(page, predictor, tmp_path):
    (tmp_path / "x.png").write_bytes(png(3, 40))
    page.get_by_role("tab", name="Caption").click()
    page.set_input_files("#picture input[type=file]", tmp_path / "x.png")
    page.locator("#captions-note", has_text=" s").wait_for()
    best = predictor.caption([Image.open(tmp_path / "x.png")], beams=4)[0]
    assert best and page.locator("#captions h2, #captions [data-testid=label-output-value]").first.inner_text() == best


def test_bad_input_gives_a_message_and_the_server_continues(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(png(3, 400)[:500])
    (tmp_path / "large.png").write_bytes(png(3, 40) + bytes(2 * 10**6))
    (tmp_path / "good.png").write_bytes(png(3, 40))
    message = page.locator(".toast-wrap, .toast-body")
    page.fill("#text textarea", "红" * 200)
    page.click("#generate")
    message.get_by_text("the text is too long: the model reads 5 tokens").wait_for()
    page.get_by_role("tab", name="Caption").click()
    upload = page.locator("#picture input[type=file]")
    upload.set_input_files(tmp_path / "broken.png")
    message.get_by_text("the image cannot be read").wait_for()
    page.locator("#picture [aria-label='Remove Image'], #picture [aria-label='Clear']").first.click()
    upload.set_input_files(tmp_path / "large.png")
    message.get_by_text("File size exceeds").or_(message.get_by_text("exceeded")).first.wait_for()
    page.reload()
    page.get_by_role("tab", name="Caption").click()
    upload.set_input_files(tmp_path / "good.png")
    page.locator("#captions-note", has_text=" s").wait_for()


def ask(address, name, data):
    """(event, data) of the last event of an endpoint."""
    request = Request(
        f"{address}/gradio_api/call/{name}",
        json.dumps({"data": data}).encode(),
        {"Content-Type": "application/json"},
    )
    event = json.load(urlopen(request, timeout=20))["event_id"]
    with urlopen(f"{address}/gradio_api/call/{name}/{event}", timeout=20) as stream:
        events = re.findall(r"event: (\w+)\ndata: (.*)", stream.read().decode())
    return events[-1][0], json.loads(events[-1][1])


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("generate", ["", 1, 1, 0, 1, 1, 0], "the caption is empty"),
        ("generate", [None, 1, 1, 0, 1, 1, 0], "the caption is empty"),
        ("generate", ["红" * 501, 1, 1, 0, 1, 1, 0], "the text is too long: 501 characters, at most 500"),
        ("generate", ["红", 9, 1, 0, 1, 1, 0], "pictures 9: must be a whole number from 1 to 8"),
        ("generate", ["红", "x", 1, 0, 1, 1, 0], "pictures x: not a number"),
        ("generate", ["红", 1, 0, 0, 1, 1, 0], "temperature 0.0: must be positive"),
        ("generate", ["红", 1, 1, 0, 2, 1, 0], "top-p 2.0: must be in (0, 1]"),
        ("generate", ["红", 1, 1, 0, 1, -1, 0], "guidance -1: must be at least 0"),
        ("generate", ["红", 1, 1, 0, 1, 1, "y"], "seed y: not a number"),
        ("caption", [None, 4], "an image is required"),
        ("caption", [{"url": "data:image/png;base64,AAAA"}, 4], "the image cannot be read"),
        ("caption", [{"url": "data:image/png;base64,AAAA"}, 0], "captions 0: must be a whole number from 1 to 8"),
    ],
)
def test_the_api_reports_errors(server, name, data, message):
    event, said = ask(server.address, name, data)
    assert event == "error" and said[0].startswith(message)


def test_the_api_accepts_only_files_of_its_own_folder(server):
    event, _ = ask(server.address, "caption", [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, 4])
    assert event == "error"


@pytest.mark.parametrize(
    "header, status", [(("Content-Length", "1600000"), 413), (("Transfer-Encoding", "chunked"), 411)]
)
def test_a_body_that_is_too_large_is_refused_before_it_is_received(server, header, status):
    connection = HTTPConnection(server.address.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/gradio_api/call/generate")
    connection.putheader(*header)
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()


def test_requests_beyond_the_queue_limit_are_answered(server):
    """Each request has a different guidance, so that no two share a batch."""
    with ThreadPoolExecutor(6) as clients:
        answers = list(
            clients.map(
                lambda scale: ask(server.address, "generate", ["红苹果", 1, 1, 0, 1, scale, 1]), [2, 3, 4, 5, 6, 7]
            )
        )
    refused = [said for event, said in answers if event == "error"]
    assert 1 <= len(refused) <= 4 and all(said[0].startswith("busy: 2 requests are waiting") for said in refused)
    assert ask(server.address, "generate", ["红苹果", 1, 1, 0, 1, 1, 1])[0] == "complete"


def test_the_request_of_a_disconnected_client_is_cancelled(server):
    def health():
        return json.load(urlopen(f"{server.address}/health", timeout=20))

    before = health()
    request = Request(
        f"{server.address}/gradio_api/call/generate",
        json.dumps({"data": ["红苹果", 8, 1, 0, 1, 3, 1]}).encode(),
        {"Content-Type": "application/json"},
    )
    event = json.load(urlopen(request, timeout=20))["event_id"]
    with urlopen(f"{server.address}/gradio_api/call/generate/{event}", timeout=20) as stream:
        assert stream.readline() == b"event: generating\n"
    until = time.monotonic() + 20
    while (after := health())["given_up"] == before["given_up"] and time.monotonic() < until:
        time.sleep(0.05)
    assert (after["given_up"], after["requests"]) == (before["given_up"] + 1, before["requests"] + 1)


def test_the_examples_in_the_documentation(server, tmp_path):
    text = (ROOT / "docs" / "inference.md").read_text("utf-8").split("## Serving")[1]
    script = re.search(r"```bash\n(.*?)```", text, re.S)[1].replace("http://127.0.0.1:7860", server.address)
    assert server.address in script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert pixels((tmp_path / "apple.png").read_bytes()).shape == (64, 64, 3)
    said = json.loads(done.stdout.strip().splitlines()[-1].removeprefix("data: "))
    assert set(said[0]) == {"label", "confidences"}


def attempts(server):
    return [line for line in server.log.read_text("utf-8").splitlines() if "127.0.0.1" not in line]


def test_the_server_has_contacted_no_other_host(server):
    html = urlopen(server.address, timeout=20).read().decode()
    assert "gradio" in html and not re.search(r"<(link|script)[^>]*https?:", html)
    assert attempts(server) == []


@pytest.mark.parametrize(
    "name, data",
    [
        ("caption", [{"path": "http://elsewhere.invalid/x.png", "meta": {"_type": "gradio.FileData"}}, 4]),
        ("generate", [{"path": "http://192.0.2.1/x.png", "meta": {"_type": "gradio.FileData"}}, 1, 1, 0, 1, 1, 0]),
    ],
)
def test_the_server_does_not_contact_a_host_named_in_a_request(server, name, data):
    """gradio would fetch the URL. The attempt is refused before the name is resolved."""
    before = len(attempts(server))
    assert ask(server.address, name, data) == ("error", ["this server fetches nothing from other hosts"])
    assert len(attempts(server)) > before


def test_the_server_shuts_down_cleanly(server):
    assert [one.name.startswith("vilg-serve-") for one in server.scratch.iterdir()] == [True]
    os.kill(server.pid, signal.SIGTERM)
    out, err = server.communicate(timeout=20)
    assert server.returncode == 0 and out == "", err
    assert err.count("Traceback") == err.count("\nPermissionError: this server fetches nothing"), err
    assert not any(server.scratch.iterdir())
