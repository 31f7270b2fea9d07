"""waitress's buffer when sending has to wait or fails."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("h11")

from client import Client
from ports import serving, wait_until_full
from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected
from waitress.parser import HTTPRequestParser
from waitress.task import ErrorTask

from wsgifile import FileWrapper, FileWrapperMiddleware, Transfer, sockets
from wsgifile.servers import waitress
from wsgifile.threads import Pool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DATA = os.urandom(300_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as if nothing were in memory, and as if the main loop sent everything."""
    monkeypatch.setattr("wsgifile.page_cache.is_resident", lambda *args: False)
    init = waitress.Buffer.__init__

    def init_without_worker(self: waitress.Buffer, *args: Any) -> None:
        init(self, *args)
        self._worker = 0

    monkeypatch.setattr(waitress.Buffer, "__init__", init_without_worker)


def app_for(make: Callable[[], Any], seen: list[Transfer]) -> FileWrapperMiddleware:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return make()

    return FileWrapperMiddleware(app, on_sent=seen.append)


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check(path: Path, sender: str = "wsgi.file_wrapper") -> None:
    """Check that the whole file arrives, by that sender."""
    seen: list[Transfer] = []
    with serving(app_for(lambda: open(path, "rb"), seen)) as port, Client(port) as client:
        for _ in range(2):
            answer = client.get("/")
            assert (answer.body, answer.short) == (DATA, False)
        wait_for(lambda: len(seen) == 2)
    assert {(told.sender, told.sent) for told in seen} == {(sender, len(DATA))}


def test_a_socket_that_is_full_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    send_some = sockets.send_some

    def full(*args: Any, **kwargs: Any) -> int:
        calls.append(1)
        if len(calls) % 2:
            raise BlockingIOError
        return send_some(*args, **kwargs)

    monkeypatch.setattr(waitress, "send_some", full)
    check(path)
    assert len(calls) >= 4


def test_without_pread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without os.pread, such as Windows, the file is read by read()."""
    monkeypatch.delattr(os, "pread")
    monkeypatch.setattr("wsgifile.senders._HAS_PREAD", False)
    check(path, "read")


def test_close_that_fails_when_all_is_sent(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If close() fails when all is sent, that is logged, and the connection stays open."""

    def make() -> FileWrapper:
        file = open(path, "rb")

        def close() -> None:
            file.close()
            raise RuntimeError("no")

        wrapper = FileWrapper(file)
        wrapper.close = close  # type: ignore[method-assign]
        return wrapper

    seen: list[Transfer] = []
    with serving(app_for(make, seen)) as port, Client(port) as client:
        for _ in range(2):
            assert client.get("/").body == DATA
        wait_for(lambda: len(seen) == 2)
    assert "closing a file failed" in caplog.text


def test_truncated_where_there_is_no_sendfile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without os.sendfile too, the connection ends where the truncated file ends."""
    monkeypatch.delattr(os, "sendfile")
    seen: list[Transfer] = []

    def make() -> Any:
        return open(path, "rb")

    get = waitress.Buffer.get

    def shrinking(self: Any, *args: Any) -> bytes:
        os.truncate(path, 100_000)
        return get(self, *args)

    monkeypatch.setattr(waitress.Buffer, "get", shrinking)
    with serving(app_for(make, seen)) as port, Client(port) as client:
        answer = client.get("/")
        assert answer.short
        assert answer.body == DATA[:100_000]
        wait_for(lambda: seen)
    assert type(seen[0].error).__name__ == "ShortFileError"


def test_a_client_that_leaves_before_it_is_told_of_its_error() -> None:
    """That is no error of ours. waitress failed, because it logged a path that was not there."""
    request = HTTPRequestParser(Adjustments())
    request.received(b"nonsense\r\n\r\n")
    channel = waitress.Channel.__new__(waitress.Channel)
    channel.__dict__.update(
        adj=Adjustments(),
        connected=True,
        error_task_class=Gone,
        outbuf_lock=threading.Condition(),
        requests=[request],
        requests_lock=threading.Lock(),
        server=SimpleNamespace(pull_trigger=lambda: None),
        total_outbufs_len=0,
    )
    channel.service()
    assert channel.close_when_flushed
    assert channel.requests == []


class Gone(ErrorTask):  # type: ignore[misc]
    def service(self) -> None:
        raise ClientDisconnected


@pytest.mark.usefixtures("cold")
def test_no_thread_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the main loop reads the file itself."""
    monkeypatch.setattr(Pool, "submit", lambda self, job: False)
    check(path)


