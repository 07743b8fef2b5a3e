"""A real, noisy model behind the chat-completions protocol, where no language model is to be had.

It sees by MobileNet's posterior over ImageNet's classes, and reads by the words that a text shares with their names: so
it is often wrong, as a model is, and can be helped by what it is told.
"""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import glocal
from glocal.evaluation.extract import encode, eval_image, frozen, normalise

WEIGHTS = "mobilenet_v1_050"
SEEN = 0.1
"""The share of the posterior from which on something is seen."""
DOUBT = 2.0
"""How many times more clearly another name has to be seen than the label."""


class NoisyModel:
    """Answers what `glocal curate` and `glocal ask` ask.

    Args:
        weights: the file of a released network; the names of its classes lie beside it.
    """

    def __init__(self, weights: Path) -> None:
        self.encoder = glocal.load(str(weights))
        tensors = load_file(weights)
        last = max(int(name.partition(".")[0]) for name in tensors)
        weight, scale, zero, self.bias = (tensors[f"{last}.{part}"] for part in ("weight", "scale", "zero", "bias"))
        self.weight = scale * (weight.float().flatten(1) - zero)  # (1001, D)
        self.names = (weights.parent / "imagenet_labels.txt").read_text().splitlines()
        self.lock, self.known = threading.Lock(), dict[bytes, Tensor]()
        self.phrases = [[phrase for name in line.split(",") if (phrase := words(name))] for line in self.names]
        self.match = lru_cache(256)(self._match)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """What it says to a request, as the request's schema wants it."""
        content = request["messages"][0]["content"]
        texts = [part["text"] for part in content if part["type"] == "text"]
        urls = [part["image_url"]["url"].partition(",")[2] for part in content if part["type"] == "image_url"]
        posteriors = [self.posterior(base64.b64decode(url)) for url in urls]
        if "correct" in request["response_format"]["json_schema"]["schema"]["properties"]:
            return self.check(posteriors[0], next(json.loads(text) for text in texts if text.startswith("{")))
        options = next(text for text in texts if text.startswith("Question:")).partition(":")[2].partition(":")[2]
        return self.watch(torch.stack(posteriors), options.rstrip("?").split(","))

    def check(self, posterior: Tensor, told: dict[str, Any]) -> dict[str, Any]:
        """A label stands unless another name is seen more clearly.

        Without a label it is the likeliest of the names that are told; without these, its own for what it sees.
        """
        names, texts = [told["label"], *told["similar"]] if told["label"] else told["similar"], {}
        if told["entries"]:
            names = [entry["name"] for entry in told["entries"]]
            texts = {entry["name"]: entry["text"] for entry in told["entries"]}
        why = f"It looks like {self.names[int(posterior.argmax())]}."
        if not names:
            return _said(False, self.names[int(posterior.argmax())].partition(",")[0], why)
        evidence = posterior @ self.matches([f"{name} {texts.get(name, '')}" for name in names])
        best = int(evidence.argmax())
        if told["label"] and (evidence[best] < SEEN or evidence[best] < DOUBT * evidence[0]):
            return _said(True, names[0], why)
        return _said(False, names[best] if evidence[best] else None, why)

    def watch(self, posteriors: Tensor, options: Sequence[str]) -> dict[str, Any]:
        """Which frames show one of the options, and which one is seen most clearly in one of them."""
        evidence = posteriors @ self.matches(options)  # (frames, options)
        frames = [n for n, row in enumerate(evidence, start=1) if row.max() >= SEEN]
        clearest = evidence.max(0).values
        answer = options[int(clearest.argmax())].strip() if clearest.max() >= SEEN else "nothing of these"
        return {"frame_ids": frames, "justification": "These look like it.", "answer": answer}

    def posterior(self, jpeg: bytes) -> Tensor:
        """(1001,) of an image; an image is looked at once."""
        with self.lock:
            if jpeg not in self.known:
                image = eval_image(Image.open(io.BytesIO(jpeg)).convert("RGB"), self.encoder.image_size, None)
                pixels = normalise(self.encoder, torch.from_numpy(np.asarray(image).copy())[None])
                with frozen(self.encoder):
                    pooled = encode(self.encoder, pixels).pooled[0]
                self.known[jpeg] = (self.weight @ pooled + self.bias).softmax(0)
            return self.known[jpeg]

    def matches(self, texts: Sequence[str]) -> Tensor:
        """(1001, T): 1 where a text has all words of one of a class's names, .5 where it has the last one.

        A class that speaks for several texts has one voice: it is shared between them.
        """
        found = torch.stack([self.match(text) for text in texts], 1)
        return found / found.sum(1, keepdim=True).clamp_min(1)

    def _match(self, text: str) -> Tensor:
        known, found = set(words(text)), torch.zeros(len(self.phrases))
        for c, phrases in enumerate(self.phrases):
            found[c] = max((1.0 if set(p) <= known else 0.5 for p in phrases if p[-1] in known), default=0.0)
        return found


def words(text: str) -> list[str]:
    """Its words of three letters or more, in the singular, more or less."""
    found = re.findall("[a-z]{3,}", text.lower())
    return [word[:-1] if word.endswith("s") and not word.endswith("ss") else word for word in found]


def _said(correct: bool, entity: str | None, why: str) -> dict[str, Any]:
    return {"correct": correct, "entity": entity, "rationale": why, "qa": []}


@contextmanager
def serving(say: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[str]:
    """The address of a server on this machine that answers requests by a function, while this context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.dumps(say(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *about: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
