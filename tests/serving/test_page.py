"""The whole server in a separate process: its page in a real browser, and its HTTP API from the command line."""

import io
import json
import os
import re
import secrets
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from tests.conftest import png
from tests.processes import ROOT
from tests.serving.processes import fetch, get, post, serving
from vilg.data.images import to_uint8

pytest.importorskip("gradio", reason="gradio: pip install 'vilg[serve]'")
pytestmark = pytest.mark.fleet

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
    options = ["--megabytes", "1", "--waiting", "2", "--uploads", "4", "--allowed-host", "vilg.example"]
    with serving(exported, tmp_path_factory.mktemp("server"), *options) as process:
        yield process


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
    page.locator("button.gallery-item", has_text="足球").click()
    page.locator("#text textarea").wait_for()
    page.wait_for_timeout(300)
    assert page.locator("#text textarea").input_value() == "足球"


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
    message.get_by_text("the text is too long: 200 tokens, the model reads 5 tokens").wait_for()
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


# gradio's protocol, which the page and gradio_client use.


def join(address, name, data, session):
    """Send a request of the page; its answer is in the stream of the session."""
    config = json.load(urlopen(f"{address}/config", timeout=20))
    function = next(one["id"] for one in config["dependencies"] if one["api_name"] == name)
    return post(f"{address}/gradio_api/queue/join", {"data": data, "fn_index": function, "session_hash": session})[1]


def ask(address, name, data):
    """(whether it succeeded, output) of a request of the page."""
    session = secrets.token_hex(5)
    join(address, name, data, session)
    with urlopen(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=20) as stream:
        for line in stream:
            message = json.loads(line.decode().removeprefix("data:")) if line.startswith(b"data:") else {}
            if message.get("msg") == "process_completed":
                return message["success"], message["output"]
    raise AssertionError("no answer")


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("generate", ["", 1, 1, 0, 1, 1, 0], "the text is empty"),
        ("generate", [None, 1, 1, 0, 1, 1, 0], "the text is missing"),
        ("generate", [["红"], 1, 1, 0, 1, 1, 0], "the text is not a string"),
        ("generate", [7, 1, 1, 0, 1, 1, 0], "the text is not a string"),
        ("generate", ["红", "x", 1, 0, 1, 1, 0], "pictures x: not a number"),
        ("generate", ["红", 1, {"a": 1}, 0, 1, 1, 0], "temperature {'a': 1}: not a number"),
        ("generate", ["红", 1, 1, 0, 1, 1, "y"], "seed y: not a number"),
        ("caption", [None, 4], "an image is required"),
        ("caption", [{"url": "data:image/png;base64,AAAA"}, 4], "the image cannot be read"),
    ],
)
def test_the_page_reports_errors(server, name, data, message):
    succeeded, output = ask(server.address, name, data)
    assert not succeeded and output["error"].startswith(message)


def test_gradio_client_reports_errors(server):
    client = pytest.importorskip("gradio_client").Client(server.address, verbose=False)
    with pytest.raises(Exception, match="the text is empty"):
        client.predict(" ", 1, 1, 0, 1, 1, 0, api_name="/generate")
    images, note = client.predict("红苹果", 1, 1, 0, 1, 1, 5, api_name="/generate")
    assert len(images) == 1 and note.endswith("seed 5")
    metadata = json.loads(Image.open(images[0]["image"]).text["vilg"])
    assert metadata["text"] == "红苹果" and metadata["seeds"] == [5] and metadata["checkpoint"]


