"""The log and on_sent: how sending a file ended. With waitress where a server matters.

The tests in ``servers/`` check that every server reports the right sender.
"""

from __future__ import annotations

import errno
import gc
import io
import logging
import os
import pickle
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from respond import sends

pytest.importorskip("h11")

from client import Answer, Client
from ports import serving

from wsgifile import FileWrapper, FileWrapperMiddleware, Transfer
from wsgifile import log as wsgifile_log
from wsgifile.blocks import FileReadError, ShortFileError
from wsgifile.recognise import FileSlice
from wsgifile.sockets import sendfile

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

DATA = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def as_if_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as a process that has logged nothing and has no bodies left to collect."""
    gc.collect()
    monkeypatch.setattr(wsgifile_log, "_logged", set())


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return str(path)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """What wsgifile has logged. waitress warns of a queue if the machine is busy."""
    caplog.set_level(logging.DEBUG, "wsgifile")
    return lambda level: [
        record.getMessage()
        for record in caplog.records
        if record.levelno == level and record.name == "wsgifile"
    ]


def ask(
    app: WSGIApplication,
    *,
    path: str = "/",
    closes: int = 1,
    seen: Sequence[Transfer] = (),
    **options: Any,
) -> Answer:
    """Get path from waitress, then wait until seen has as many transfers as closes says."""
    with serving(app) as port, Client(port) as client:
        answer = client.get(path, **options)
        deadline = time.monotonic() + 10
        while len(seen) < closes and seen != ():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return answer


def call(app: WSGIApplication, environ: Any = ()) -> bytes:
    """Call app without a server."""
    body = app({"REQUEST_METHOD": "GET", **dict(environ)}, lambda *args: lambda data: None)
    try:
        return b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def test_transfer(path: str) -> None:
    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    begun = time.perf_counter()
    assert ask(app, path="/x", seen=seen).body == DATA
    [told] = seen
    assert isinstance(told, Transfer)
    assert (told.sender, told.status) == ("wsgi.file_wrapper", "200 OK")
    assert (told.offset, told.count, told.sent) == (0, len(DATA), len(DATA))
    assert told.error is None
    assert 0 < told.seconds < time.perf_counter() - begun
    assert told.environ["PATH_INFO"] == "/x"
    with pytest.raises(AttributeError):
        told.sent = 0  # type: ignore[misc]


def test_one_line_a_response(path: str, log: Callable[[int], list[str]]) -> None:
    for make, headers, message in [
        (lambda: open(path, "rb"), (), r"200 OK: 256000 bytes of '.*/data' by read in \d+\.\d"),
        (lambda: open(path, "rb"), [("Content-Length", "100")], "200 OK: 100 bytes of '.*/data'"),
        (lambda: io.BytesIO(DATA), (), "200 OK: 256000 bytes of <_io.BytesIO .*> by read in"),
    ]:
        before = len(log(logging.DEBUG))
        call(FileWrapperMiddleware(sends(make, *headers)))
        [line] = log(logging.DEBUG)[before:]
        assert re.match(message, line), line


def test_a_file_that_cannot_be_read(log: Callable[[int], list[str]]) -> None:
    class File(io.RawIOBase):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("no")

    seen: list[Transfer] = []
    with pytest.raises(FileReadError) as caught:
        call(FileWrapperMiddleware(sends(File), on_sent=seen.append))
    assert log(logging.WARNING) == [f"{caught.value}: the response is cut off"]
    assert log(logging.DEBUG)[0].endswith(f", ended by {caught.value!r}")
    assert [(told.sent, told.error) for told in seen] == [(0, caught.value)]


def test_nothing_for_other_responses(log: Callable[[int], list[str]]) -> None:
    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: [b"x"]), on_sent=seen.append)
    assert call(app) == b"x"
    assert (seen, log(logging.DEBUG), log(logging.INFO)) == ([], [], [])


def test_info_once(path: str, log: Callable[[int], list[str]]) -> None:
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")))
    with serving(app) as port, Client(port) as client:
        for _ in range(3):
            assert client.get("/").body == DATA
            client.get("/", method="HEAD")
    assert log(logging.INFO) == ["waitress: files are sent by wsgi.file_wrapper"]


def test_warning_for_a_short_file(path: str, log: Callable[[int], list[str]]) -> None:
    seen: list[Transfer] = []
    part = [("Content-Range", "bytes 0-299999/300000"), ("Content-Length", "300000")]
    app = FileWrapperMiddleware(
        sends(lambda: open(path, "rb"), *part, status="206 Partial Content"), on_sent=seen.append
    )
    assert ask(app, seen=seen).short
    assert log(logging.WARNING) == [
        f"{path!r} ended after 256000 of the 300000 bytes promised: the response is cut off",
    ]
    assert (seen[0].sent, seen[0].count) == (256000, 300000)
    assert type(seen[0].error).__name__ == "ShortFileError"


@pytest.mark.parametrize(
    ("headers", "status", "warned"),
    [
        ([("Content-Length", "100")], "200 OK", True),
        ([("Content-Length", "256000")], "200 OK", False),
        ([("Content-Length", "9"), ("Content-Range", "bytes 0-8/256000")], "206 P", False),
        ([], "200 OK", False),
    ],
)
def test_warning_for_a_wrong_length(
    path: str,
    log: Callable[[int], list[str]],
    headers: list[tuple[str, str]],
    status: str,
    warned: bool,
) -> None:
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb"), *headers, status=status))
    call(app)
    call(app, {"REQUEST_METHOD": "HEAD"})
    message = f"Content-Length is 100, but {path!r} has 256000 bytes"
    assert log(logging.WARNING) == [message] * (2 * warned)


def test_warning_for_a_sender_that_gave_up(
    path: str, log: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If os.sendfile gives up, there is one warning per process, and the bytes are right."""

    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "not in this container")

    monkeypatch.setattr(os, "sendfile", refuse)
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")))
    with serving(app) as port, Client(port) as client:
        for _ in range(2):
            assert client.get("/").body == DATA
    [message] = log(logging.WARNING)
    assert (
        message == "os.sendfile gave up, files are read instead: [Errno 1] not in this container"
    )


