"""waitress sends what other threads read: no thread is held, and the main loop does not wait."""

from __future__ import annotations

import io
import operator
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("h11")

from client import Answer, Client
from ports import serving
from test_read_ahead import Source, wait_until
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

from wsgifile import FileWrapperMiddleware, Transfer
from wsgifile.servers import waitress
from wsgifile.threads import Pool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: More than the sockets and waitress's own buffers take.
DATA = os.urandom(1 << 20) * 32


class Site:
    """Answers /ping at once, and else by a source with Content-Length."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.sources: list[Any] = []
        self.seen: list[Transfer] = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/ping":
            start_response("200 OK", [("Content-Length", "4")])
            return [b"pong"]
        start_response("200 OK", [("Content-Length", str(len(DATA)))])
        self.sources.append(self.make())
        return environ["wsgi.file_wrapper"](self.sources[-1])

    @property
    def app(self) -> FileWrapperMiddleware:
        return FileWrapperMiddleware(
            self, read_ahead=2, block_size=1 << 20, on_sent=self.seen.append
        )

    @property
    def closed(self) -> int:
        return sum(len(source.closes) for source in self.sources)

    def wait_until_over(self) -> Transfer:
        """The only response."""
        wait_until(lambda: self.seen and self.closed)
        assert self.closed == 1
        [transfer] = self.seen
        return transfer


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The buffers that the channels of waitress get."""
    buffers: list[Any] = []
    init = waitress.BlockBuffer.__init__

    def noted(self: waitress.BlockBuffer, send: Any, server: Any) -> None:
        buffers.append(self)
        init(self, send, server)

    monkeypatch.setattr(waitress.BlockBuffer, "__init__", noted)
    return buffers


def fast(
    data: bytes = DATA, error: Exception | None = None, kind: type[Source] = Source
) -> Source:
    source = kind(data, error)
    source.open_wide()
    return source


def slow(reads: int) -> Source:
    """It answers so many reads, and waits at the next one."""
    source = Source(DATA)
    source.let.release(reads)
    return source


def fetch(client: Client) -> Answer:
    client.send("/")
    return client.receive(1 << 18)


def ping(port: int) -> None:
    with Client(port) as client:
        assert client.get("/ping").body == b"pong"


def began(site: Site, number: int) -> bool:
    return len(site.sources) > number


def ended(site: Site, number: int) -> bool:
    return len(site.seen) == number


def test_slow_clients_hold_no_thread() -> None:
    site = Site(fast)
    with serving(site.app, threads=1) as port, ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.send("/")
            wait_until(partial(began, site, number))
            ping(port)
        # No more is read than the client takes.
        assert all(source.file.tell() < len(DATA) for source in site.sources)
        assert all(client.receive(1 << 18).body == DATA for client in clients)
        wait_until(lambda: len(site.seen) == 3)
    assert [len(source.closes) for source in site.sources] == [1, 1, 1]
    assert {(told.sender, told.sent, told.error) for told in site.seen} == {
        ("read", len(DATA), None)
    }


class Named(io.BytesIO):
    """A sub-class that changes nothing."""


