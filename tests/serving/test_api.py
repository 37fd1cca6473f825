"""The JSON API, the token, requests from other sites, and a reverse proxy, on servers in processes of their own."""

import base64
import io
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from tests.conftest import png
from tests.serving.processes import get, post, serving
from vilg.data.images import to_uint8

pytest.importorskip("gradio", reason="gradio: pip install 'vilg[serve]'")
pytestmark = pytest.mark.fleet

TOKEN = "correct horse battery staple"
IMAGE = base64.b64encode(png(3, 40)).decode()


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """A server that wants a token and is published below /vilg."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "token").write_text(f"{TOKEN}\n")
    options = ["--token-file", str(folder / "token"), "--root-path", "/vilg", "--megabytes", "1"]
    with serving(exported, folder, *options) as process:
        yield process


def bearer(token=TOKEN):
    return {"Authorization": f"Bearer {token}"}


def ask(server, path, body, **headers):
    status, answer = post(f"{server.address}{path}", body, **bearer(), **headers)
    return status, json.loads(answer)


def test_images(server, predictor):
    request = {"text": "红苹果", "n": 2, "seed": 5, "temperature": 0.9, "top_k": 8, "top_p": 0.9}
    status, answer = ask(server, "/v1/images", request)
    assert status == 200 and answer["warnings"] == [] and len(answer["images"]) == 2
    files = [Image.open(io.BytesIO(base64.b64decode(one["png"]))) for one in answer["images"]]
    expected = predictor.generate(["红苹果"], 2, 5, temperature=0.9, top_k=8, top_p=0.9)[0]
    assert np.array_equal([np.asarray(file) for file in files], to_uint8(expected))
    for number, (file, one) in enumerate(zip(files, answer["images"])):
        assert json.loads(file.text["vilg"]) == one["metadata"]
        assert one["metadata"]["seeds"] == [5 + number] and one["metadata"]["text"] == "红苹果"


def test_the_seed_is_random_by_default(server):
    seeds = {ask(server, "/v1/images", {"text": "红"})[1]["images"][0]["metadata"]["seeds"][0] for _ in range(3)}
    assert len(seeds) == 3


def test_unknown_parts_of_a_text_are_named(server):
    _, answer = ask(server, "/v1/images", {"text": "🙂"})
    assert answer["warnings"] == ["🙂: the vocabulary lacks 🙂; the model knows nothing of this text"]


def test_captions(server, predictor):
    picture = Image.open(io.BytesIO(png(3, 40)))
    for count, image in ((3, IMAGE), (1, f"data:image/png;base64,{IMAGE}")):
        status, answer = ask(server, "/v1/captions", {"image": image, "n": count})
        assert status == 200 and len(answer["captions"]) == count
        assert answer["captions"][0]["text"] == predictor.caption(picture, beams=count if count > 1 else 0)[0]
        likely = [one["probability"] for one in answer["captions"]]
        assert likely == sorted(likely, reverse=True) and all(0 < one <= 1 for one in likely)


@pytest.mark.parametrize(
    "path, body, status, message",
    [
        ("images", {}, 422, "text: field required"),
        ("images", [], 422, "body: "),
        ("images", {"text": 5}, 422, "text: input should be a valid string"),
        ("images", {"text": {"path": "/etc/passwd"}}, 422, "text: input should be a valid string"),
        ("images", {"text": "红", "n": "2"}, 422, "n: input should be a valid integer"),
        ("images", {"text": "红", "seed": -1}, 422, "seed: "),
        ("images", {"text": "红", "unknown": 1}, 422, "unknown: extra inputs are not permitted"),
        ("images", {"text": "红", "temperature": 0}, 422, "temperature: "),
        ("images", {"text": "红", "n": 9}, 400, "n 9: must be a whole number from 1 to 8"),
        ("images", {"text": " \u200b"}, 400, "the text is empty"),
        ("images", {"text": "红" * 501}, 400, "the text is too long: 501 characters, at most 500"),
        ("images", {"text": "红" * 6}, 400, "红红红红红红: the text is too long: 6 tokens, the model reads 5 tokens"),
        ("images", {"text": "\ud800"}, 400, ""),
        ("captions", {"image": "?"}, 400, "image: not base64"),
        ("captions", {"image": "AAAA"}, 400, "the image cannot be read"),
        ("captions", {"image": {"path": "/etc/passwd"}}, 422, "image: input should be a valid string"),
        ("captions", {"image": IMAGE, "n": 0}, 422, "n: "),
    ],
)
def test_bad_requests_get_one_line(server, path, body, status, message):
    code, answer = ask(server, f"/v1/{path}", body)
    assert code == status and answer["error"].startswith(message) and "\n" not in answer["error"]


def test_what_is_not_json_gets_one_line(server):
    request = Request(f"{server.address}/v1/images", b"{", {"Content-Type": "application/json", **bearer()})
    with pytest.raises(HTTPError) as refusal:
        urlopen(request, timeout=20)
    assert refusal.value.code == 422 and json.load(refusal.value) == {"error": "the body is not JSON"}


@pytest.mark.parametrize(
    "authorization, status",
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Bearer", 401),
        (f"Token {TOKEN}", 401),
        ("Basic ?", 401),
        ("Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode(), 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        ("Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode(), 200),
    ],
)
def test_the_token(server, authorization, status):
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/", "/config", "/docs", "/openapi.json"):
        assert get(server.address + path, **headers)[0] == status
    assert post(f"{server.address}/v1/captions", {"image": IMAGE}, **headers)[0] == status
    assert get(f"{server.address}/health")[0] == 200


def test_head_requests(server):
    for path, status in (("/health", 200), ("/", 200), ("/none", 404)):
        request = Request(server.address + path, method="HEAD", headers=bearer())
        try:
            assert urlopen(request, timeout=20).status == status
        except HTTPError as refusal:
            assert refusal.code == status


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Origin": "http://elsewhere.invalid"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://vilg.invalid", "X_Forwarded_Host": "vilg.invalid"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_use_the_server(server, headers, status):
    assert ask(server, "/v1/captions", {"image": IMAGE}, **headers)[0] == status


@contextmanager
def proxy(server):
    """A reverse proxy that publishes the server below /vilg, as nginx does: the server sees paths without /vilg."""

    class Handler(BaseHTTPRequestHandler):
        def forward(self):
            if not self.path.startswith("/vilg/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "accept-encoding")
            }
            headers |= {"X-Forwarded-Host": self.headers["Host"], "X-Forwarded-Proto": "http"}
            request = Request(
                server.address + self.path.removeprefix("/vilg"), body or None, headers, method=self.command
            )
            try:
                answer = urlopen(request, timeout=20)
            except HTTPError as refusal:
                answer = refusal
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := answer.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()

        do_GET = do_POST = do_HEAD = forward  # noqa: N815

        def log_message(self, *_):
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listener.server_address[1]}"
    listener.shutdown()
    listener.server_close()


def test_a_reverse_proxy_with_a_prefix(server):
    """The addresses of images and scripts, and the API page."""
    with proxy(server) as address:
        html = get(f"{address}/vilg/", **bearer())[1].decode()
        assert '"root": "' in html or '"root":"' in html
        config = json.loads(get(f"{address}/vilg/config", **bearer())[1])
        assert config["root"].endswith("/vilg")
        assert post(f"{address}/vilg/v1/images", {"text": "红"}, **bearer())[0] == 200
        docs = get(f"{address}/vilg/docs", **bearer())[1].decode()
        for asset in ("/vilg/docs-assets/swagger-ui-bundle.js", "/vilg/openapi.json"):
            assert asset in docs and get(address + asset, **bearer())[0] == 200
        function = next(one["id"] for one in config["dependencies"] if one["api_name"] == "generate")
        request = {"data": ["红苹果", 1, 1, 0, 1, 1, 5], "fn_index": function, "session_hash": "proxied"}
        assert post(f"{address}/vilg/gradio_api/queue/join", request, **bearer())[0] == 200
        stream = get(f"{address}/vilg/gradio_api/queue/data?session_hash=proxied", **bearer())[1].decode()
        final = json.loads(stream.strip().split("\n\n")[-2].removeprefix("data: "))
        assert final["msg"] == "process_completed"
        url = final["output"]["data"][0][0]["image"]["url"]
        assert url.startswith(f"{address}/vilg/gradio_api/file=")
        status, data = get(url, **bearer())
        assert status == 200 and json.loads(Image.open(io.BytesIO(data)).text["vilg"])["seeds"] == [5]


def test_the_page_behind_a_reverse_proxy_with_a_token(server, browser):
    """In a browser, which asks for the token as a password: images are shown, and the API page has its scripts."""
    with proxy(server) as address:
        context = browser.new_context(http_credentials={"username": "anybody", "password": TOKEN})
        page = context.new_page()
        page.set_default_timeout(20_000)
        failed = []
        page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
        page.goto(f"{address}/vilg/")
        page.fill("#text textarea", "红苹果")
        page.click("#generate")
        page.locator("#images-note", has_text=" s, seed").wait_for()
        loaded = "images => images.length === 4 && images.every(one => one.complete && one.naturalWidth === 64)"
        for _ in range(100):  # the images load after the note is shown
            if page.locator("#images img").evaluate_all(loaded):
                break
            page.wait_for_timeout(100)
        assert page.locator("#images img").evaluate_all(loaded)
        page.goto(f"{address}/vilg/docs")
        page.locator('[data-path="/v1/images"]').wait_for()
        context.close()
        assert not [url for url in failed if "/vilg/" in url and not url.endswith((".map", "manifest.json"))], failed


def test_the_api_page_describes_every_answer(server):
    tree = json.loads(get(f"{server.address}/openapi.json", **bearer())[1])
    assert {"/v1/images", "/v1/captions", "/health"} == set(tree["paths"])
    assert {"200", "400", "401", "413", "422", "503"} == set(tree["paths"]["/v1/images"]["post"]["responses"])


def test_random_requests_find_no_internal_error(exported, tmp_path):
    """schemathesis, for half a minute on a server of its own."""
    pytest.importorskip("schemathesis", reason="schemathesis: pip install schemathesis")
    with serving(exported, tmp_path) as process:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{process.address}/openapi.json", "--seed", "1"]
        command += ["--checks", "not_a_server_error,response_schema_conformance", "--max-examples", "40"]
        command += ["--request-timeout", "10", "--max-time", "20", "--phases", "examples,coverage,fuzzing"]
        began = time.monotonic()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert time.monotonic() - began < 110
        assert json.load(urlopen(f"{process.address}/health", timeout=5))["waiting"] == 0
