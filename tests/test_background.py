"""Sending in the background: every call that can fail, and every way to end."""

from __future__ import annotations

import _thread
import asyncio
import errno
import io
import os
import select
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from regions import region_of

from wsgifile import background, client, page_cache, sockets
from wsgifile.background import Grace, Rest, default_limit, take
from wsgifile.body import Body
from wsgifile.client import Client, Descriptor
from wsgifile.plan import Plan
from wsgifile.recognise import FileSlice
from wsgifile.send import Send, Watch
from wsgifile.senders import SendfileBody, open_body
from wsgifile.server import Server
from wsgifile.sockets import SocketKind, queued, sendfile
from wsgifile.threads import pool
from wsgifile.transfer import Declined, Transfer

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll")

#: More than a socketpair takes at once.
SIZE = 2_000_003
DATA = bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256)


class Direct(Server):
    """A server that iterates itself, on one end of a socketpair."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({}, lambda *args: sock.sendall)
        self.sock = sock
        self.write = sock.sendall
        self.counted = 0
        self.ended = False

    def socket(self) -> Any:
        return self.sock

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        return True

    def count_sent(self, count: int) -> None:
        self.counted += count

    def end_connection(self) -> None:
        self.ended = True


class Transfers:
    """The on_sent of a test, which waits for its call."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.transfer: Any = None

    def __call__(self, transfer: Transfer) -> None:
        assert not self.called.is_set()
        self.transfer = transfer
        self.called.set()

    def wait(self) -> Transfer:
        assert self.called.wait(20), "on_sent was not called"
        transfer: Transfer = self.transfer
        return transfer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No delivery, no descriptor and no epoll, whatever has happened."""
    before = descriptors()
    monkeypatch.setattr(background, "_TICK", 0.05)
    monkeypatch.setattr(background, "_LINGER", 0.2)
    monkeypatch.setattr(client, "_PATIENCE", 0.01)
    yield
    until(lambda: background._sender._epoll is None)
    assert not background._sender._deliveries
    until(lambda: len(descriptors()) <= len(before))


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def body_of(
    filelike: Any,
    server: Server,
    on_sent: Callable[[Transfer], object] | None = None,
    *,
    parts: tuple[Any, ...] | None = None,
    limit: int = 10,
    timeout: float = 20,
) -> Any:
    region = region_of(filelike)
    plan = Plan("200 OK", [], parts or ((region.start, region.end),), True)
    watch = None if on_sent is None else Watch({"wsgi.version": (1, 0)}, on_sent, False)
    send = Send(
        filelike,
        region,
        plan,
        block_size=1 << 16,
        read_ahead=0,
        watch=watch,
        send_timeout=timeout,
        background=limit,
    )
    return open_body(send, server)


def received(sock: socket.socket) -> bytes:
    blocks = []
    while block := sock.recv(1 << 16):
        blocks.append(block)
    return b"".join(blocks)


def exactly(sock: socket.socket, count: int) -> bytes:
    blocks = b""
    while len(blocks) < count:
        blocks += sock.recv(count - len(blocks))
    return blocks


def serve(body: Any, sock: socket.socket) -> None:
    """What a server does with a body: it sends and closes it, and ends the connection."""
    try:
        for block in body:
            sock.sendall(block)
    finally:
        body.close()
        sock.close()


def test_leaves(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    """The worker is free with the file closed, and the client gets the rest."""
    ours, theirs = pair
    server, on_sent = Direct(ours), Transfers()
    file = open(path, "rb")
    body = body_of(file, server, on_sent)
    assert type(body) is SendfileBody
    assert b"".join(body) == b""
    body.close()
    assert file.closed
    assert server.ended
    assert (server.counted, ours.getblocking()) == (SIZE, True)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == bytes(16)
    assert not on_sent.called.is_set()
    assert ours.recv(1) == b""  # The dummy.
    ours.close()
    assert received(theirs) == DATA
    transfer = on_sent.wait()
    assert (transfer.sender, transfer.sent, transfer.count) == ("background", SIZE, SIZE)
    assert (transfer.error, transfer.environ) == (None, {"wsgi.version": (1, 0)})


@pytest.mark.parametrize("kind", ["memory", "several", "several_in_memory"])
def test_leaves_what_is_no_slice(
    path: Path, pair: tuple[socket.socket, socket.socket], kind: str
) -> None:
    """Bytes in memory, and several ranges with bytes of ours between them."""
    ours, theirs = pair
    parts: tuple[Any, ...] = (b"one", (5, 1_000_000), b"two", (1_000_001, SIZE), b"end")
    expected = b"one" + DATA[5:1_000_000] + b"two" + DATA[1_000_001:] + b"end"
    if kind == "memory":
        parts, expected = ((0, SIZE),), DATA
    on_sent = Transfers()
    file: Any = open(path, "rb") if kind == "several" else io.BytesIO(DATA)
    body = body_of(file, Direct(ours), on_sent, parts=parts)
    assert type(body) is Body
    serve(body, ours)
    assert file.closed
    assert received(theirs) == expected
    assert on_sent.wait().sent == len(expected)


class Unknown(Direct):
    """Its socket has no such option."""

    def client(self, timeout: float) -> Client | None:
        fail = failing(OSError(errno.EINVAL, "Invalid argument"))
        options = SimpleNamespace(getsockopt=fail, setsockopt=fail)
        return Client(self.sock.fileno(), options, timeout, self.alive, kept=False)


def test_leaves_where_sendfile_cannot_wait(
    path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """On a system whose sockets have no timeout of that form."""
    ours, theirs = pair
    on_sent = Transfers()
    body = body_of(open(path, "rb"), Unknown(ours), on_sent)
    assert b"".join(body) == b""
    body.close()
    assert ours.getblocking()
    ours.close()
    assert received(theirs) == DATA
    assert on_sent.wait().sender == "background"


@pytest.mark.parametrize("waits_for", ["client", "disk"])
def test_slow_and_steady(path: Path, monkeypatch: pytest.MonkeyPatch, waits_for: str) -> None:
    """A client that never takes long, but holds the worker for longer than all may wait.

    It does not leave if it is the disk that takes long: then it has nothing left to take.
    """
    monkeypatch.setattr(client, "_PATIENCE", 20.0)
    monkeypatch.setattr(client, "_PATIENCE_IN_ALL", 0.02)
    monkeypatch.setattr(client, "_LONG", 0.001)
    if waits_for == "disk":
        monkeypatch.setattr(client, "queued", lambda fd: 0)
    path.write_bytes(bytes(20_000_000))
    ours, theirs = tcp_pair()
    got: list[int] = []

    def read() -> None:
        while count := len(theirs.recv(1 << 16)):
            got.append(count)
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    on_sent = Transfers()
    with theirs:
        reader.start()
        serve(body_of(open(path, "rb"), Direct(ours), on_sent), ours)
        reader.join(20)
    assert sum(got) == 20_000_000
    assert on_sent.wait().sender == ("background" if waits_for == "client" else "os.sendfile")


def test_nobody_asks(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    serve(body_of(open(path, "rb"), Direct(ours)), ours)
    assert received(theirs) == DATA


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


EMFILE = OSError(errno.EMFILE, "Too many open files")

#: What can fail of a hand-over, and how often it is called before.
CALLS: dict[str, tuple[Any, str, int]] = {
    "epoll": (select, "epoll", 0),
    "register": (background, "_register", 0),
    "dup of the file": (os, "dup", 0),
    "dup of the connection": (os, "dup", 1),
    "socket": (socket, "socket", 0),
    "socketpair": (socket, "socketpair", 0),
    "dup2": (os, "dup2", 0),
}


def stays(
    body: Any, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> Declined:
    """Send by a worker whose client falls behind and then reads all. Why it stays there."""
    ours, theirs = pair
    watch = body.send.watch
    worker = threading.Thread(target=serve, args=(body, ours))
    worker.start()
    until(lambda: dict(watch.declined).get("the background"))
    monkeypatch.undo()
    assert ours.gettimeout() is None
    assert received(theirs) == DATA
    worker.join(20)
    declined: Declined = dict(watch.declined)["the background"]
    return declined


@pytest.mark.parametrize("call", CALLS)
def test_a_call_fails(path: Path, pair: tuple[socket.socket, socket.socket], call: str) -> None:
    """Then nothing was touched: the worker goes on, and the client gets all."""
    owner, name, good = CALLS[call]
    real, calls = getattr(owner, name), iter(range(100))

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        if next(calls) >= good:
            raise EMFILE
        return real(*args, **kwargs)

    on_sent = Transfers()
    body = body_of(open(path, "rb"), Direct(pair[0]), on_sent)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(owner, name, sometimes)
    declined = stays(body, pair, monkeypatch)
    assert declined.reason == f"the connection cannot be taken: {EMFILE}"
    assert (on_sent.wait().sender, on_sent.transfer.sent) == ("os.sendfile", SIZE)


def test_a_call_fails_under_a_default_timeout(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python makes each new socket non-blocking then, and with it the server's."""
    ours, _ = pair
    monkeypatch.setattr(socket, "socketpair", failing(EMFILE))
    rest = Rest(
        ours.fileno(), [memoryview(DATA)], None, 1, 1, 0, print, False, False, lambda: Grace(0)
    )
    socket.setdefaulttimeout(20)
    try:
        assert isinstance(take(rest), Declined)
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(ours.fileno())