def test_a_client_that_leaves(path: str, tmp_path: Path) -> None:
    seen: list[Transfer] = []
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 28)
    app = FileWrapperMiddleware(sends(lambda: open(tmp_path / "large", "rb")), on_sent=seen.append)
    with serving(app) as port:
        with Client(port) as client:
            client.send("/")
            received = 0
            while received < 100_000:
                received += len(client.connect().recv(65536))
        deadline = time.monotonic() + 10
        while not seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert seen[0].sent is not None
    assert 0 < seen[0].sent < 1 << 28
    assert seen[0].count == 1 << 28


def test_what_on_sent_raises(path: str, log: Callable[[int], list[str]]) -> None:
    def on_sent(transfer: Transfer) -> None:
        raise RuntimeError("no")

    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=on_sent)
    assert call(app) == DATA
    assert log(logging.ERROR) == ["on_sent failed"]


def test_once(path: str) -> None:
    """on_sent is called once, also if the body is closed twice, or never."""
    seen: list[Transfer] = []
    for make in (lambda: open(path, "rb"), lambda: io.BytesIO(b"small")):
        app = FileWrapperMiddleware(sends(make), on_sent=seen.append)
        body: Any = app({"REQUEST_METHOD": "GET"}, lambda *args: lambda data: None)
        body.close()
        body.close()
        del body
        assert len(seen) == 1
        app({"REQUEST_METHOD": "GET"}, lambda *args: lambda data: None)
        assert len(seen) == 2
        seen.clear()


def test_told_after_close_also_if_that_fails() -> None:
    class File(io.BytesIO):
        def close(self) -> None:
            if not seen:
                raise RuntimeError("no")
            super().close()  # At the second call, when the file is dropped.

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: File(DATA)), on_sent=seen.append)
    with pytest.raises(RuntimeError):
        call(app)
    assert [told.sent for told in seen] == [len(DATA)]


def test_no_secrets(
    path: str, log: Callable[[int], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A request's secrets are neither in the log nor in the repr of a Transfer."""
    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    call(app, {"HTTP_AUTHORIZATION": "SECRET"})
    assert seen[0].environ["HTTP_AUTHORIZATION"] == "SECRET"
    assert "SECRET" not in repr(seen[0])
    assert caplog.records
    for record in caplog.records:
        assert b"SECRET" not in pickle.dumps(record.__dict__)
    assert {seen[0]}


def test_a_file_that_cannot_be_named(log: Callable[[int], list[str]]) -> None:
    class File(io.BytesIO):
        @property
        def name(self) -> None:
            raise RuntimeError("no")

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: File(DATA)), on_sent=seen.append)
    assert call(app) == DATA
    assert log(logging.ERROR) == ["a file cannot be named"]
    assert len(seen) == 1


