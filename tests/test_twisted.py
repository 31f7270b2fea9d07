"""Twisted waits for a client that falls behind, in place of reading on into memory."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ports import free_port, running
from test_pipelining import Pipeline, wait_for

from wsgifile import FileWrapperMiddleware, Transfer
from wsgifile.servers import twisted
from wsgifile.threads import Pool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

pytest.importorskip("twisted")

DATA = random.Random(16).randbytes(32 << 20)
#: What the two sockets hold at most, and what is read ahead.
AHEAD = 12 << 20


class Reads(io.BytesIO):
    """A file-like object that has no descriptor. It has to be read by the application's thread."""

    name = "reads"

    def read(self, size: int | None = -1) -> bytes:
        assert threading.current_thread().name.startswith("PoolThread")
        return super().read(size)

    read1 = read


class App:
    """Answers by what make() returns; /ping is answered at once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.files: list[Any] = []
        self.seen: list[Transfer] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/ping":
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
        what = "\u2603" if environ["PATH_INFO"] == "/snowman" else "data"
        start_response("200 OK", [("Content-Length", str(len(DATA))), ("X-What", what)])
        file = self.make()
        self.files.append(file)
        return self.wrapped(file, environ)

    def wrapped(self, file: Any, environ: WSGIEnvironment) -> Any:
        return environ["wsgi.file_wrapper"](file)

    def check_alive(self, port: int) -> None:
        """A small request on another connection is answered."""
        with Pipeline(port) as client:
            client.send("GET /ping")
            assert client.receive() == (200, b"ok")

    def wait_until_stalled(self, port: int) -> None:
        """Return when no file is read any further.

        The sockets take more in steps: a receiver may acknowledge what it has after 40 ms.
        """
        before, until = None, 0.0
        while True:
            now = [file.closed or file.tell() for file in self.files]
            if now != before:
                before, until = now, time.monotonic() + 0.5
            elif time.monotonic() > until:
                return
            self.check_alive(port)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


@pytest.fixture(scope="module")
def reactor() -> Iterator[Any]:
    """The process's only one, in a thread. It can be started once."""
    from twisted.internet import reactor as typed
    from twisted.logger import globalLogBeginner

    reactor: Any = typed
    # Until then Twisted keeps what is logged, and so the files of failed requests.
    ignore: Any = lambda event: None  # noqa: E731
    globalLogBeginner.beginLoggingTo([ignore], redirectStandardIO=False)
    thread = threading.Thread(target=reactor.run, args=(False,), daemon=True)
    thread.start()
    yield reactor
    reactor.callFromThread(reactor.stop)
    thread.join(20)
    assert not thread.is_alive()


Serve = Callable[..., Any]


@pytest.fixture
def serve(reactor: Any) -> Serve:
    """``with serve(app, threads) as port``."""
    from twisted.internet.threads import blockingCallFromThread
    from twisted.python.threadpool import ThreadPool
    from twisted.web.server import Site
    from twisted.web.wsgi import WSGIResource

    @contextmanager
    def serving(app: App, threads: int = 4) -> Iterator[int]:
        pool = ThreadPool(1, threads)
        pool.start()
        middleware = FileWrapperMiddleware(app, on_sent=app.seen.append)
        site = Site(WSGIResource(reactor, pool, middleware))
        port = blockingCallFromThread(reactor, reactor.listenTCP, 0, site, interface="127.0.0.1")
        try:
            yield port.getHost().port
            wait_for(lambda: all(file.closed for file in app.files))
        finally:
            blockingCallFromThread(reactor, port.stopListening)
            pool.stop()

    return serving


def makers(path: Path) -> dict[str, Callable[[], Any]]:
    return {"file": lambda: open(path, "rb"), "reads": lambda: Reads(DATA)}


@pytest.mark.parametrize("kind", ["file", "reads"])
def test_a_stalled_client(path: Path, serve: Serve, kind: str) -> None:
    """Little is read for it before it goes on; then it gets everything, and the next response."""
    app = App(makers(path)[kind])
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /", "GET /ping", "GET /", "GET /ping")
        for _ in range(2):
            app.wait_until_stalled(port)
            assert app.files[-1].tell() < AHEAD
            assert client.receive() == (200, DATA)
            assert client.receive() == (200, b"ok")
    assert [(told.sent, told.error, told.sender) for told in app.seen] == [
        (len(DATA), None, "read")
    ] * 2


