"""One request and its reply, over the standard library's HTTP client.

The key is read from the environment for each request, neither kept nor shown; redirects are not followed; a reply has
an end, in bytes and in time.
"""

import http.client
import ipaddress
import json
import os
import re
import socket
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from glocal.errors import UsageError
from glocal.language.schema import Unusable, printable

KEY = "GLOCAL_API_KEY"
"""The environment variable of the key that a server may ask for."""
MAX_ANSWER, MAX_EMBEDDINGS = 2**20, 2**24
"""Bytes of a reply, at most."""


class Address(NamedTuple):
    """Where an endpoint is."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def name(self) -> str:
        """The host, and the port where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(url: str) -> Address:
    """The address of a base URL. It is not repeated in complaints, since people write secrets into addresses."""
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise UsageError("--endpoint is no address; it looks like http://127.0.0.1:8000/v1") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("--endpoint begins with http:// or https:// and a host, like http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(f"--endpoint holds more than host and path; a key belongs in the environment variable {KEY}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("--endpoint has characters that no address has")
    secure = parts.scheme == "https"
    usual = 443 if secure else 80  # said here, since http.client looks for one in what an IPv6 address ends in
    return Address(secure, parts.hostname, usual if port is None else port, parts.path.rstrip("/"))


def exchange(
    address: Address, path: str, body: bytes, timeout: float, most: int = MAX_ANSWER
) -> tuple[int, bytes, float]:
    """Status, body and the seconds to wait that the server asks for, of one request over a connection of its own.

    Raises:
        OSError, http.client.HTTPException: if there is no reply, or half of one, within `timeout` seconds.
        Unusable: if it is too long.
    """
    kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
    key, ends = _key(), time.monotonic() + timeout
    connection = kind(address.host, address.port, timeout=timeout)
    late = None
    try:
        connection.connect()
        late = threading.Timer(max(0.0, ends - time.monotonic()), _shut, [connection.sock])
        late.start()
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection.request("POST", f"{address.path}/{path}", body, headers)
        response, reply = connection.getresponse(), bytearray()
        while chunk := response.read1(2**16):
            reply += chunk
            if len(reply) > most:
                raise Unusable(f"an answer of more than {most:,} bytes")
        if response.length or time.monotonic() >= ends:
            raise http.client.IncompleteRead(bytes(reply), response.length)
        wait = response.getheader("Retry-After", "")
        return response.status, _without(key, bytes(reply)), float(wait[:9]) if wait.isdecimal() else 0.0
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= ends:
            raise TimeoutError(f"no whole answer within {timeout:g} seconds") from error
        raise
    finally:
        if late is not None:
            late.cancel()
        connection.close()


def parsed(reply: bytes) -> dict[str, Any]:
    """The JSON object that a reply is."""
    try:
        found = json.loads(reply)
    except (ValueError, RecursionError) as error:
        raise Unusable("a reply that is no JSON") from error
    if not isinstance(found, dict):
        raise Unusable("a reply that is no JSON object")
    return found


def complaint(reply: bytes) -> str:
    """ " (what the server says is wrong)", if it does; without the key, which some servers repeat."""
    with suppress(Unusable):
        error = parsed(reply).get("error")
        said = error.get("message") if isinstance(error, dict) else error
        if isinstance(said, str) and said.strip():
            return f" ({printable(said)[:200]})"
    return ""


def _shut(connection: socket.socket) -> None:
    """End what waits for a server, whatever part of its reply it dawdles over."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _without(key: str, reply: bytes) -> bytes:
    """A reply in which a server that repeats the key, however it escapes it, has not; three letters are no secret."""
    if len(key) < 4:
        return reply
    letters = (rf"\\{{0,8}}(?:{re.escape(c)}|u00(?i:{ord(c):02x}))" for c in key)
    return re.sub("".join(letters).encode(), b"...", reply)


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"the key in {KEY} has characters that no key has")
    return key
