"""What goes over the wire, to servers that are strange or hostile."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress

import pytest

from glocal.errors import UsageError
from glocal.language import Endpoint, Question, Unusable, endpoint as file
from glocal.language.schema import TEXT, read_answer, record
from glocal.language.transport import parse_address

SCHEMA = record(word=TEXT)
QUESTION = Question(("What is this?",), SCHEMA)
SECRET = "abc/def-very-secret"
ESCAPED = [SECRET, SECRET.replace("/", r"\/"), SECRET.replace("/", r"\u002F"), SECRET.replace("e", r"\u0065")]


def client(url: str, **options) -> Endpoint:
    return Endpoint(url, "m", **{"max_calls": 20, "images": 3, "timeout": 5.0, **options})


def said(word: str) -> bytes:
    """A chat completion whose message has this word, escaped as it is, in JSON within JSON."""
    return b'{"choices": [{"message": {"content": ' + json.dumps(f'{{"word": "{word}"}}').encode() + b"}}]}"


@pytest.mark.parametrize("key", ESCAPED)
def test_a_key_that_the_server_repeats_is_hidden_however_it_is_escaped(server, monkeypatch, tmp_path, key):
    monkeypatch.setenv("GLOCAL_API_KEY", SECRET)
    server.say = lambda request: (401, b'{"error": "no such key: %s"}' % key.encode(), {})
    with pytest.raises(UsageError, match=r"answers 401 \(no such key: \.\.\.\)"):
        client(server.url).ask(QUESTION)
    for body in (said(key), said("*").replace(b"*", key.encode())):
        server.say = lambda request, body=body: (200, body, {})
        made = client(server.url, cache=tmp_path / str(len(body)))
        assert [made.ask(QUESTION) for _ in range(2)] == [{"word": "..."}] * 2
        (kept,) = (path for path in (tmp_path / str(len(body))).rglob("*") if path.is_file())
        assert b"very" not in kept.read_bytes()


@pytest.fixture
def raw():
    """A server that sends (start, again and again): to be told; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made, over = {"url": f"http://127.0.0.1:{listening.getsockname()[1]}/v1"}, threading.Event()

        def serve():
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, suppress(OSError):
                        connection.recv(2**16)
                        connection.sendall(made["start"])
                        while made["again"] and not over.is_set():
                            time.sleep(0.01)
                            connection.sendall(made["again"])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield made
        over.set()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
    ],
    ids=["headers", "continue", "trailers", "body"],
)
def test_a_reply_has_an_end_in_time_whatever_it_dawdles_over(raw, monkeypatch, start, again):
    monkeypatch.setattr(file, "ATTEMPTS", 1)
    raw |= {"start": start, "again": again}
    begun = time.monotonic()
    with pytest.raises(UsageError, match=r"does not answer \(no whole answer within 0.2 seconds\)"):
        client(raw["url"], timeout=0.2).ask(QUESTION)
    assert time.monotonic() - begun < 3


def test_what_is_no_http_is_not_repeated(raw, monkeypatch):
    monkeypatch.setattr(file, "ATTEMPTS", 1)
    raw |= {"start": f"your key is {SECRET}\r\n\r\n".encode(), "again": b""}
    with pytest.raises(UsageError, match=r"does not answer \(BadStatusLine\)"):
        client(raw["url"]).ask(QUESTION)


def test_wide_vectors_come_by_the_block(server):
    rows = [{"index": n, "embedding": [0.12345678901234567] * 1024} for n in range(64)]
    server.say = lambda request: (200, json.dumps({"data": rows}).encode(), {})
    assert client(server.url).embed(["a text"] * 64).shape == (64, 1024)


@pytest.mark.parametrize("rows", [[[10**400]], [[]], [[1, 2], [3]]])
def test_embeddings_that_are_none_are_told_in_a_line(server, rows):
    replies = [json.dumps({"data": [{"index": 0, "embedding": row}]}).encode() for row in rows]
    server.say = lambda request: (200, replies.pop(0), {})
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:\d+ gives no embeddings"):
        client(server.url).embed(["a", "b"])


def test_more_tokens_than_there_can_be_are_not_counted(server):
    usage = b', "usage": {"prompt_tokens": %s, "completion_tokens": 5}}' % (b"9" * 4300)
    server.say = lambda request: (200, said("yes")[:-1] + usage, {})
    made = client(server.url)
    for _ in range(2):
        made.ask(QUESTION)
    assert made.spent == "2 calls, 0 answers from before, 0 tokens read and 10 written by the model"


@pytest.mark.parametrize("url", ["http://a..b:1/v1", f"http://{'a' * 64}.org/v1", "http://me:pa/ss@host/v1"])
def test_what_is_no_host_is_told_in_a_line_and_not_repeated(url):
    with pytest.raises(UsageError, match="--endpoint is no address") as raised:
        parse_address(url)
    assert "pa" not in str(raised.value)


def test_when_no_call_is_left_the_last_trouble_is_named(server):
    server.say = lambda request: (429, b'{"error": "slow down"}', {})
    with pytest.raises(UsageError, match=r"--max-calls 2 are used up, the last of them: .* 429 \(slow down\); run it"):
        client(server.url, max_calls=2).ask(QUESTION)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_seconds_for_an_answer_are_a_number_of_them(timeout):
    with pytest.raises(UsageError, match="--timeout"):
        client("http://127.0.0.1/v1", timeout=timeout)


@pytest.mark.parametrize(
    "text",
    [
        '<think>{maybe}</think>{"word": "yes"}',
        'Is it {"word": 3}? No: {"word": "yes"} {so}',
        '{"word": "no"} or rather {"word": "yes"}',
    ],
)
def test_an_answer_is_found_beside_braces(server, text):
    server.say = lambda request: text
    assert client(server.url).ask(QUESTION) == {"word": "yes"}


def test_a_megabyte_of_braces_takes_no_minute(server):
    server.say = lambda request: '{"a":' * 100_000
    begun = time.process_time()
    with pytest.raises(Unusable, match="half an answer"):
        client(server.url).ask(QUESTION)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://[2001:db8::1:5]/v1", ("2001:db8::1:5", 80)),
        ("https://[2001:db8::5]/v1", ("2001:db8::5", 443)),
        ("http://[::1]:8000/v1", ("::1", 8000)),
        ("http://127.0.0.1/v1", ("127.0.0.1", 80)),
    ],
)
def test_the_machine_that_is_asked_is_the_one_that_was_named(url, asked, monkeypatch):
    monkeypatch.setattr(file, "ATTEMPTS", 1)
    there = []

    def connect(address, *_):
        there.append(address)
        raise OSError("none")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UsageError):
        client(url, allow_remote=True).ask(QUESTION)
    assert there == [asked]


def test_a_megabyte_of_braces_is_read_in_no_time():
    text = '{"a":' * 900 + "[" + "1," * 500_000
    started = time.process_time()
    with pytest.raises(Unusable):
        read_answer(text, SCHEMA)
    assert time.process_time() - started < 5  # 24 before
