"""A server on this machine that says what a test wants it to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from seeing import COLOURS

from glocal.language import endpoint


class Server(ThreadingHTTPServer):
    """Answers by `say(request)`: what the model says, or (status, body, headers) to break the rules."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.say: Callable[[dict[str, Any]], Any] = lambda request: "{}"
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *about: Any) -> None:
        """A client that has gone is none of ours."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers) | {"path": self.path})
        said = self.server.say(json.loads(body))
        status, reply, headers = said if isinstance(said, tuple) else (200, completion(said), {})
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(reply))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *about: Any) -> None: ...


def completion(said: Any) -> bytes:
    """A chat completion with this message, or the JSON of this value."""
    text = said if isinstance(said, str) else json.dumps(said)
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}).encode()


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "BACK_OFF", 0.0)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def labelled(tmp_path, monkeypatch) -> Path:
    """Five images of each colour; one that is red lies in blue/, one that is grey in green/."""
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for k in range(5):
            of = (
                COLOURS["red"] if (name, k) == ("blue", 2) else (100, 100, 100) if (name, k) == ("green", 3) else colour
            )
            pixels = np.array(of) + draw.integers(0, 20, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "labelled" / name / f"{k}.png")
    lines = [{"name": name.title(), "text": f"The colour {name}."} for name in COLOURS]
    (tmp_path / "kb.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return tmp_path / "labelled"


@pytest.fixture
def frames(tmp_path, monkeypatch) -> Path:
    """Twelve grey frames, numbered without leading zeros; number 10 is white."""
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "video").mkdir()
    for k in range(12):
        image = np.full((30, 40, 3), 255 if k == 10 else 8 * k, np.uint8)
        Image.fromarray(image).save(tmp_path / "video" / f"f{k}.png")
    return tmp_path / "video"
