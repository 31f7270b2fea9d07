"""Clients of the command line that ask for much at once and read nothing, of what is no file."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("h11")

import ports
from client import Client
from command_line import address, ask, serving

from wsgifile import FileWrapperMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: 24 MiB, which is more than waitress's own high watermark.
APP = """
BLOCK = bytes(1 << 16)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    count = 0 if path == "/small" else 384
    start_response("200 OK", [("Content-Length", str(count * len(BLOCK)))])
    if path == "/block":
        return [BLOCK * count]
    blocks = [BLOCK] * count
    return blocks if path == "/list" else iter(blocks)
"""


def unread(at: tuple[str, int], path: str, count: int) -> socket.socket:
    """A connection on which so many requests are sent, and nothing is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(20)
    sock.connect(at)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * count)
    return sock


@pytest.mark.parametrize("kind", ["block", "list", "generator"])
def test_unread_responses_hold_no_thread(tmp_path: Path, kind: str) -> None:
    """There are 10 such clients and 4 threads. Somebody else's small request is answered."""
    (tmp_path / "module.py").write_text(APP)
    log = tmp_path / "log"  # Of requests that are dropped at the end.
    with serving("module:app", "--quiet", cwd=tmp_path, log=log) as url, ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(unread(address(url), "/" + kind, 3))
            assert ask(url, b"/small").startswith(b"HTTP/1.0 200 OK\r\n")
        # They get all of it when they read.
        with unread(address(url), "/" + kind, 2) as sock:
            received = 0
            while received < 2 * 384 << 16:
                received += len(sock.recv(1 << 20))


def test_a_client_that_holds_a_thread(tmp_path: Path) -> None:
    """Its connection ends after channel_timeout, and the thread is free."""
    (tmp_path / "file").write_bytes(b"x")
    ended: list[bool] = []

    def blocks() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            ended.append(True)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/file":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return open(tmp_path / "file", "rb")
        start_response("200 OK", [("Content-Length", str(1 << 40))])
        return blocks()

    settings = {"channel_timeout": 1, "cleanup_interval": 1, "outbuf_high_watermark": 1 << 20}
    with (
        ports.serving(FileWrapperMiddleware(app), threads=1, **settings) as port,
        Client(port, timeout=20) as slow,
    ):
        # The connection is ours once a file was sent on it.
        assert slow.get("/file").body == b"x"
        slow.send("/endless")
        # The only thread is free again: this is answered while the client is still there.
        with Client(port, timeout=20) as client:
            assert client.get("/file").body == b"x"
        assert ended == [True]
        assert slow.receive().short
