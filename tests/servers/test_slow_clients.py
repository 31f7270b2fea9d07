"""A client that falls behind keeps no worker, and is not cut, on every server.

"watched" has the middleware next to the server, and notes what on_sent got.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cases
import pytest
from client import Client, events, open_files
from known import SERVERS

if TYPE_CHECKING:
    from conftest import Running

#: More than all buffers between a server and a client.
SIZE = 24 << 20

#: Where the rest of a response leaves the worker.
BACKGROUND = {
    "cheroot",
    "gunicorn",
    "gunicorn_gthread",
    "paste",
    "paste_http11",
    "runserver",
    "uwsgi",
    "uwsgi_http11",
    "uwsgi_router",
    "werkzeug",
    "werkzeug_http11",
    "werkzeug_threaded",
    "wsgiref",
}
#: Those of them that keep a connection after a response.
KEEPS = {"cheroot", "gunicorn_gthread", "paste_http11", "runserver", "uwsgi_http11"}


@pytest.fixture(scope="module")
def data(files: str) -> bytes:
    data = os.urandom(SIZE)
    with open(cases.path("large"), "wb") as file:
        file.write(data)
    return data


@pytest.fixture
def behind(server: Running) -> Iterator[Running]:
    """The server, if it sends in the background."""
    if server.name not in BACKGROUND:
        pytest.skip("nothing is sent in the background here")
    server.begin()
    events(server.port, closes=0)  # forget
    yield server
    assert open_files(server.port) == []


class Slow:
    """A client with a small window that has read the beginning."""

    def __init__(self, port: int, target: str, *headers: str) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(20)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.sock.connect(("127.0.0.1", port))
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", *headers, "", ""]
        self.sock.sendall("\r\n".join(lines).encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.sock.recv(4096)
        head, _, self.body = got.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
        self.header = {name.lower(): value.strip() for name, _, value in fields}

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def rest(self) -> bytes:
        """The body, up to its length or the end of the connection."""
        left = int(self.header[b"content-length"]) - len(self.body)
        blocks = [self.body]
        while left > 0:
            try:
                block = self.sock.recv(1 << 16)
            except ConnectionResetError:
                break
            if not block:
                break
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)


def transferred(port: int, seen: list[list[Any]]) -> list[Any]:
    """What on_sent was called with, once it has been."""
    deadline = time.monotonic() + 20
    while not any(event[0] == "transfer" for event in seen):
        assert time.monotonic() < deadline, f"on_sent was not called: {seen}"
        time.sleep(0.02)
        seen += events(port, closes=0)
    [transfer] = [event[1:] for event in seen if event[0] == "transfer"]
    return transfer


def test_stops(server: Running, data: bytes) -> None:
    """Others are served meanwhile, and it gets the rest to the last byte."""
    server.begin()
    events(server.port, closes=0)  # forget
    name = server.name
    with Slow(server.port, "/watched/large") as slow:
        # This asks the server, which may have one worker.
        seen = events(server.port, closes=1 if name in BACKGROUND else 0)
        assert slow.rest() == data
    sender, status, _, count, sent, error, path = transferred(server.port, seen)
    assert (status, count, error, path) == ("200 OK", SIZE, "NoneType", "/large")
    assert sent in {SIZE, None}
    assert (sender == "background") is (name in BACKGROUND)


@pytest.mark.parametrize("name", ["ranges", "memory"])
def test_stops_in_other_bytes(behind: Running, data: bytes, name: str) -> None:
    """Several ranges, and a file in memory, leave like a file."""
    target = "/watched/large" if name == "ranges" else "/watched/in_memory"
    headers = [f"Range: bytes=0-9999999,12000000-{SIZE - 1}"] if name == "ranges" else []
    with Slow(behind.port, target, *headers) as slow:
        seen = events(behind.port, closes=1)
        body = slow.rest()
    if name == "ranges":
        assert slow.status == 206
        boundary = slow.header[b"content-type"].partition(b"=")[2]
        parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"--" + boundary)[1:-1]]
        assert parts == [data[:10_000_000] + b"\r\n", data[12_000_000:] + b"\r\n"]
    else:
        assert body == data
    transfer = transferred(behind.port, seen)
    assert transfer[0] == "background"
    assert transfer[3] == transfer[4] == int(slow.header[b"content-length"])


def test_leaves(behind: Running, data: bytes) -> None:
    """Its connection and the file are closed, and on_sent is told how far it came."""
    with Slow(behind.port, "/watched/large"):
        seen = events(behind.port, closes=1)
    sender, _, _, count, sent, error, _ = transferred(behind.port, seen)
    assert (sender, count) == ("background", SIZE)
    assert sent < SIZE
    assert error in {"BrokenPipeError", "ConnectionResetError"}


def test_takes_nothing(behind: Running, data: bytes) -> None:
    """After send_timeout its connection ends."""
    with Slow(behind.port, "/impatient/large") as slow:
        seen = events(behind.port, closes=1)
        sender, _, _, _, sent, error, _ = transferred(behind.port, seen)
        assert (sender, error) == ("background", "TimeoutError")
        assert sent < SIZE
        assert data.startswith(body := slow.rest())
        assert len(body) < SIZE


def test_takes_nothing_from_a_worker(behind: Running, data: bytes) -> None:
    """With background=0 the worker waits, but no longer than that."""
    with Slow(behind.port, "/worker/large") as slow:
        seen = events(behind.port, closes=1)
        sender, _, _, _, sent, error, _ = transferred(behind.port, seen)
        assert (sender != "background", error) == (True, "TimeoutError")
        assert sent < SIZE
        assert data.startswith(body := slow.rest())
        assert len(body) < SIZE


def test_takes_nothing_of_what_is_read(behind: Running, data: bytes) -> None:
    """What has to be read stays with the worker, which waits no longer."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.connect(("127.0.0.1", behind.port))
        sock.sendall(b"GET /impatient/zeros HTTP/1.1\r\nHost: localhost\r\n\r\n")
        seen = events(behind.port, closes=1)
        sender, _, _, count, _, error, _ = transferred(behind.port, seen)
        assert (sender, count, error) == ("read", None, "TimeoutError")