def test_one_line(log: Callable[[int], list[str]]) -> None:
    """An error's text cannot forge a line of the log."""

    class File(io.RawIOBase):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone\nINFO forged \x1b[2J")

    with pytest.raises(FileReadError):
        call(FileWrapperMiddleware(sends(File)))
    for message in log(logging.WARNING) + log(logging.DEBUG):
        assert message.isprintable()
        assert "forged" in message


@pytest.mark.parametrize("size", [len(DATA), 100])
def test_wrapper_of_an_unknown_server(
    path: str, log: Callable[[int], list[str]], size: int
) -> None:
    """What an unknown server's wrapper reads is counted, and a short file raises in it."""

    class Wrapper:
        def __init__(self, filelike: Any, block_size: int) -> None:
            self.filelike = filelike
            self.close = filelike.close

        def __iter__(self) -> Iterator[bytes]:
            os.truncate(path, size)
            return iter(lambda: self.filelike.read(8192), b"")

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb", 0)), on_sent=seen.append)
    if size == len(DATA):
        assert call(app, {"wsgi.file_wrapper": Wrapper}) == DATA
    else:
        with pytest.raises(ShortFileError):
            call(app, {"wsgi.file_wrapper": Wrapper})
        assert len(log(logging.WARNING)) == 1
    [told] = seen
    assert (told.sender, told.sent) == ("wsgi.file_wrapper", size)
    assert isinstance(told.error, ShortFileError) == (size == 100)


def test_wrapper_of_an_unknown_server_that_asks_for_the_descriptor(path: str) -> None:
    class Wrapper:
        def __init__(self, filelike: Any, block_size: int) -> None:
            self.blocks = [os.pread(filelike.fileno(), len(DATA), 0)]
            self.close = filelike.close

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.blocks)

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    assert call(app, {"wsgi.file_wrapper": Wrapper}) == DATA
    assert [told.sent for told in seen] == [None]


def test_wrapper_of_an_unknown_server_that_raises(path: str) -> None:
    closes = []

    def make() -> Any:
        file: Any = open(path, "rb")
        wrapper: Any = FileWrapper(file)
        wrapper.close = lambda: closes.append(file.close())
        return wrapper

    def wrapper(filelike: object, block_size: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        call(FileWrapperMiddleware(sends(make)), {"wsgi.file_wrapper": wrapper})
    assert closes == [None]


def test_disk_that_fails(
    path: str, log: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is reported as one of the file, not as a client that has left."""

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    monkeypatch.setattr(os, "sendfile", fail)
    monkeypatch.setattr(os, "pread", fail)
    assert ask(app, seen=seen).short
    message = f"reading {path!r} failed: [Errno 5] Input/output error"
    assert log(logging.WARNING) == [f"{message}: the response is cut off"]
    assert (seen[0].sent, str(seen[0].error)) == (0, message)


def test_disk_that_fails_of_sendfile(
    path: str, log: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    ours, theirs = socket.socketpair()
    with open(path, "rb") as file, ours, theirs:
        monkeypatch.setattr(os, "sendfile", fail)
        assert list(sendfile(ours, FileSlice(file, 0, 10), 60)) == []
    assert log(logging.WARNING) == []


def test_inside_of_another(path: str) -> None:
    """The inner middleware does not know how much was sent; HEAD keeps its Content-Length."""
    inside: list[Transfer] = []
    outside: list[Transfer] = []
    inner = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=inside.append)
    app = FileWrapperMiddleware(inner, on_sent=outside.append)
    assert call(app) == DATA
    assert [told.sent for told in outside] == [len(DATA)]
    assert [told.sent for told in inside] == [None]
    headers: list[tuple[str, str]] = []

    def start_response(status: str, fields: Any, exc_info: Any = None) -> Any:
        headers.extend(fields)

    body: Any = app({"REQUEST_METHOD": "HEAD"}, start_response)
    body.close()
    assert ("Content-Length", str(len(DATA))) in headers
