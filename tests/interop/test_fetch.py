# SPDX-License-Identifier: Apache-2.0
"""fluxlora fetch against a server on the loopback address that speaks as the Hugging Face hub does."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

from programs import program

NAME, REPOSITORY, REVISION = "wd-vit-tagger-v3", "SmilingWolf/wd-vit-tagger-v3", "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretSecretSecret"
TAGS = b"tag_id,name,category,count\n1,cat,0,9\n"
MODEL = np.random.default_rng(6).bytes(3_000_000)


class Hub(http.server.ThreadingHTTPServer):
    """What it serves and how it misbehaves are attributes; `requests` says what it was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.cut_after = None  # bytes of model.onnx after which the connection breaks, once
        self.slow = False  # stops in the middle of model.onnx until the client is gone
        self.ranges = True
        self.statuses = {}  # part of a path -> status
        self.wanted_token = None
        self.redirect = None  # another hub's address for the files
        self.model = MODEL
        self.listing = None  # instead of the right answer
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def description(self):
        blob = hashlib.sha1(b"blob %d\0" % len(TAGS) + TAGS).hexdigest()
        lfs = {"sha256": hashlib.sha256(MODEL).hexdigest(), "size": len(MODEL), "pointerSize": 134}
        return {
            "id": REPOSITORY,
            "sha": REVISION,
            "siblings": [
                {"rfilename": "README.md", "size": 3, "blobId": "0" * 40},
                {"rfilename": "model.onnx", "size": len(MODEL), "blobId": "1" * 40, "lfs": lfs},
                {"rfilename": "selected_tags.csv", "size": len(TAGS), "blobId": blob},
            ],
        }


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        hub = self.server
        hub.requests.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        if hub.wanted_token and self.headers.get("Authorization") != f"Bearer {hub.wanted_token}":
            return self.send_error(401)
        for part, status in hub.statuses.items():
            if part in self.path:
                return self.send_error(status)
        if self.path == f"/api/models/{REPOSITORY}/revision/main?blobs=true":
            return self.answer(hub.listing or json.dumps(hub.description()).encode())
        if hub.redirect:
            self.send_response(302)
            self.send_header("Location", hub.redirect + self.path)
            return self.end_headers()
        files = {"model.onnx": hub.model, "selected_tags.csv": TAGS}
        prefix = f"/{REPOSITORY}/resolve/{REVISION}/"
        name = self.path.removeprefix(prefix)
        if not self.path.startswith(prefix) or name not in files:
            return self.send_error(404)
        self.answer(files[name], file=True)

    def answer(self, body, file=False):
        hub, begin, model = self.server, 0, file and len(body) > 1000
        if hub.ranges and self.headers.get("Range"):
            begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        end = len(body)
        if model and hub.cut_after is not None:
            end, hub.cut_after = begin + hub.cut_after, None
        elif model and hub.slow:
            end = begin + 1_000_000
        self.wfile.write(body[begin:end])
        self.wfile.flush()
        while model and hub.slow:
            time.sleep(0.05)
        if end < len(body):
            self.close_connection = True


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.slow = False
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(hub, tmp_path):
    """fetch(status, name, **environment): runs the command, gives what it wrote, the token never in it."""

    def run(status=0, name=NAME, **environment):
        done = subprocess.run(command(name), env=surroundings(**environment), capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def command(name=NAME):
        return [program("fluxlora"), "fetch", name]

    def surroundings(**environment):
        clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
        return {**clean, "XDG_CACHE_HOME": str(tmp_path), "HF_ENDPOINT": hub.address, **environment}

    run.folder = tmp_path / "fluxlora" / "models" / NAME
    run.start = lambda: subprocess.Popen(command(), env=surroundings(), stderr=subprocess.PIPE, text=True)
    return run


def files(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def test_files_arrive_whole_and_only_once(fetch, hub):
    assert str(fetch.folder) in fetch()
    assert files(fetch.folder) == ["model.onnx", "selected_tags.csv"]
    assert (fetch.folder / "model.onnx").read_bytes() == MODEL
    assert (fetch.folder / "selected_tags.csv").read_bytes() == TAGS
    assert all(authorization is None for _, _, authorization in hub.requests)
    hub.requests.clear()
    assert "model.onnx is here" in fetch()
    assert len(hub.requests) == 1
    (fetch.folder / "model.onnx").write_bytes(MODEL[:-1] + b"?")  # damaged: fetched again
    fetch()
    assert (fetch.folder / "model.onnx").read_bytes() == MODEL


def test_a_broken_connection_is_continued(fetch, hub):
    hub.cut_after = 1_234_567
    assert "what has arrived is kept" in fetch(3)
    assert "model.onnx" not in files(fetch.folder)
    fetch()
    assert hub.requests[-1][1] == "bytes=1234567-"
    assert (fetch.folder / "model.onnx").read_bytes() == MODEL
    assert files(fetch.folder) == ["model.onnx", "selected_tags.csv"]


def test_a_server_without_ranges_starts_over(fetch, hub):
    hub.cut_after = 1_000_000
    fetch(3)
    hub.ranges = False
    fetch()
    assert (fetch.folder / "model.onnx").read_bytes() == MODEL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_the_next_call_goes_on(fetch, hub, number):
    hub.slow = True
    process = fetch.start()
    part = None
    for _ in range(600):
        part = next(iter(fetch.folder.glob(".model.onnx.*.part")), None) if fetch.folder.is_dir() else None
        if part and part.stat().st_size > 0:
            break
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert "interrupted" in process.stderr.read()
    kept = part.stat().st_size
    hub.slow = False
    fetch()
    assert hub.requests[-1][1] == f"bytes={kept}-"
    assert (fetch.folder / "model.onnx").read_bytes() == MODEL


def test_a_wrong_hash_is_refused(fetch, hub):
    hub.model = MODEL[:2_000_000] + b"!" + MODEL[2_000_001:]
    assert "does not have the hash" in fetch(3)
    assert files(fetch.folder) == ["selected_tags.csv"]
    hub.model = MODEL
    fetch()
    assert (fetch.folder / "model.onnx").read_bytes() == MODEL


def test_a_token_is_asked_for_and_never_shown(fetch, hub):
    hub.wanted_token = TOKEN
    assert "set HF_TOKEN" in fetch(3)
    assert "wants another token" in fetch(3, HF_TOKEN=TOKEN + "x")
    fetch(HF_TOKEN=TOKEN)
    assert hub.requests[-1][2] == f"Bearer {TOKEN}"


def test_a_token_goes_to_its_own_host_alone(fetch, hub):
    other = Hub()
    hub.redirect = other.address
    hub.wanted_token = TOKEN
    fetch(HF_TOKEN=TOKEN)
    assert len(other.requests) == 2
    assert all(authorization is None for _, _, authorization in other.requests)
    other.shutdown()
    other.server_close()


def test_a_token_is_not_sent_unencrypted(fetch):
    assert "unencrypted" in fetch(2, HF_TOKEN=TOKEN, HF_ENDPOINT="http://mirror.invalid")
    assert "characters that no token has" in fetch(2, HF_TOKEN=TOKEN + "\nHost: elsewhere")


def test_what_the_server_answers_is_said(fetch, hub):
    hub.statuses = {"/api/": 404}
    assert "is not there (404)" in fetch(2)
    hub.statuses = {"model.onnx": 503}
    assert "the server answers 503" in fetch(3)
    hub.statuses = {"/api/": 403}
    assert "wants a token (403)" in fetch(3)
    hub.statuses = {}
    for listing in (b"<html>", b"[]", b'{"sha": "x", "siblings": []}',
                    json.dumps({"sha": REVISION, "siblings": [{"rfilename": "model.onnx"}]}).encode()):  # fmt: skip
        hub.listing = listing
        assert "HF_ENDPOINT" in fetch(2)


def test_no_server_and_no_such_model(fetch, hub):
    assert "check the connection" in fetch(3, HF_ENDPOINT="http://127.0.0.1:1")
    assert "did you mean wd-vit-tagger-v3?" in fetch(2, name="wd-vit-tagger-v2")