def test_truncated(behind: Running, data: bytes) -> None:
    """The connection ends, so that it does not take the part for the whole."""
    with Slow(behind.port, "/watched/large") as slow:
        seen = events(behind.port, closes=1)
        os.truncate(cases.path("large"), SIZE - 100)
        try:
            body = slow.rest()
            transfer = transferred(behind.port, seen)
        finally:
            with open(cases.path("large"), "wb") as file:
                file.write(data)
    assert data[:-100].startswith(body)
    assert SERVERS[behind.name].resets or len(body) == SIZE - 100
    assert transfer[4:6] == [SIZE - 100, "ShortFileError"]


def test_many(behind: Running, data: bytes) -> None:
    """More than there are workers, of which each one gets its own bytes."""
    many = [Slow(behind.port, "/ours/large", f"Range: bytes={n}-") for n in range(12)]
    try:
        assert events(behind.port, closes=12).count(["close"]) == 12
        for n, slow in enumerate(many):
            assert slow.rest() == data[n:]
    finally:
        for slow in many:
            slow.sock.close()


def test_does_not_stop(behind: Running, data: bytes) -> None:
    """A client that takes everything keeps its connection."""
    with Client(behind.port) as client:
        answer = client.get("/watched/plain")
        assert answer.body == cases.DATA
        if behind.name in KEEPS | {"uwsgi_router"}:
            assert answer.reusable
        else:
            # Some servers close it a moment later, and do not announce that.
            deadline = time.monotonic() + 20
            while client.sock is not None and client.still_open():
                assert time.monotonic() < deadline
    seen = events(behind.port, closes=1)
    assert transferred(behind.port, seen)[0] != "background"