def test_many_stalled_clients(path: Path, serve: Serve) -> None:
    """A file on disk holds no thread, so two of them are enough."""
    app = App(lambda: open(path, "rb"))
    with serve(app, threads=2) as port, ExitStack() as stack:
        clients = [stack.enter_context(Pipeline(port)) for _ in range(20)]
        for client in clients:
            client.send("GET /", "GET /")
            app.check_alive(port)
        app.wait_until_stalled(port)
        assert len(app.files) == 20
        assert all(file.tell() < AHEAD for file in app.files)
        for client in clients[::6]:
            assert client.receive() == (200, DATA)
            assert client.receive() == (200, DATA)


def test_what_must_be_read_holds_half_of_the_threads(serve: Serve) -> None:
    """The others go on without waiting, as without wsgifile, and so are there for others."""
    app = App(lambda: Reads(DATA))
    with serve(app, threads=4) as port, ExitStack() as stack:
        clients = [stack.enter_context(Pipeline(port)) for _ in range(5)]
        # The first two hold their threads before the others come. Otherwise a thread that goes
        # on could begin to wait late, in place of one whose client has taken something.
        for client in clients[:2]:
            client.send("GET /")
        wait_for(lambda: len(app.files) == 2)
        app.wait_until_stalled(port)
        for client in clients[2:]:
            client.send("GET /")
        wait_for(lambda: sum(file.closed for file in app.files) == 3)
        app.wait_until_stalled(port)
        assert [file.closed for file in app.files] == [False, False, True, True, True]
        assert all(file.tell() < AHEAD for file in app.files[:2])
        for client in clients:
            assert client.receive() == (200, DATA)


@pytest.mark.parametrize("kind", ["file", "reads"])
@pytest.mark.parametrize("takes", [0, 1000, 8 << 20])
def test_a_client_that_leaves(path: Path, serve: Serve, kind: str, takes: int) -> None:
    """The file is closed, and no thread waits any longer."""
    app = App(makers(path)[kind])
    with serve(app, threads=2) as port:
        for _ in range(3):
            with Pipeline(port) as client:
                client.send("GET /", "GET /ping")
                while takes and len(client.rest) < takes:
                    client.rest += client.sock.recv(65536)
            wait_for(lambda: all(file.closed for file in app.files))
        app.check_alive(port)
        wait_for(lambda: len(app.seen) == len(app.files))
    for told in app.seen:
        assert told.sent is not None
        assert told.sent < len(DATA)


