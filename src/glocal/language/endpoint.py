"""A client of the chat-completions protocol, which llama.cpp, vLLM, Ollama and hosted models share.

Nothing goes to another machine unasked; pictures are encoded anew, without the camera's notes; a question is paid for
once: its answer is kept.
"""

import base64
import hashlib
import http.client
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from glocal.errors import UsageError
from glocal.language.schema import Unusable, printable, read_answer
from glocal.language.transport import KEY, MAX_ANSWER, MAX_EMBEDDINGS, complaint, exchange, parse_address, parsed
from glocal.run import write_atomically

ATTEMPTS = 4
"""Of one request, where the server is out of reach, busy or broken."""
BACK_OFF = 1.0
"""Seconds before the second attempt; each further one waits twice as long, or as long as the server asks."""
LONGEST_WAIT = 60.0
EMBEDDED = 64
"""Texts of one request for embeddings."""
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""States of a server that may pass."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Question:
    """Texts and pictures (JPEG), in their order, and the schema of the answer."""

    parts: tuple[str | bytes, ...]
    schema: dict[str, Any]


class Endpoint:
    """A model behind an address; threads may share it.

    Args:
        url: the base, such as http://127.0.0.1:8000/v1.
        model: what the server calls it.
        max_calls: requests that are sent, at most, repeated ones included.
        images: how many may be sent, for the person to know.
        texts: what else is, in words.
        allow_remote: talk to another machine than this one.
        cache: a folder for answers, for this user's eyes; None keeps none.
        concurrency: requests under way at once.
        timeout: seconds for an answer.

    Attributes:
        address: where it is.
        host: the machine.
        calls: requests sent so far.
        remembered: questions answered from the cache.
        tokens: (read, written) by the model, as the server counts.

    Raises:
        UsageError: for an address that is none, or not of this machine and not allowed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        max_calls: int,
        images: int,
        texts: str = "the question",
        allow_remote: bool = False,
        cache: Path | None = None,
        concurrency: int = 4,
        timeout: float = 120.0,
    ) -> None:
        if max_calls < 1 or concurrency < 1:
            raise UsageError(f"--max-calls {max_calls}, --concurrency {concurrency}: at least 1 each")
        if not 0 < timeout <= 86_400:
            raise UsageError(f"--timeout {timeout:g}: seconds for an answer, at most a day's")
        self.model, self.max_calls, self.concurrency, self.timeout = model, max_calls, concurrency, timeout
        self.address, self.cache = parse_address(url), cache
        self.host = self.address.name
        self.calls, self.remembered, self.tokens = 0, 0, (0, 0)
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}
        self._check_host(images, texts, allow_remote)

    def ask(self, question: Question) -> Any:
        """The model's answer, of the form that the question's schema says.

        Raises:
            Unusable: if the answer is something else, or too long.
            UsageError: if there is no answer to be had, now or from anything else that is asked.
        """
        return self._reply("chat/completions", self.request(question), lambda reply: _answer(reply, question.schema))

    def ask_all(self, question: Callable[[int], Question], number: int) -> Iterator[Any | Unusable]:
        """The answers to questions 0, 1, …, in order, some under way at once; what was unusable stands in its place.

        Args:
            question: makes one of them, in a thread of its own.
            number: how many there are.

        Raises:
            UsageError: as `ask`; the answers until then have been given.
        """

        def one(k: int) -> Any | Unusable:
            try:
                return self.ask(question(k))
            except Unusable as error:
                return error

        with ThreadPool(min(self.concurrency, max(1, number))) as pool:
            yield from pool.imap(one, range(number))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The server's embeddings (N, D) float32 of texts, of length 1.

        Raises:
            UsageError: if there are none to be had.
        """
        found = list[np.ndarray]()
        for start in range(0, len(texts), EMBEDDED):
            asked = list(texts[start : start + EMBEDDED])
            try:
                read = partial(_embeddings, number=len(asked))
                rows = self._reply("embeddings", {"model": self.model, "input": asked}, read)
                if found and rows.shape[1] != found[0].shape[1]:
                    raise Unusable(f"vectors of {found[0].shape[1]} numbers, then of {rows.shape[1]}")
            except Unusable as error:
                raise UsageError(f"{self.host} gives no embeddings: {error}") from error
            found.append(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))
        return np.concatenate(found)

    def request(self, question: Question) -> dict[str, Any]:
        """The body of a request: the same question has the same one, to the byte."""
        content: list[dict[str, Any]] = []
        for part in question.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                url = f"data:image/jpeg;base64,{base64.b64encode(part).decode()}"
                content.append({"type": "image_url", "image_url": {"url": url}})
        form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": question.schema}}
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "temperature": 0, "response_format": form}

    @property
    def spent(self) -> str:
        """What it took so far, in words."""
        read, written = self.tokens
        said = f"{self.calls:,} call{'s' * (self.calls != 1)}, {self.remembered:,} answers from before"
        return said + (f", {read:,} tokens read and {written:,} written by the model" if read or written else "")

    def _check_host(self, images: int, texts: str, allow_remote: bool) -> None:
        if self.address.is_here:
            return
        said = f"{self.host} is another machine, and up to {images:,} images and {texts} would be sent to it"
        if not allow_remote:
            raise UsageError(f"{said}; add --allow-remote if they may leave this one")
        if not self.address.secure and os.environ.get(KEY):
            raise UsageError(f"{KEY} would travel to {self.host} for all to read; use https, or unset it")
        print(f"{said}, as --allow-remote says", file=sys.stderr)

    def _reply(self, path: str, request: dict[str, Any], read: Callable[[dict[str, Any]], Value]) -> Value:
        """What `read` makes of a reply; one that it can use is kept, and not asked for again."""
        body = json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        place = f"{tuple(self.address)}/{path}\0".encode()
        name = hashlib.sha256(place + body).hexdigest()
        if self.cache is None:
            return read(parsed(self._send(path, body)))
        file = self.cache / f"{name}.json"
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        with turn:  # an equal question that is under way is waited for
            with suppress(OSError, Unusable):
                found = read(parsed(file.read_bytes()))
                with self._lock:
                    self.remembered += 1
                return found
            reply = self._send(path, body)
            found = read(parsed(reply))
            with suppress(OSError):  # a full disk: it costs another call
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(file, lambda partial: partial.write_bytes(reply), mode=0o600)
            return found

    def _send(self, path: str, body: bytes) -> bytes:
        """The body of the server's reply to a request, repeated while there is hope."""
        trouble = ""
        for attempt in range(ATTEMPTS):
            with self._lock:
                if self.calls >= self.max_calls:
                    said = f"--max-calls {self.max_calls} are used up{trouble and f', the last of them: {trouble}'}"
                    raise UsageError(f"{said}; run it again to go on from there")
                self.calls += 1
            wait = BACK_OFF * 2**attempt
            most = MAX_EMBEDDINGS if path == "embeddings" else MAX_ANSWER
            try:
                status, reply, asked = exchange(self.address, path, body, self.timeout, most)
                if status == 200:
                    self._count(reply)
                    return reply
                trouble = f"{self.host} answers {status}{complaint(reply)}"
                wait = max(wait, asked)
            except (OSError, http.client.HTTPException) as error:
                said = str(error) if isinstance(error, OSError) else ""  # the others repeat what the server sent
                said = getattr(error, "strerror", None) or said or type(error).__name__
                status, trouble = 0, f"{self.host} does not answer ({printable(said)[:200]})"
            if status and status not in PASSING:
                raise UsageError(f"{trouble}{self._advice(status)}")
            if attempt + 1 < ATTEMPTS:
                time.sleep(min(wait, LONGEST_WAIT))
        raise UsageError(f"{trouble}, {ATTEMPTS} times; is the server up? Run it again to go on from here")

    def _count(self, reply: bytes) -> None:
        """Add the tokens that the server says it took."""
        with suppress(Unusable):
            usage = parsed(reply).get("usage")
            usage = usage if isinstance(usage, dict) else {}
            counts = (usage.get(f"{kind}_tokens") for kind in ("prompt", "completion"))
            read, written = (n if type(n) is int and 0 <= n < 10**12 else 0 for n in counts)
            with self._lock:
                self.tokens = self.tokens[0] + read, self.tokens[1] + written

    def _advice(self, status: int) -> str:
        if 300 <= status < 400:
            return ": it sends the request elsewhere, which is refused; give the address itself"
        if status in (401, 403):
            return f"; {'is the key in ' + KEY + ' right' if os.environ.get(KEY) else 'does it want a key in ' + KEY}?"
        return f"; is '{self.model}' a model that it has?" if status == 404 else ""


def picture(pixels: np.ndarray, side: int) -> bytes:
    """Pixels (h, w, 3) uint8 as a JPEG with a longer side of at most `side`: nothing else of the file is in it."""
    image, out = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side))
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def _answer(reply: dict[str, Any], schema: dict[str, Any]) -> Any:
    """What the model says, out of a chat completion."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise Unusable("a reply without a message")
    return read_answer(text, schema)


def _embeddings(reply: dict[str, Any], number: int) -> np.ndarray:
    """The vectors (N, D) of a reply to as many texts, in their order."""
    try:
        rows = sorted(reply["data"], key=lambda row: row["index"])
        found = np.array([row["embedding"] for row in rows], dtype=np.float32)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unusable("a reply without vectors") from error
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise Unusable("vectors that are none")
    if [row["index"] for row in rows] != list(range(number)):
        raise Unusable(f"{len(rows)} vectors for {number} texts")
    return found