class NoThreads:
    def submit(self, job: object) -> bool:
        return False


#: Why a worker goes on by itself: what to change for it.
REASONS: dict[str, tuple[str, str, Any]] = {
    "the connection cannot be taken: no thread can be started": (
        "wsgifile.background",
        "pool",
        lambda purpose: NoThreads(),
    ),
    "this process has no epoll, or its threads are green": (
        "wsgifile.background",
        "is_possible",
        lambda: False,
    ),
    "reading from this file system may block for long": (
        "wsgifile.body",
        "may_block",
        lambda fd: True,
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_declines(path: Path, pair: tuple[socket.socket, socket.socket], reason: str) -> None:
    module, name, value = REASONS[reason]
    body = body_of(open(path, "rb"), Direct(pair[0]), Transfers())
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(f"{module}.{name}", value)
    assert stays(body, pair, monkeypatch).reason == reason


def test_server_ends(
    path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of gunicorn may still send when the worker's temporary file has been closed."""
    monkeypatch.setattr(Direct, "grace", failing(ValueError("I/O operation on closed file")))
    body = body_of(open(path, "rb"), Direct(pair[0]), Transfers())
    reason = stays(body, pair, pytest.MonkeyPatch()).reason
    assert reason == "the connection cannot be taken: I/O operation on closed file"


def test_limit(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    """So many, and no more."""
    ours, theirs = socket.socketpair()
    serve(body_of(open(path, "rb"), Direct(ours), limit=1), ours)
    body = body_of(open(path, "rb"), Direct(pair[0]), Transfers(), limit=1)
    declined = stays(body, pair, pytest.MonkeyPatch())
    assert declined.reason == "1 responses are sent in the background already"
    with theirs:
        assert received(theirs) == DATA


def test_off(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    """Then a client that takes nothing keeps its worker until send_timeout."""
    ours, theirs = pair
    on_sent = Transfers()
    body = body_of(open(path, "rb"), Direct(ours), on_sent, limit=0, timeout=0.1)
    with pytest.raises(TimeoutError):
        serve(body, ours)
    assert (on_sent.wait().sender, type(on_sent.transfer.error)) == ("os.sendfile", TimeoutError)
    assert DATA.startswith(received(theirs))


def test_unsized(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    """What ends with the connection, or in chunks, is the server's to end."""
    body = body_of(open(path, "rb"), Direct(pair[0]), Transfers())
    body.send.plan.sized = False
    assert stays(body, pair, pytest.MonkeyPatch()).reason == "there is no Content-Length"


def test_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not if threads are green: the others would wait for our epoll."""
    assert background.is_possible()
    monkeypatch.setattr(_thread, "start_new_thread", lambda *args: None)
    assert not background.is_possible()


def test_default_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the descriptors, or many; none where there is no limit to ask for."""
    import resource

    limits = {"soft": 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits["soft"], -1))
    assert default_limit() == 256
    limits["soft"] = resource.RLIM_INFINITY
    assert default_limit() == 100_000
    monkeypatch.setitem(sys.modules, "resource", None)
    assert default_limit() == 0


def left(
    path: Path, ours: socket.socket, timeout: float = 20, **options: Any
) -> tuple[Transfers, Any]:
    """A response that is in the background."""
    on_sent = Transfers()
    body = body_of(open(path, "rb"), Direct(ours), on_sent, timeout=timeout, **options)
    serve(body, ours)
    assert body.sender == "background"
    [delivery] = background._sender._deliveries.values()
    return on_sent, delivery


def test_client_leaves(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    on_sent, _ = left(path, ours)
    theirs.close()
    transfer = on_sent.wait()
    assert isinstance(transfer.error, (BrokenPipeError, ConnectionResetError))
    assert transfer.sent is not None
    assert 0 < transfer.sent < SIZE


def test_client_takes_nothing(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    on_sent, _ = left(path, ours, timeout=0.1)
    assert isinstance(on_sent.wait().error, TimeoutError)
    assert DATA.startswith(received(theirs))


def taken(ours: Any, theirs: socket.socket) -> None:
    """Have the client take something, but less than makes the socket take more."""
    before = queued(ours.fileno())
    while queued(ours.fileno()) >= before:
        assert theirs.recv(1 << 16)
    poll = select.poll()
    poll.register(ours, select.POLLOUT)
    assert not poll.poll(0)


def test_client_takes_little(path: Path) -> None:
    """That is something, although the socket does not take more yet."""
    path.write_bytes(bytes(20_000_000))
    ours, theirs = tcp_pair()
    with theirs:
        on_sent, delivery = left(path, ours)
        until(lambda: delivery.queued > 0)
        with background._sender._lock:
            taken(delivery.sock, theirs)
            late = delivery.deadline = time.monotonic()
        until(lambda: delivery.deadline > late or on_sent.called.is_set())
        received(theirs)
    assert on_sent.wait().error is None


@pytest.mark.parametrize("many", [False, True])
def test_client_takes_little_from_a_worker(
    path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """It has the whole time again if it has taken something. A worker may serve many."""
    path.write_bytes(bytes(20_000_000))
    ours, theirs = tcp_pair()
    waits = 0

    def alive() -> None:
        nonlocal waits
        waits += 1
        if waits <= 3:
            taken(ours, theirs)

    def wait(sock: socket.socket, timeout: float) -> None:
        alive()
        raise TimeoutError

    with ours, theirs, open(path, "rb") as file:
        client = Client(ours.fileno(), ours, 0.1, alive, kept=False)
        ours.setblocking(False)
        monkeypatch.setattr(sockets, "_kind", lambda sock: SocketKind(wait, None))
        whole = FileSlice(file, 0, 20_000_000)
        with pytest.raises(TimeoutError):
            list(sendfile(ours, whole, 0.1, None if many else client.wait))
    assert waits >= 4


def test_queue_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the client has to take as much as makes the socket take more."""
    monkeypatch.setitem(sys.modules, "termios", None)
    assert queued(0) == 0


def test_without_poll(
    path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows the server waits as it likes."""
    ours, theirs = pair
    monkeypatch.delattr(select, "poll")
    assert Direct(ours).client(1.0) is None
    worker = threading.Thread(target=serve, args=(body_of(io.BytesIO(DATA), Direct(ours)), ours))
    worker.start()
    assert received(theirs) == DATA
    worker.join(20)


def test_nothing_is_kept_for_a_client_that_takes_nothing(path: Path) -> None:
    """The connection ends by a reset, which the client sees before it has read anything."""
    ours, theirs = tcp_pair()
    path.write_bytes(bytes(20_000_000))
    with theirs:
        on_sent, _ = left(path, ours, timeout=0.1)
        assert isinstance(on_sent.wait().error, TimeoutError)
        poll = select.poll()
        poll.register(theirs, 0)
        assert poll.poll(20_000)


@pytest.mark.parametrize("reset", [False, True])
def test_file_is_truncated(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, reset: bool
) -> None:
    """The connection ends, by a reset where an end would pass for the body's."""
    ours, theirs = tcp_pair()
    monkeypatch.setattr(Direct, "resets", reset)
    path.write_bytes(bytes(20_000_000))
    with theirs:
        on_sent, _ = left(path, ours)
        os.truncate(path, 10_000_000)
        try:
            body = received(theirs)
        except ConnectionResetError:
            assert reset
        else:
            assert body == bytes(10_000_000)
        assert "ended after 10000000 of the 20000000 bytes" in str(on_sent.wait().error)
    assert "the response is cut off" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_sendfile_is_refused(
    path: Path,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    """Then the file is read, unless that fails too."""
    ours, theirs = pair
    on_sent, _ = left(path, ours)
    monkeypatch.setattr(os, "sendfile", failing(OSError(errno.EIO, "Input/output error")))
    if fails:
        monkeypatch.setattr(os, "pread", failing(OSError(errno.EIO, "Input/output error")))
    body = received(theirs)
    assert DATA.startswith(body)
    error = on_sent.wait().error
    assert ("reading" in str(error)) is fails
    assert (body == DATA) is (error is None)


@pytest.mark.parametrize("how", ["thread", "none", "fails"])
def test_cold_file(
    path: Path,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Another thread waits for the disk, if there is one."""
    ours, theirs = pair
    monkeypatch.setattr(page_cache, "is_resident", lambda *args: False)
    threads = []
    real = page_cache.prefetch

    def prefetch(*args: Any) -> None:
        threads.append(threading.current_thread())
        if how == "fails":
            monkeypatch.setattr(background._sender, "_register", failing(EMFILE))
        real(*args)

    monkeypatch.setattr(background, "prefetch", prefetch)
    if how == "none":
        monkeypatch.setattr(
            background, "pool", lambda name: NoThreads() if name == "disks" else pool(name)
        )
    on_sent, _ = left(path, ours)
    body = received(theirs)
    assert DATA.startswith(body)
    error = on_sent.wait().error
    assert error is (EMFILE if how == "fails" else None)
    assert (body == DATA) is (error is None)
    assert bool(threads) is (how != "none")


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
def test_on_sent_fails(
    path: Path,
    pair: tuple[socket.socket, socket.socket],
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    """Others are sent all the same."""
    ours, theirs = pair
    _, delivery = left(path, ours)
    delivery.on_end = failing(error("somebody else's"))
    assert received(theirs) == DATA
    until(lambda: "a response cannot be reported" in caplog.text)
    ours, theirs = socket.socketpair()
    with theirs:
        on_sent = Transfers()
        serve(body_of(open(path, "rb"), Direct(ours), on_sent), ours)
        assert received(theirs) == DATA
    assert on_sent.wait().error is None


def test_a_client_that_sends_more(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    """Its next requests are read and dropped, or they would reset the connection."""
    ours, theirs = pair
    on_sent, delivery = left(path, ours)
    theirs.sendall(bytes(100_000))
    assert received(theirs) == DATA
    assert on_sent.wait().error is None
    until(lambda: not background._sender._deliveries)
    assert delivery.sock.fileno() == -1


@pytest.mark.parametrize("reads", [True, False])
def test_a_client_that_sends_no_more(
    path: Path, pair: tuple[socket.socket, socket.socket], reads: bool
) -> None:
    """It may have said so long before, and still gets all, unless it leaves."""
    ours, theirs = pair
    on_sent, delivery = left(path, ours)
    theirs.shutdown(socket.SHUT_WR)
    head = exactly(theirs, 1_700_000)
    while not on_sent.called.wait(0):  # Until the socket has everything.
        head += theirs.recv(4096)
    assert on_sent.wait().error is None
    until(lambda: delivery.eof)
    if reads:
        assert head + received(theirs) == DATA
    else:
        theirs.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), 20)
        ours, _ = listener.accept()
    return ours, theirs


def test_a_client_that_leaves_at_the_end(tmp_path: Path) -> None:
    """With a reset, when the socket has taken everything."""
    path = tmp_path / "large"
    path.write_bytes(bytes(8_000_000))
    ours, theirs = tcp_pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, background._RESET)
    with theirs:
        on_sent, _ = left(path, ours)
        while not on_sent.called.wait(0):
            theirs.recv(1 << 16)
    assert on_sent.wait().error is None


def test_a_call_fails_at_the_end(
    path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection could not be half-closed: it is closed."""
    ours, theirs = pair
    on_sent, _ = left(path, ours)
    monkeypatch.setattr(socket.socket, "shutdown", failing(OSError(errno.ENOTCONN, "")))
    assert received(theirs) == DATA
    assert on_sent.wait().error is None


def test_an_event_that_comes_too_late() -> None:
    assert background._sender._turn(-1, select.EPOLLOUT) is None


def test_an_event_that_comes_too_early(
    path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """The socket takes nothing yet."""
    ours, theirs = pair
    on_sent, delivery = left(path, ours)
    assert background._sender._turn(delivery.sock.fileno(), select.EPOLLOUT) is None
    assert received(theirs) == DATA
    assert on_sent.wait().error is None


def test_a_client_that_stops_at_the_end(
    path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What is in the socket's queue has its time, too."""
    ours, theirs = pair
    on_sent, delivery = left(path, ours, timeout=2)
    assert len(exactly(theirs, 1_800_000)) == 1_800_000
    while not on_sent.called.wait(0.01):  # Until the socket has everything.
        assert theirs.recv(4096)
    assert on_sent.wait().error is None
    until(lambda: not background._sender._deliveries)
    assert delivery.queued > 0


# eventlet, which other tests import, warns of a fork, and newer Pythons do as well.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("fetching", [False, True])
def test_forked(path: Path, pair: tuple[socket.socket, socket.socket], fetching: bool) -> None:
    """The child closes its copies, and what the parent sends goes on."""
    ours, theirs = pair
    on_sent, delivery = left(path, ours)
    delivery.fetching = fetching
    epoll = background._sender._epoll
    assert epoll is not None
    fds = [delivery.sock.fileno(), delivery.file, epoll.fileno()]
    child = os.fork()
    if not child:
        try:
            for fd in fds:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(fd)
            assert not background._sender._deliveries
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    delivery.fetching = False
    assert received(theirs) == DATA
    assert on_sent.wait().error is None


class Patient(Grace):
    alive_calls = closed = 0

    def alive(self) -> None:
        self.alive_calls += 1
        if self.alive_calls == 2:
            assert self.then is not None
            self.then()

    def close(self) -> None:
        self.closed += 1

    then: Callable[[], object] | None = None


@pytest.mark.parametrize("end", ["sent", "over", "interrupt", "none"])
def test_process_ends(
    path: Path,
    pair: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    """It waits as long as the server does, and then says that it does no more."""
    ours, theirs = pair
    grace = Patient({"over": 0.2, "none": 0.0}.get(end, 20.0))
    monkeypatch.setattr(Direct, "grace", lambda server: grace)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(received(theirs)))
    grace.then = {
        "sent": reader.start,
        "interrupt": failing(KeyboardInterrupt()),
    }.get(end, lambda: None)
    on_sent, _ = left(path, ours)
    background._sender.finish()
    error = on_sent.wait().error
    if end == "sent":
        assert error is None
        reader.join(20)
        assert got == [DATA]
    else:
        assert str(error) == "the server has stopped"
        assert DATA.startswith(received(theirs))
    until(lambda: grace.closed)
    background._sender.finish()  # Nothing is left.
    assert grace.closed == 1


def test_process_is_killed(path: Path, pair: tuple[socket.socket, socket.socket]) -> None:
    """uWSGI's workers run Python's last functions in the handler of the signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        ours, _ = pair
        on_sent, _ = left(path, ours)
        background._sender.finish()
        assert str(on_sent.wait().error) == "the server has stopped"
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def test_process_ends_while_the_disk_is_read(
    path: Path, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads closes the file, and nobody else does before."""
    ours, theirs = pair
    go = threading.Event()
    monkeypatch.setattr(page_cache, "is_resident", lambda *args: False)
    monkeypatch.setattr(background, "prefetch", lambda fd, *args: (go.wait(20), os.fstat(fd)))
    on_sent, delivery = left(path, ours)
    theirs.recv(1_000_000)
    until(lambda: delivery.fetching)
    background._sender.finish()
    assert str(on_sent.wait().error) == "the server has stopped"
    go.set()


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the connection takes without waiting, on each kind of connection."""
    tcp, theirs = tcp_pair()
    ours, other = socket.socketpair()
    with theirs, tcp, ours, other:
        for sock, options in (
            (tcp, tcp),
            (ours, ours),
            (ours, Descriptor(ours.fileno())),
        ):
            sock.setblocking(False)
            client = Client(sock.fileno(), options, 0.1, lambda: None, kept=False)
            client.may_leave = True
            sent = 0
            while (room := client.room(1 << 20)) is not None:
                assert sock.send(bytes(room)) == room
                sent += room
            assert client.behind
            assert sent > 10_000 or sock is ours
            client.may_leave = False
            with pytest.raises(TimeoutError):
                client.room(1)


def test_room_that_is_not_known() -> None:
    """On a system without SO_MEMINFO: the server's write may wait."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = SimpleNamespace(getsockopt=failing(OSError()), setsockopt=failing(OSError()))
        client = Client(ours.fileno(), options, 0.1, lambda: None, kept=False)
        assert client.room(123) == 123


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on its way to a client that is far away is not late."""
    info = struct.pack("68xI", 300_000)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = SimpleNamespace(getsockopt=lambda *args: info, setsockopt=print)
        client = Client(ours.fileno(), options, 1, lambda: None, kept=False)
        assert client._patience() == 0.6


@pytest.mark.parametrize("forks", [False, True])
def test_servers_that_fork(forks: bool, pair: tuple[socket.socket, socket.socket]) -> None:
    """The process would end with the request (see test_slow_worker.py, too)."""
    from wsgifile.servers import werkzeug, wsgiref

    class Handler:
        request_handler = SimpleNamespace(
            connection=pair[0],
            server=object.__new__(socketserver.ForkingMixIn if forks else socketserver.TCPServer),
        )

        def start_response(self, *args: Any) -> Any: ...

    for server in (
        wsgiref.Server({}, Handler().start_response),
        werkzeug.Server(
            {"wsgi.multiprocess": forks, "werkzeug.socket": pair[0]},
            print,  # type: ignore[arg-type]
        ),
    ):
        assert isinstance(server.may_leave(), Declined) is forks


def test_gunicorn_heartbeat(tmp_path: Path) -> None:
    """The arbiter sees that a worker lives which has closed its file already."""
    from wsgifile.servers.gunicorn import Heartbeat

    with open(tmp_path / "beat", "wb") as file:
        heartbeat = Heartbeat(3.0, file.fileno())
        os.utime(file.fileno(), (0, 0))
    heartbeat.alive()
    assert abs(os.stat(tmp_path / "beat").st_mtime - time.monotonic()) < 60
    heartbeat.close()
    assert heartbeat.seconds == 3.0
