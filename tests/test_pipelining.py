"""Clients that send their next requests to waitress before they have read a response.

The bytes and their order are exact, and no such client holds a thread of the server.
"""

from __future__ import annotations

import io
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from client import Client
from ports import serving
from waitress.channel import HTTPChannel

from wsgifile import FileWrapperMiddleware, Transfer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: More than waitress's high watermark and the sockets' buffers together.
BIG = random.Random(17).randbytes(32 << 20)
SIZES = {"big": len(BIG), "medium": 150_000, "small": 20_000, "shrinks": len(BIG)}
GENERATED = 3 << 20

#: What is asked for: the request, the status, and the body's bytes.
KINDS: dict[str, tuple[str, int, bytes]] = {
    "big": ("GET /big", 200, BIG),
    "medium": ("GET /medium", 200, BIG[: SIZES["medium"]]),
    "small": ("GET /small", 200, BIG[: SIZES["small"]]),
    "head": ("HEAD /big", 200, b""),
    "range": ("GET /big range", 206, BIG[70_001 : SIZES["big"] - 70_001]),
    "memory": ("GET /memory", 200, BIG[:GENERATED]),
    "generated": ("GET /generated", 200, BIG[:GENERATED]),
    "not found": ("GET /not_found", 404, b"no"),
}


class Pipeline:
    """A connection on which many requests are sent at once, and read later."""

    def __init__(self, port: int) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.sock.settimeout(20)
        self.sock.connect(("127.0.0.1", port))
        self.rest = b""

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def send(self, *requests: str) -> None:
        """Send requests such as "GET /big"."""
        text = ""
        for request in requests:
            method, path, *more = request.split()
            text += f"{method} {path} HTTP/1.1\r\nHost: a\r\n"
            if more:
                text += f"Range: bytes=70001-{SIZES['big'] - 70_002}\r\n"
            text += "\r\n"
        self.sock.sendall(text.encode())

    def receive(self, method: str = "GET") -> tuple[int, bytes]:
        """The status and the body of the next response; the body is short at the end."""
        while b"\r\n\r\n" not in self.rest:
            data = self.sock.recv(65536)
            assert data, "the connection has ended"
            self.rest += data
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        (length,) = (int(f[15:]) for f in fields if f.lower().startswith("content-length:"))
        body = bytearray(self.rest)
        if method == "HEAD":
            length = 0
        while len(body) < length:
            data = self.sock.recv(1 << 20)
            if not data:
                break
            body += data
        self.rest = bytes(body[length:])
        return int(status.split()[1]), bytes(body[:length])

    def wait_until_closed(self) -> None:
        """Take nothing until the server has ended the connection."""
        wait_for(lambda: self._is_closed())

    def _is_closed(self) -> bool:
        with suppress(ConnectionError, BrokenPipeError):
            self.sock.send(b"x")
            return False
        return True


class Files:
    """An application with responses of each kind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, size in SIZES.items():
            (directory / name).write_bytes(BIG[:size])
        #: What was asked for, in this order.
        self.calls: list[str] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        name = environ["PATH_INFO"].strip("/")
        self.calls.append(name)
        if name == "not_found":
            start_response("404 Not Found", [("Content-Length", "2")])
            return [b"no"]
        if name == "generated":
            start_response("200 OK", [("Content-Length", str(GENERATED))])
            return (BIG[at : at + 65536] for at in range(0, GENERATED, 65536))
        start_response("200 OK", [("Content-Type", "text/plain")])
        if name == "memory":
            return environ["wsgi.file_wrapper"](io.BytesIO(BIG[:GENERATED]))
        return open(self.directory / name, "rb")

    def open_files(self) -> int:
        """How many of the files this process has open."""
        count = 0
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                count += os.readlink(f"/proc/self/fd/{fd}").startswith(str(self.directory))
        return count


@pytest.fixture
def app(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def served(app: Files, seen: list[Transfer] | None = None, **settings: Any) -> Iterator[int]:
    """Serve app; at the end no file may be open."""
    on_sent = None if seen is None else seen.append
    with serving(FileWrapperMiddleware(app, on_sent=on_sent), **settings) as port:
        yield port
        wait_for(lambda: app.open_files() == 0)


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_alive(port: int) -> None:
    """Somebody else's small request is answered."""
    with Client(port, timeout=10) as client:
        assert client.get("/not_found").body == b"no"