@pytest.mark.parametrize(
    "kind", ["memory", "named memory", "file", "ranges of memory", "ranges of a file"]
)
def test_slow_clients_of_local_files(
    kind: str, tmp_path: Path, buffers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They too hold no thread, on a file system that may block the main loop, and as ranges."""
    monkeypatch.setattr(waitress, "may_block", lambda fd: True)
    path = tmp_path / "data"
    path.write_bytes(DATA)
    files: list[Any] = []
    seen: list[Transfer] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/ping":
            return [b"pong"]
        memory = Named if "named" in kind else io.BytesIO
        files.append(memory(DATA) if "memory" in kind else open(path, "rb"))
        return files[-1]

    half = len(DATA) // 2
    wanted = (("Range", f"bytes=0-{half},{half + 1000}-"),) if "ranges" in kind else ()
    with (
        serving(FileWrapperMiddleware(app, on_sent=seen.append), threads=1) as port,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(port)) for _ in range(3)]
        for client in clients:
            client.send("/", headers=wanted)
            ping(port)
        wait_until(lambda: len(buffers) == len(clients))
        for client in clients:
            body = client.receive(1 << 18).body
            if wanted:
                assert DATA[: half + 1] in body
                assert DATA[half + 1000 :] in body
            else:
                assert body == DATA
        wait_until(lambda: len(seen) == 3)
    assert all(file.closed for file in files)
    assert {told.sender for told in seen} == {"read"}


def test_a_slow_source_stops_nobody() -> None:
    """Not the thread, nor the main loop."""
    site = Site(lambda: slow(2))
    with serving(site.app, threads=1) as port, Client(port) as client:
        client.send("/")
        wait_until(lambda: site.sources and len(site.sources[0].sizes) == 3)
        ping(port)
        site.sources[0].open_wide()
        assert client.receive(1 << 18).body == DATA
        assert site.wait_until_over().sent == len(DATA)
        # The connection is kept.
        assert client.get("/ping").body == b"pong"


def test_waiting_for_the_source_is_no_fault_of_the_client(buffers: list[Any]) -> None:
    """waitress closes a channel that has been idle for channel_timeout. This one is not."""
    site = Site(lambda: slow(2))
    with serving(site.app) as port, Client(port) as client:
        client.send("/")
        wait_until(lambda: site.sources and len(site.sources[0].sizes) == 3)
        buffers[0]._channel.last_activity = 0.0
        wait_until(lambda: buffers[0]._channel.last_activity)
        site.sources[0].open_wide()
        assert client.receive(1 << 18).body == DATA


def test_it_ends_with_the_server(buffers: list[Any]) -> None:
    """The thread that reads then has no main loop to wake."""
    site = Site(lambda: slow(2))
    with serving(site.app) as port, Client(port) as client:
        client.send("/")
        wait_until(lambda: site.sources and len(site.sources[0].sizes) == 3)
    assert not buffers[0]._channel.connected
    site.sources[0].open_wide()
    told = site.wait_until_over()
    assert told.sent is not None
    assert 0 < told.sent < len(DATA)


@pytest.mark.parametrize("error", [ValueError("the store has gone"), OSError(5, "unplugged")])
def test_it_fails_later(error: Exception, buffers: list[Any]) -> None:
    """The connection ends, and all are told."""

    site = Site(partial(fast, DATA[:100_000], error))
    with serving(site.app) as port, Client(port) as client:
        answer = fetch(client)
        assert (answer.status, answer.body, answer.short) == (200, DATA[:100_000], True)
        told = site.wait_until_over()
        ping(port)
    # Otherwise a client that took nothing more could stay for ever.
    assert "writable" not in vars(buffers[0]._channel)
    assert told.error is error or (told.error is not None and told.error.__cause__ is error)
    assert told.sent == 100_000


def test_it_fails_at_once() -> None:
    """Nothing has been sent, so the client gets a 500."""

    site = Site(partial(fast, b"", ValueError("no")))
    with serving(site.app) as port, Client(port) as client:
        assert fetch(client).status == 500
        assert str(site.wait_until_over().error) == "no"


def test_it_is_short() -> None:
    site = Site(partial(fast, DATA[:100_000]))
    with serving(site.app) as port, Client(port) as client:
        answer = fetch(client)
        assert (answer.body, answer.short) == (DATA[:100_000], True)
        assert type(site.wait_until_over().error).__name__ == "ShortFileError"


class Exits(Source):
    def read(self, size: int) -> bytes:
        if len(self.sizes) == 2:
            raise SystemExit
        return super().read(size)


def test_what_ends_a_thread_does_not_end_the_main_loop() -> None:
    site = Site(partial(fast, kind=Exits))
    with serving(site.app) as port, Client(port) as client:
        assert fetch(client).short
        error = site.wait_until_over().error
        ping(port)
    assert error is not None
    assert isinstance(error.__cause__, SystemExit)


def test_the_client_leaves_while_it_is_read() -> None:
    """The source is closed once, after the read."""
    site = Site(lambda: slow(2))
    with serving(site.app) as port:
        with Client(port) as client:
            client.send("/")
            wait_until(lambda: site.sources and len(site.sources[0].sizes) == 3)
        site.sources[0].open_wide()
        told = site.wait_until_over()
        assert told.sent is not None
        assert told.sent < len(DATA)
        ping(port)


def test_a_client_that_leaves_leaves_no_memory(buffers: list[Any]) -> None:
    """Its channel lives until the garbage is collected."""
    sources: list[Any] = [fast(), io.BytesIO(DATA)]
    site = Site(sources.pop)
    with serving(site.app) as port:
        for number in (1, 2):
            with Client(port) as client:
                client.send("/")
                wait_until(lambda: buffers and buffers[-1].sent)
            wait_until(partial(ended, site, number))
            buffer = buffers.pop()
            assert (len(buffer._block), getattr(buffer, "_pieces", [])) == (0, [])


def test_a_slow_close_stops_nobody() -> None:
    closing, may_close = threading.Event(), threading.Event()

    class Slow(Source):
        def close(self) -> None:
            closing.set()
            assert may_close.wait(10)
            super().close()

    site = Site(partial(fast, kind=Slow))
    with serving(site.app) as port, Client(port) as client:
        assert fetch(client).body == DATA
        assert closing.wait(10)
        ping(port)
        # The client that has it all may ask for more.
        assert client.get("/ping").body == b"pong"
        may_close.set()
        assert site.wait_until_over().sent == len(DATA)


def test_an_agent_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """on_sent gets the error of the file all the same."""

    def report(app_iter: object, error: BaseException) -> None:
        raise RuntimeError("the agent")

    monkeypatch.setattr("wsgifile.agents.report", report)

    site = Site(partial(fast, DATA[:100_000]))
    with serving(site.app) as port, Client(port) as client:
        assert fetch(client).short
        assert type(site.wait_until_over().error).__name__ == "ShortFileError"


@pytest.mark.parametrize(("kind", "count"), [("memory", 200_000), ("memory", 0), ("file", 0)])
def test_local_bytes_that_are_too_few(kind: str, count: int, tmp_path: Path) -> None:
    """The application says that they are a larger part of something. If none come, it is a 500."""
    seen: list[Transfer] = []
    (tmp_path / "data").write_bytes(DATA[:count])

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        headers = [("Content-Range", "bytes 0-299999/300000"), ("Content-Length", "300000")]
        start_response("206 Partial Content", headers)
        return io.BytesIO(DATA[:count]) if kind == "memory" else open(tmp_path / "data", "rb")

    with (
        serving(FileWrapperMiddleware(app, on_sent=seen.append)) as port,
        Client(port) as client,
    ):
        answer = fetch(client)
        if count:
            assert (answer.status, answer.body, answer.short) == (206, DATA[:count], True)
        else:
            assert answer.status == 500
        wait_until(lambda: seen)
    [told] = seen
    assert (told.sent, type(told.error).__name__) == (count, "ShortFileError")


class Kept(io.BytesIO):
    """The application uses it again."""

    closers: list[int]

    def close(self) -> None:
        self.closers.append(threading.get_ident())


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("wanted", [(), (("Range", "bytes=0-29999999,31000000-31999999"),)])
def test_bytes_in_memory_that_change_later(
    wrapped: bool, wanted: tuple[tuple[str, str], ...], buffers: list[Any]
) -> None:
    """What the application writes when its thread is free is for somebody else."""
    file = Kept(DATA)
    file.closers = []
    threads: list[int] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] == "/ping":
            file.seek(0)
            file.write(bytes(len(DATA)))
            start_response("200 OK", [("Content-Length", "4")])
            return [b"pong"]
        threads.append(threading.get_ident())
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file) if wrapped else file

    with serving(FileWrapperMiddleware(app), threads=1) as port, Client(port) as client:
        client.send("/", headers=wanted)
        if wrapped:
            wait_until(lambda: buffers)
            ping(port)
        body = client.receive(1 << 18).body
        assert (body == DATA) or (
            wanted and DATA[:30_000_000] in body and DATA[31_000_000:] in body
        )
        wait_until(lambda: file.closers)
    # A class with a close() of its own is closed where it was made, as without wsgifile.
    assert (file.closers == threads) == (not wrapped)
    assert bool(buffers) == wrapped


def test_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main loop reads."""
    monkeypatch.setattr(Pool, "submit", lambda self, job: False)
    site = Site(fast)
    with serving(site.app) as port, Client(port) as client:
        assert fetch(client).body == DATA
        assert site.wait_until_over().sent == len(DATA)


def behind_filter(app: WSGIApplication) -> WSGIApplication:
    def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        iterable = app(environ, start_response)
        # This would be the number of its blocks.
        assert operator.length_hint(iterable) == 0
        try:
            yield from iterable
        finally:
            getattr(iterable, "close", lambda: None)()

    return filtered


def test_behind_a_filter() -> None:
    """It iterates. waitress does not know of the source."""
    site = Site(fast)
    with serving(behind_filter(site.app)) as port, Client(port) as client:
        assert fetch(client).body == DATA
        assert site.wait_until_over().sent == len(DATA)


class Own(HTTPChannel):  # type: ignore[misc]
    """Somebody's own, of which we know nothing."""


@pytest.mark.parametrize("case", ["all", "no length", "own channel", "read_ahead=0"])
def test_where_it_is_not_so(
    case: str, buffers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the thread sends."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        length = [] if case == "no length" else [("Content-Length", str(len(DATA)))]
        start_response("200 OK", length)
        return environ["wsgi.file_wrapper"](fast())

    if case == "own channel":
        monkeypatch.setattr(BaseWSGIServer, "channel_class", Own)
    ahead = 0 if case == "read_ahead=0" else 2
    with serving(FileWrapperMiddleware(app, read_ahead=ahead)) as port, Client(port) as client:
        assert fetch(client).body == DATA
    assert len(buffers) == (case == "all")