def hostile(path):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def outside(tmp_path):
    """Files that were not uploaded: an image, a link to it, an SVG, a FIFO, and devices."""
    (tmp_path / "secret.png").write_bytes(png(3, 40))
    (tmp_path / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "secret.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    os.mkfifo(tmp_path / "fifo.png")
    return [*tmp_path.iterdir(), Path("/dev/zero"), Path("/dev/stdin"), Path("/etc/passwd"), tmp_path]


def test_files_that_were_not_uploaded_are_not_read(server, outside):
    """In any field, and neither copied nor served afterwards; nothing blocks the server."""
    before = sorted(path.name for path in server.scratch.rglob("*"))
    for path in outside:
        for name, data in (
            ("caption", [hostile(path), 4]),
            ("caption", [None, hostile(path)]),
            ("generate", [hostile(path), 1, 1, 0, 1, 1, 0]),
            ("generate", ["红", hostile(path), 1, 0, 1, 1, hostile(path)]),
        ):
            assert not ask(server.address, name, data)[0], path
            assert json.load(urlopen(f"{server.address}/health", timeout=2))["waiting"] == 0
        status, _ = get(f"{server.address}/gradio_api/file={path}")
        assert status == 403
    assert sorted(path.name for path in server.scratch.rglob("*")) == before


@pytest.mark.parametrize(
    "address",
    [
        "monitoring",
        "gradio_api/proxy=http://192.0.2.1/",
        "gradio_api/file=http://192.0.2.1/",
        "gradio_api/file=//192.0.2.1/",
        "gradio_api/component_server",
        "gradio_api/call/generate",
        "gradio_api/call/generate/unknown",
        "gradio_api/run/generate",
        "gradio_api/api/generate",
        "gradio_api/stream/x",
        "gradio_api/custom_component/a/client/component/x",
        "gradio_api/file/etc/passwd",
        "login",
        "none",
    ],
)
def test_addresses_that_the_page_does_not_need_do_not_exist(server, address):
    assert get(f"{server.address}/{address}")[0] == 404 and post(f"{server.address}/{address}", {})[0] == 404


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost:7", 200),
        ("LOCALHOST", 200),
        ("[::1]:80", 200),
        ("vilg.example", 200),
        ("evil.example:7860", 403),
        ("", 403),
    ],
)
def test_only_expected_host_names_are_served(server, host, status):
    """Otherwise a page whose name resolves to this machine would count as a page of this server."""
    for path in ("/", "/health", "/config"):
        assert get(server.address + path, Host=host)[0] == status


def test_requests_cannot_skip_the_queue(server):
    config = json.load(urlopen(f"{server.address}/config", timeout=20))
    before = health(server)
    for function in config["dependencies"]:
        if function["api_name"]:
            body = {"data": ["红", 1, 1, 0, 1, 1, 0], "fn_index": function["id"], "session_hash": "direct"}
            assert post(f"{server.address}/gradio_api/run/predict", body)[0] == 404
    assert health(server) == before


def test_an_unknown_session_gets_an_answer(server):
    for query in ("?session_hash=unknown", "?session_hash=", ""):
        status, body = get(f"{server.address}/gradio_api/queue/data{query}")
        assert (status, json.loads(body)) == (404, {"error": "no request of this session"})


def upload(address, data, name='; filename="x.png"'):
    body = (
        b'--b\r\nContent-Disposition: form-data; name="files"' + name.encode() + b"\r\n\r\n" + data + b"\r\n--b--\r\n"
    )
    return fetch(Request(f"{address}/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=b"}))


def test_uploads_without_a_name(server):
    assert upload(server.address, b"x", "")[0] == 400
    status, body = upload(server.address, b"x", '; filename=""')
    assert status == 200 and server.scratch in Path(json.loads(body)[0]).parents
    assert (
        fetch(Request(f"{server.address}/gradio_api/upload", b"x", {"Content-Type": "multipart/form-data"}))[0] == 400
    )


@pytest.mark.parametrize("boundary, body", [("-" * 30_000, b"-" * 900_000), ("b", b"--b" + b"\r\n" * 400_000)])
def test_a_hostile_multipart_body_does_not_block_the_server(server, boundary, body):
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with ThreadPoolExecutor(1) as client:
        pending = client.submit(fetch, Request(f"{server.address}/gradio_api/upload", body, headers))
        for _ in range(5):
            urlopen(f"{server.address}/health", timeout=2).read()
            time.sleep(0.1)
        assert pending.result(timeout=10)[0] in (200, 400, 413)


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.js", "x.xml", "x"])
def test_uploaded_scripts_do_not_run_in_a_browser(server, name):
    _, body = upload(server.address, b"<script>alert(1)</script>", f'; filename="{name}"')
    with urlopen(f"{server.address}/gradio_api/file={json.loads(body)[0]}", timeout=20) as answer:
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


def test_all_uploads_together_are_limited(server):
    """4 MB in all. Old files are deleted, so that there is room again."""
    codes = [upload(server.address, os.urandom(900_000))[0] for _ in range(8)]
    assert codes[:3] == [200] * 3 and codes[-3:] == [503] * 3
    size = sum(path.stat().st_size for path in server.scratch.rglob("*") if path.is_file())
    assert size <= 4 * 10**6
    for path in server.scratch.rglob("*"):
        os.utime(path, (0, 0))
    assert upload(server.address, b"x")[0] == 200