def test_a_client_that_leaves_while_the_disk_is_read(
    path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is closed when it has been read."""
    reading, left = threading.Event(), threading.Event()
    read, stop = twisted.Producer._read, twisted.Producer.stopProducing

    def held(self: twisted.Producer) -> None:
        reading.set()
        assert left.wait(10)
        read(self)

    def noted(self: twisted.Producer, reason: object = None) -> None:
        stop(self, reason)
        left.set()

    monkeypatch.setattr(twisted.Producer, "_read", held)
    monkeypatch.setattr(twisted.Producer, "stopProducing", noted)
    app = App(lambda: open(path, "rb"))
    with serve(app) as port:
        with Pipeline(port) as client:
            client.send("GET /")
            assert reading.wait(10)
        wait_for(lambda: app.seen and app.files[0].closed)
        app.check_alive(port)


@pytest.mark.parametrize("kind", ["file", "reads"])
def test_a_client_that_never_reads(
    path: Path, serve: Serve, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not wait for ever."""
    monkeypatch.setattr("wsgifile.servers.twisted._PATIENCE", 1.0)
    app = App(makers(path)[kind])
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /", "GET /ping")
        wait_for(lambda: app.files and app.files[0].closed)
        client.wait_until_closed()


def test_a_slow_client_is_not_one_that_never_reads(
    path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgifile.servers.twisted._PATIENCE", 0.3)
    app = App(lambda: open(path, "rb"))
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /")
        while len(client.rest) < 24 << 20:
            for _ in range(32):
                client.rest += client.sock.recv(65536)
            time.sleep(0.01)
        assert client.receive() == (200, DATA)


def test_a_file_that_runs_short(path: Path, serve: Serve) -> None:
    """The connection ends at once, within that response."""
    app = App(lambda: open(path, "rb"))
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /", "GET /ping")
        app.wait_until_stalled(port)
        os.truncate(path, 20 << 20)
        assert client.receive() == (200, DATA[: 20 << 20])
        assert client.sock.recv(1) == b""
    assert type(app.seen[0].error).__name__ == "ShortFileError"
    assert app.seen[0].sent == 20 << 20


def test_a_file_that_somebody_closes(
    path: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(lambda: open(path, "rb"))
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /", "GET /ping")
        app.wait_until_stalled(port)
        app.files[0].close()
        status, body = client.receive()
        assert (status, body) == (200, DATA[: len(body)])
        assert len(body) < len(DATA)
        assert client.sock.recv(1) == b""
        wait_for(lambda: app.seen)
    assert type(app.seen[0].error) is ValueError
    assert "a file cannot be sent" in caplog.text


def test_no_thread_to_read_with(path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reactor reads by itself."""
    monkeypatch.setattr(Pool, "submit", lambda self, job: False)
    app = App(lambda: open(path, "rb"))
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /", "GET /ping")
        assert client.receive() == (200, DATA)
        assert client.receive() == (200, b"ok")


class Closing(App):
    """Its close() may need the thread in which the application was called."""

    def wrapped(self, file: Any, environ: WSGIEnvironment) -> Any:
        from werkzeug.wsgi import ClosingIterator

        def close() -> None:
            assert threading.current_thread().name.startswith("PoolThread")
            file.close()

        return ClosingIterator(file, close)


@pytest.mark.parametrize("why", ["a slow file system", "close()"])
def test_what_stays_with_the_thread(
    path: Path, serve: Serve, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application's thread reads it, and waits for the client."""
    if why == "close()":
        pytest.importorskip("werkzeug")
        app: App = Closing(lambda: open(path, "rb"))
    else:
        monkeypatch.setattr("wsgifile.servers.twisted.may_block", lambda fd: True)
        app = App(lambda: open(path, "rb"))
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /")
        app.wait_until_stalled(port)
        assert app.files[0].tell() < AHEAD
        assert client.receive() == (200, DATA)


def test_a_header_that_twisted_refuses(path: Path, serve: Serve) -> None:
    """The connection ends, as without wsgifile."""
    app = App(lambda: open(path, "rb"))
    with serve(app) as port, Pipeline(port) as client:
        client.send("GET /snowman", "GET /ping")
        assert client.sock.recv(1) == b""


SCRIPT = """
import gzip, sys
from twisted.internet import reactor
from twisted.web.server import Site
from twisted.web.wsgi import WSGIResource
from wsgifile import FileWrapperMiddleware

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return gzip.open(sys.argv[2]) if environ["PATH_INFO"] == "/gzip" else open(sys.argv[2], "rb")

resource = WSGIResource(reactor, reactor.getThreadPool(), FileWrapperMiddleware(app))
reactor.listenTCP(int(sys.argv[1]), Site(resource), interface="127.0.0.1")
reactor.run()
"""


@pytest.mark.parametrize("target", ["/plain", "/gzip"])
def test_the_reactor_ends(tmp_path: Path, target: str) -> None:
    """It waits for no thread that waits for a client."""
    path, log = tmp_path / "data.gz", tmp_path / "log"
    path.write_bytes(gzip.compress(DATA, 0))
    port = free_port()
    command = [sys.executable, "-c", SCRIPT, str(port), str(path)]
    with ExitStack() as clients, running(command, port, log):
        for _ in range(6):
            client = clients.enter_context(Pipeline(port))
            client.send("GET " + target)
            assert client.sock.recv(1) == b"H"
    assert "Traceback" not in log.read_text()


def test_client_that_leaves_before_the_reactor_goes_on() -> None:
    """There is no channel any more, and the file is closed."""
    closed = threading.Event()
    body: Any = SimpleNamespace(sent=1, close=closed.set)
    timer = SimpleNamespace(active=lambda: False)
    response = SimpleNamespace(
        request=SimpleNamespace(channel=None),
        reactor=SimpleNamespace(callLater=lambda *args: timer),
    )
    twisted.Producer(body, response).start()
    assert closed.wait(20)