@pytest.fixture
def held(cold: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An event: the disk answers only once it is set."""
    answers = threading.Event()
    monkeypatch.setattr(waitress, "prefetch", lambda *args: answers.wait(20))
    yield answers
    answers.set()


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[waitress.Buffer]:
    """The buffers that have been asked whether they wait for the disk."""
    buffers: list[waitress.Buffer] = []
    waits = waitress.Buffer._waits

    def noted(self: waitress.Buffer, channel: Any) -> bool:
        buffers.append(self)
        return waits(self, channel)

    monkeypatch.setattr(waitress.Buffer, "_waits", noted)
    return buffers


def test_asked_again_while_the_disk_is_read(
    path: Path, held: threading.Event, buffers: list[waitress.Buffer]
) -> None:
    """A buffer that is asked again while the disk is read sends nothing."""
    seen: list[Transfer] = []
    with serving(app_for(lambda: open(path, "rb"), seen)) as port, Client(port) as client:
        client.send("/")
        wait_for(lambda: buffers and buffers[0]._reading)
        assert buffers[0].get(1000) == b""
        assert buffers[0].sent == 0
        held.set()
        assert client.receive().body == DATA
        wait_for(lambda: seen)


def test_closed_while_the_disk_is_read(
    path: Path, held: threading.Event, buffers: list[waitress.Buffer]
) -> None:
    """If the server is closed while the disk is read, the thread has no main loop to wake."""
    with serving(app_for(lambda: open(path, "rb"), [])) as port, Client(port) as client:
        client.send("/")
        wait_for(lambda: buffers and buffers[0]._reading)
    held.set()
    wait_for(lambda: not buffers[0]._reading)
    assert buffers[0].sent == 0
    buffers[0].close()


def test_the_body_of_the_request_sent_back(path: Path) -> None:
    """waitress keeps an upload in a file, and closes it when the application's thread is done."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.input"]

    sent = DATA * 100  # More than the application's thread would send.
    with (
        serving(FileWrapperMiddleware(app)) as port,
        socket.create_connection(("127.0.0.1", port), 20) as sock,
    ):
        sock.sendall(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent)
        wait_until_full(sock)  # Otherwise it could be all sent before waitress closes the file.
        # Up to the end of the connection, when waitress has closed its own files too.
        head, _, body = sock.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert body == sent


@pytest.mark.parametrize(
    ("wrapped", "sender"), [(False, "read"), (True, "wsgi.file_wrapper")], ids=["plain", "wrapped"]
)
def test_a_close_of_its_own(path: Path, wrapped: bool, sender: str) -> None:
    """It may give back something that belongs to the thread, as without wsgifile."""
    path.write_bytes(DATA * 100)
    seen: list[Transfer] = []
    threads: list[int] = []

    class File(io.FileIO):
        def close(self) -> None:
            threads.append(threading.get_ident())
            super().close()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        threads.append(threading.get_ident())
        file = File(path)
        return environ["wsgi.file_wrapper"](file) if wrapped else file

    with serving(FileWrapperMiddleware(app, on_sent=seen.append)) as port, Client(port) as client:
        assert client.get("/").body == DATA * 100
        wait_for(lambda: seen)
    assert seen[0].sender == sender
    called, closed, *_ = threads
    assert (called == closed) == (not wrapped)
