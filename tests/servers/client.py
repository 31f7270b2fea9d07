"""A client that reads small pieces and trusts no server: h11 checks the framing."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

with contextlib.suppress(ImportError):  # If h11 is not installed, Client() skips the test.
    import h11


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    #: The names of all fields, including repeated ones.
    names: list[str]
    body: bytes = b""
    #: Whether the connection ended before the body did.
    short: bool = False
    #: Whether another request may follow on the connection.
    reusable: bool = field(default=False, repr=False)


class Client:
    """One connection. It reconnects if the server has closed it."""

    #: Whether to ask the application without the middleware: pytest tests/servers --bare.
    bare = False

    def __init__(self, port: int, timeout: float = 20) -> None:
        pytest.importorskip("h11")
        self.port = port
        self.timeout = timeout
        self.sock: socket.socket | None = None
        self.closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def connect(self) -> socket.socket:
        if self.sock is None:
            self.sock = socket.create_connection(("127.0.0.1", self.port), self.timeout)
            self.h11 = h11.Connection(h11.CLIENT)
        return self.sock

    def still_open(self) -> bool:
        """Whether the server has left the connection open. It must not have sent more."""
        assert self.sock is not None
        readable, _, _ = select.select([self.sock], [], [], 0.001)
        if not readable:
            return True
        try:
            more = self.sock.recv(1)
        except ConnectionResetError:
            more = b""
        assert more == b"", "there are bytes after the end of the body"
        self.close()
        return False

    def send(
        self,
        target: str,
        method: str = "GET",
        version: str = "1.1",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        sock = self.connect()
        if self.bare:
            target = target.replace("/ours/", "/bare/", 1)
        request = h11.Request(
            method=method, target=target, headers=[("Host", "localhost"), *headers]
        )
        sent = self.h11.send(request) + self.h11.send(h11.EndOfMessage())
        sock.sendall(sent.replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1))

    def send_next(self) -> None:
        """Ask for a list of files on the same connection, whatever is still to come on it."""
        assert self.sock is not None
        with contextlib.suppress(OSError):  # The server has ended it.
            self.sock.sendall(b"GET /bare/-/open HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def receive(  # noqa: C901  # a loop over h11's events
        self, piece: int = 3001, *, next_at: int | None = None
    ) -> Answer:
        """The whole answer. Raises RemoteProtocolError for bytes outside of an answer.

        :param next_at: call send_next() when this number of the body's bytes has arrived, unless
            the answer is an error page.
        """
        sock = self.connect()
        answer: Answer | None = None
        kept = False
        body = bytearray()
        while True:
            try:
                event = self.h11.next_event()
            except h11.RemoteProtocolError:
                # A server may close within a body. Anything else is a fault.
                if answer is None or self.h11.their_state is not h11.ERROR or not self.closed:
                    raise
                answer.short = True
                break
            if event is h11.NEED_DATA:
                try:
                    data = sock.recv(piece)
                except ConnectionResetError:
                    data = b""
                self.closed = not data
                self.h11.receive_data(data)
            elif isinstance(event, h11.Response):
                headers = {k.decode().lower(): v.decode() for k, v in event.headers}
                names = [k.decode().lower() for k, _ in event.headers]
                answer = Answer(event.status_code, headers, names)
                # h11 does not know the keep-alive of HTTP/1.0.
                kept = event.http_version == b"1.0" and (
                    headers.get("connection", "").lower() == "keep-alive"
                )
            elif isinstance(event, h11.Data):
                body += event.data
                assert answer is not None
                if next_at is not None and len(body) >= next_at and answer.status < 500:
                    next_at = None
                    self.send_next()
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise AssertionError(f"unexpected {event!r}")
        assert answer is not None
        answer.body = bytes(body)
        if kept and not answer.short:
            assert self.h11.trailing_data[0] == b"", "there are bytes after the end of the body"
            self.h11 = h11.Connection(h11.CLIENT)
            answer.reusable = self.still_open()
            return answer
        answer.reusable = not answer.short and self.h11.their_state is h11.DONE
        if answer.reusable:
            assert self.h11.trailing_data[0] == b"", "there are bytes after the end of the body"
            self.h11.start_next_cycle()
            # Some servers close without a Connection: close.
            answer.reusable = self.still_open()
        else:
            if not answer.short:
                assert self._rest() == b"", "there are bytes after the end of the body"
            self.close()
        return answer

    def receive_length(self) -> tuple[int, bytes]:
        """Length and last 107 bytes of a body that ends with the connection. It may be huge."""
        sock = self.connect()
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(65536)
            assert data, "the connection has ended within the header"
            head += data
        end = head.partition(b"\r\n\r\n")[2]
        length = len(end)
        while data := sock.recv(1 << 20):
            length += len(data)
            end = (end + data)[-107:] if len(data) < 107 else data[-107:]
        self.close()
        return length, end

    def _rest(self) -> bytes:
        assert self.sock is not None
        rest: bytes = self.h11.trailing_data[0]
        try:
            while data := self.sock.recv(65536):
                rest += data
        except ConnectionResetError:
            pass
        return rest

    def get(self, target: str, **kwargs: Any) -> Answer:
        reused = self.sock is not None
        try:
            self.send(target, **kwargs)
            return self.receive()
        except (h11.RemoteProtocolError, BrokenPipeError):
            # A server may close between two requests, when it is too late to announce that.
            if not reused or self.h11.trailing_data[0] or not self.closed:
                raise
        self.close()
        self.send(target, **kwargs)
        return self.receive()


def open_files(port: int) -> list[str]:
    """Those files of the tests that are open in the process of the server."""
    with Client(port) as client:
        names: list[str] = json.loads(client.get("/bare/-/open").body)
    return names


def events(port: int, *, closes: int) -> list[list[Any]]:
    """The events in the process of the server since the last call, with that many closes.

    Twisted does not call close() after an error. Behind a filter, the body is then closed when it
    is dropped, for which the garbage collector may be needed.
    """
    seen: list[list[Any]] = []
    deadline = time.monotonic() + (2 if Client.bare else 10)
    while True:
        with Client(port) as client:
            if time.monotonic() > deadline - 1:
                client.get("/bare/-/collect")
            answer = client.get("/bare/-/events")
        seen += json.loads(answer.body)
        if seen.count(["close"]) >= closes:
            return seen
        assert time.monotonic() < deadline, f"close() was not called: {seen}"
        time.sleep(0.02)