@pytest.mark.parametrize("path", ["v1/images", "gradio_api/queue/join"])
def test_a_body_that_is_too_large_is_refused_before_it_is_received(server, path):
    connection = HTTPConnection(server.address.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", f"/{path}")
    connection.putheader("Content-Length", "1600000")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_bodies_in_chunks(server):
    def chunks(size):
        body = json.dumps({"text": "红", "n": 1}).encode() + b" " * size
        return (body[first : first + 1000] for first in range(0, len(body), 1000))

    for size, status in ((0, 200), (1_600_000, 413)):
        connection = HTTPConnection(server.address.removeprefix("http://"), timeout=20)
        try:
            connection.request(
                "POST", "/v1/images", chunks(size), {"Content-Type": "application/json"}, encode_chunked=True
            )
        except (BrokenPipeError, ConnectionResetError):  # refused while it was sent
            assert status == 413
        else:
            assert connection.getresponse().status == status
        connection.close()


def test_requests_beyond_the_queue_limit_are_answered(server):
    """Each request has a different guidance, so that no two share a batch."""
    with ThreadPoolExecutor(6) as clients:
        answers = list(
            clients.map(
                lambda scale: post(f"{server.address}/v1/images", {"text": "红苹果", "guidance": scale}), range(2, 8)
            )
        )
    refused = [json.loads(body)["error"] for status, body in answers if status == 503]
    assert 1 <= len(refused) <= 4 and all(said.startswith("busy: 2 requests are waiting") for said in refused)
    assert {status for status, _ in answers} == {200, 503}
    assert post(f"{server.address}/v1/images", {"text": "红苹果"})[0] == 200


def health(server):
    return json.load(urlopen(f"{server.address}/health", timeout=20))


def test_requests_whose_answers_nobody_reads_are_not_computed(server):
    before = health(server)
    for number in range(50):
        assert b"event_id" in join(server.address, "generate", ["红苹果", 1, 1, 0, 1, 1, 0], f"unread{number}")
    time.sleep(6)
    assert health(server)["requests"] == before["requests"]


def disconnect_from_the_page(server):
    session = secrets.token_hex(5)
    join(server.address, "generate", ["红苹果", 8, 1, 0, 1, 3, 1], session)
    with urlopen(f"{server.address}/gradio_api/queue/data?session_hash={session}", timeout=20) as stream:
        while b"process_generating" not in stream.readline():
            pass


def disconnect_from_the_api(server):
    before = health(server)
    connection = HTTPConnection(server.address.removeprefix("http://"), timeout=20)
    body = json.dumps({"text": "红苹果", "n": 8, "guidance": 3.5})
    connection.request("POST", "/v1/images", body, {"Content-Type": "application/json"})
    while health(server)["requests"] == before["requests"]:
        time.sleep(0.05)
    connection.close()


@pytest.mark.parametrize("disconnect", [disconnect_from_the_page, disconnect_from_the_api])
def test_the_request_of_a_disconnected_client_is_cancelled(server, disconnect):
    """These drawings take half a second, so one may be finished before the server sees that its client has left."""
    before = health(server)
    for attempt in range(1, 6):
        disconnect(server)
        until = time.monotonic() + 5
        while (after := health(server))["given_up"] == before["given_up"] and time.monotonic() < until:
            time.sleep(0.05)
        assert after["requests"] == before["requests"] + attempt
        if after["given_up"] == before["given_up"] + 1:
            return
    pytest.fail(f"five clients left, and every request was computed to its end: {after}")


def test_the_examples_in_the_documentation(server, tmp_path):
    text = (ROOT / "docs" / "inference.md").read_text("utf-8").split("## Serving")[1]
    script = re.search(r"```bash\n(.*?)```", text, re.S)[1].replace("http://127.0.0.1:7860", server.address)
    assert server.address in script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert pixels((tmp_path / "apple.png").read_bytes()).shape == (64, 64, 3)
    captions = json.loads(done.stdout)["captions"]
    assert len(captions) == 3 and set(captions[0]) == {"text", "probability"}


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
    succeeded, output = ask(server.address, name, data)
    assert (succeeded, output["error"]) == (False, "this server fetches nothing from other hosts")
    assert len(attempts(server)) > before


def test_the_server_shuts_down_cleanly(server):
    os.kill(server.pid, signal.SIGTERM)
    out, err = server.communicate(timeout=20)
    assert server.returncode == 0 and out == "", err
    refused = err.count("\nPermissionError: this server fetches nothing") + err.count("InvalidPathError: Cannot move")
    assert err.count("Traceback (most recent call last)") == refused, err[-5000:]
    assert not any((server.scratch.parent).iterdir())