@pytest.mark.parametrize("count", [2, 3, 8, 20])
@pytest.mark.parametrize("without", ["", "sendfile"])
def test_bytes_and_order(
    app: Files, count: int, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a client that reads at once, and with one that begins when nothing moves any more."""
    if without:
        monkeypatch.delattr(os, without)
    chosen = random.Random(count)
    with served(app) as port:
        for stalls in (False, True):
            names = [chosen.choice([*KINDS]) for _ in range(count)]
            requests = [KINDS[name][0] for name in names]
            with Pipeline(port) as pipeline:
                pipeline.send(*requests)
                if stalls:
                    check_alive(port)
                for name, request in zip(names, requests, strict=True):
                    status, body = pipeline.receive(request.split()[0])
                    assert (name, status) == (name, KINDS[name][1])
                    assert body == KINDS[name][2], name
                # Nothing comes after them, and the connection goes on.
                pipeline.send("GET /not_found")
                assert pipeline.receive() == (404, b"no")
                assert pipeline.rest == b""


@pytest.mark.parametrize("second", KINDS)
def test_stalled_clients_hold_no_thread(app: Files, second: str) -> None:
    """There are 20 of them and 4 threads. The requests behind the files have not begun."""
    with served(app) as port, ExitStack() as stack:
        pipelines = [stack.enter_context(Pipeline(port)) for _ in range(20)]
        for number, pipeline in enumerate(pipelines, 1):
            pipeline.send("GET /big", *[KINDS[second][0]] * 3)
            check_alive(port)
            while app.open_files() != number:
                check_alive(port)
        assert set(app.calls) == {"big", "not_found"}
        method = KINDS[second][0].split()[0]
        for pipeline in (pipelines[0], pipelines[-1]):
            assert pipeline.receive() == (200, BIG)
            for _ in range(3):
                status, body = pipeline.receive(method)
                assert status == KINDS[second][1]
                assert body == KINDS[second][2]


@pytest.mark.parametrize("name", ["small", "medium", "big"])
def test_open_files_are_bounded(app: Files, name: str) -> None:
    """However many requests a client sends, and the server is ready to take."""
    with served(app, channel_request_lookahead=10_000) as port, Pipeline(port) as pipeline:
        pipeline.send(*["GET /" + name] * 10_000)
        count = 0
        while app.calls.count(name) != count:  # Until nothing moves any more.
            count = app.calls.count(name)
            for _ in range(20):
                check_alive(port)
        # What the sockets hold, and at most a MiB more.
        assert count < 1000
        assert app.open_files() <= (1 << 20) // SIZES[name] + 2
        for _ in range(30 if name != "big" else 3):
            assert pipeline.receive() == (200, BIG[: SIZES[name]])


@pytest.mark.parametrize("stalls", [False, True])
def test_a_file_that_runs_short(app: Files, stalls: bool) -> None:
    """The connection ends within that response. The one behind it never comes."""
    seen: list[Transfer] = []
    with served(app, seen) as port, Pipeline(port) as pipeline:
        pipeline.send("GET /big", "GET /shrinks", "GET /small", "GET /medium")
        if stalls:
            check_alive(port)
        assert pipeline.receive() == (200, BIG)
        if not pipeline.rest:  # Its header tells the length before the file is truncated.
            assert pipeline.sock.recv(1, socket.MSG_PEEK)
        os.truncate(app.directory / "shrinks", 10 << 20)
        status, body = pipeline.receive()
        assert status == 200
        assert body == BIG[: len(body)]
        assert len(body) == 10 << 20
        assert pipeline.sock.recv(1) == b""
        check_alive(port)
    errors = [type(transfer.error).__name__ for transfer in seen]
    assert errors[:2] == ["NoneType", "ShortFileError"]


def test_a_client_that_leaves(app: Files) -> None:
    """All of its files are closed, and what waited behind them is dropped."""
    with served(app) as port:
        for _ in range(8):
            with Pipeline(port) as pipeline:
                pipeline.send("GET /big", "GET /medium", "GET /big", "GET /generated")
                check_alive(port)
        wait_for(lambda: app.open_files() == 0)
        assert set(app.calls) == {"big", "not_found"}


@pytest.mark.parametrize("requests", [["GET /big"], ["GET /big", "GET /big", "GET /small"]])
def test_a_client_that_never_reads(app: Files, requests: list[str]) -> None:
    """Its connection ends after waitress's channel_timeout."""
    with served(app, channel_timeout=1, cleanup_interval=1) as port, Pipeline(port) as pipeline:
        pipeline.send(*requests)
        wait_for(lambda: app.open_files() == 1)
        wait_for(lambda: app.open_files() == 0)
        pipeline.wait_until_closed()
        check_alive(port)


def test_a_channel_of_somebody_else(app: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left as it is, and gets blocks."""

    class Own(HTTPChannel):  # type: ignore[misc]
        pass

    monkeypatch.setattr("waitress.server.BaseWSGIServer.channel_class", Own)
    with served(app) as port, Pipeline(port) as pipeline:
        pipeline.send("GET /big", "GET /medium")
        assert pipeline.receive() == (200, BIG)
        assert pipeline.receive() == (200, BIG[: SIZES["medium"]])
