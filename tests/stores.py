"""An object store and an HTTP origin for tests, and what they were asked for.

The store is that of ``presigned``. The clients reach it through a :class:`Counter`, which notes
each request. It can also be slow, or cut a response off.
"""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import presigned

__all__ = ["Asked", "Counter", "counting", "origin", "store"]

#: Fields that are for one connection only (RFC 9110, section 7.6.1), and that we set ourselves.
_HOP_BY_HOP = frozenset({"connection", "content-length", "keep-alive", "server", "date"})


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    #: The Range header; None: there was none.
    range: str | None
    status: int = 0
    #: Number of bytes of the body that were sent.
    sent: int = 0


@dataclass
class Counter:
    """A proxy that counts."""

    port: int
    asked: list[Asked] = field(default_factory=list)
    #: Seconds that each request takes longer.
    delay: float = 0.0
    #: Number of bytes after which the bodies of GET are cut off; None: they are not.
    cut: int | None = None
    #: Whether the first byte of each body is another one than it should be.
    spoil: bool = False
    #: The status that each GET gets instead; 0: it gets what the origin answers.
    fails: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """As if nothing had been asked for, slow or cut off."""
        self.asked.clear()
        self.delay, self.cut, self.spoil, self.fails = 0.0, None, False, 0

    @property
    def gets(self) -> list[Asked]:
        """What was asked for by GET."""
        return [asked for asked in self.asked if asked.method == "GET"]

    @property
    def ranges(self) -> list[str | None]:
        """The ranges that were asked for by GET."""
        return [asked.range for asked in self.gets]

    @property
    def sent(self) -> int:
        """Number of bytes sent in bodies."""
        return sum(asked.sent for asked in self.asked)


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""


class _Proxy(_Server):
    counter: Counter
    upstream: int


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A header and a body of its own would wait for each other's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Proxy

    def handle_any(self) -> None:
        counter = self.server.counter
        asked = Asked(self.command, self.path, self.headers["Range"])
        counter.asked.append(asked)
        time.sleep(counter.delay)
        if counter.fails and self.command == "GET":
            asked.status = counter.fails
            self.send_response(counter.fails)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=30)
        try:
            fields = {name: value for name, value in self.headers.items() if name != "Expect"}
            connection.request(self.command, self.path, body, fields)
            self.answer(asked, connection.getresponse())
        finally:
            connection.close()

    def answer(self, asked: Asked, response: http.client.HTTPResponse) -> None:
        asked.status = response.status
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", response.headers["Content-Length"] or "0")
        self.end_headers()
        cut = self.server.counter.cut if self.command == "GET" else None
        while block := response.read(65536):
            if self.server.counter.spoil and not asked.sent:
                block = bytes([block[0] ^ 1]) + block[1:]
            if cut is not None:
                block = block[: cut - asked.sent]
            self.wfile.write(block)
            self.wfile.flush()
            asked.sent += len(block)
            if cut is not None and asked.sent >= cut:
                self.close_connection = True
                return

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def log_message(self, *args: Any) -> None:
        """The requests are noted elsewhere."""

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815


@contextmanager
def counting(upstream: int) -> Iterator[Counter]:
    """A counting proxy in front of this port."""
    with _Proxy(("127.0.0.1", 0), _Handler) as proxy:
        proxy.counter, proxy.upstream = Counter(proxy.server_port), upstream
        loop = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
        loop.start()
        try:
            yield proxy.counter
        finally:
            proxy.shutdown()
            loop.join(20)


@contextmanager
def store(log: Path) -> Iterator[Counter]:
    """An S3 server with one bucket, and what it is asked for."""
    with presigned.store(log) as server, counting(server.port) as counter:
        yield counter


class _File(http.server.BaseHTTPRequestHandler):
    """Serves one file, with one range or whole.

    Always whole: with ``/whole`` in its path, and with ``/none``, where the header says so.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    data: bytes

    def do_GET(self) -> None:
        data, wanted = self.data, self.headers["Range"]
        start, stop = 0, len(data)
        path = urlsplit(self.path).path
        ranges = not {"whole", "none"} & set(path.split("/"))
        if wanted is not None and ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first)
            stop = min(int(last or stop) + 1, stop)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(stop - start))
        if "/whole" not in path:
            self.send_header("Accept-Ranges", "bytes" if ranges else "none")
        self.send_header("ETag", '"origin"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start:stop])

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def origin(data: bytes) -> Iterator[Counter]:
    """An HTTP server with these bytes at each path, and what it is asked for."""
    handler = type("Handler", (_File,), {"data": data})
    with _Server(("127.0.0.1", 0), handler) as server:
        loop = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        loop.start()
        try:
            with counting(server.server_port) as counter:
                yield counter
        finally:
            server.shutdown()
            loop.join(20)
