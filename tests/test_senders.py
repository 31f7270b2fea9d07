"""The order in which senders are asked, and that one which declines touches nothing."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import SimpleHandler

import pytest
from client import Client
from ports import free_port, running
from regions import region_of

from wsgifile import FileWrapperMiddleware, agents, senders, sockets
from wsgifile.blocks import ShortFileError
from wsgifile.body import Body
from wsgifile.call_size import LARGEST, SIZES, CallSize
from wsgifile.plan import Plan
from wsgifile.recognise import FileSlice
from wsgifile.registry import SERVERS
from wsgifile.send import Send
from wsgifile.senders import SendfileBody, open_body
from wsgifile.server import Server
from wsgifile.servers import find, unknown
from wsgifile.transfer import Declined

if TYPE_CHECKING:
    from _typeshed import OptExcInfo


class Both(Server):
    """A server that has a wrapper if wrapper is true, and a socket if sock is one."""

    nagle = True

    def __init__(self, wrapper: bool, sock: Any) -> None:
        super().__init__({}, lambda *args: print)
        self.wrapper, self.sock = wrapper, sock
        self.asked: list[str] = []

    def wrap(self, send: Send, file_slice: FileSlice) -> Body | Declined:
        self.asked.append("wrap")
        return Body(send, self) if self.wrapper else Declined("no")

    @property
    def times_writes(self) -> bool:
        return False

    def socket(self) -> Any:
        self.asked.append("socket")
        return self.sock or Declined("no")


@pytest.fixture
def file() -> Iterator[BufferedReader]:
    with open(__file__, "rb") as file:
        file.read(3)
        yield file


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        yield sock


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "SMALL", 0)


def body_of(file: Any, server: Server, count: int | None = 10, sized: bool = True) -> Any:
    server.write = lambda data: None
    return open_body(send_of(file, count, sized), server)


def send_of(file: Any, count: int | None, sized: bool = True) -> Send:
    region = region_of(file)
    stop = None if count is None else region.start + count
    plan = Plan("200 OK", [], ((region.start, stop),), sized)
    return Send(file, region, plan, block_size=1000, read_ahead=0)


@pytest.mark.parametrize(
    ("wrapper", "has_socket", "expected", "asked"),
    [
        (True, True, Body, ["wrap"]),
        (False, True, SendfileBody, ["wrap", "socket"]),
        (False, False, Body, ["wrap", "socket"]),
    ],
)
def test_order(
    file: BufferedReader,
    sock: socket.socket,
    wrapper: bool,
    has_socket: bool,
    expected: type[Body],
    asked: list[str],
) -> None:
    """The server's own wrapper comes first, then os.sendfile, then the read loop."""
    server = Both(wrapper, sock if has_socket else None)
    assert type(body_of(file, server)) is expected
    assert server.asked == asked


@pytest.mark.parametrize("server", [find({}, print), Both(False, None)])
def test_declined_means_untouched(file: BufferedReader, server: Server) -> None:
    position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    body = body_of(file, server)
    assert (file.tell(), os.lseek(file.fileno(), 0, os.SEEK_CUR)) == (3, position)
    assert len(b"".join(body)) == 10


def test_small(file: BufferedReader, sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file is read at once into a list, and its socket gets TCP_NODELAY."""
    monkeypatch.setattr(senders, "SMALL", 10)
    server = Both(True, sock)
    position = file.tell()
    small = body_of(file, server)
    assert small == [Path(__file__).read_bytes()[3:13]]
    assert (server.asked, file.tell()) == (["socket"], position)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    body = body_of(file, server, 11)
    assert (len(next(body)), server.asked) == (11, ["socket", "wrap"])


def test_small_without_nagle(
    file: BufferedReader, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose socket has TCP_NODELAY already is not asked for it."""
    monkeypatch.setattr(senders, "SMALL", 10)
    monkeypatch.setattr(Both, "nagle", False)
    server = Both(True, sock)
    assert isinstance(body_of(file, server), list)
    assert server.asked == []


def test_servers_with_nagle() -> None:
    """Servers that give us their socket set nagle, unless they set TCP_NODELAY themselves."""
    names = {name for name in SERVERS.values() if name not in {"uwsgi", "fastwsgi"}}
    kinds = {name: import_module(f"wsgifile.servers.{name}").Server for name in names}
    own_socket = {name for name, kind in kinds.items() if kind.socket is not Server.socket}
    assert own_socket - {name for name, kind in kinds.items() if kind.nagle} == {
        "cheroot",
        "gunicorn",
    }


def test_small_to_a_socket_of_another_type(
    file: BufferedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket of an unknown type is left alone: pyOpenSSL's, for one, has no family."""
    monkeypatch.setattr(senders, "SMALL", 10)
    assert body_of(file, Both(True, object())) == [Path(__file__).read_bytes()[3:13]]


@pytest.mark.parametrize("make", [io.BytesIO, None])
def test_small_and_short(
    file: BufferedReader, monkeypatch: pytest.MonkeyPatch, make: Callable[[bytes], Any] | None
) -> None:
    """A small file that is too short goes by a Body, which can break off on any server."""
    monkeypatch.setattr(senders, "SMALL", 1 << 20)
    size = os.path.getsize(__file__)
    with pytest.raises(ShortFileError) as caught:
        b"".join(body_of(make(file.read()) if make else file, Both(False, None), size + 1))
    assert (caught.value.expected, caught.value.sent) == (size + 1, size - 3)


def test_small_of_unknown_size(file: BufferedReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of unknown size is read when the server asks, because its read() may block."""
    monkeypatch.setattr(senders, "SMALL", 1 << 20)
    lines = io.BufferedReader(io.BytesIO(b"0123456789"))
    assert type(body_of(lines, Both(False, None), 5)) is Body


@pytest.mark.parametrize("count", [0, None])
def test_no_slice(file: BufferedReader, count: int | None) -> None:
    """With nothing to send, or an unknown number of bytes, the server is not asked."""
    server = Both(True, None)
    body_of(file, server, count)
    assert server.asked == []


def test_no_kernel_file() -> None:
    server = Both(True, None)
    assert b"".join(body_of(io.BytesIO(b"0123456789xxx"), server)) == b"0123456789"
    assert server.asked == []


def test_socket_that_does_not_block(file: BufferedReader, sock: socket.socket) -> None:
    """A non-blocking socket gets no sendfile: its owner waits in some way of its own."""
    sock.setblocking(False)
    assert type(body_of(file, Both(False, sock))) is Body


def test_socket_of_another_type(file: BufferedReader, sock: socket.socket) -> None:
    """A sub-class of socket gets no sendfile: it may encrypt what passes, as TLS does."""

    class Encrypted(socket.socket):
        pass

    with Encrypted() as encrypted:
        assert type(body_of(file, Both(False, encrypted))) is Body


def test_no_sendfile(
    file: BufferedReader, sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a system without os.sendfile, the file is read."""
    monkeypatch.delattr(os, "sendfile")
    assert type(body_of(file, Both(False, sock))) is Body


class Iterating(Both):
    """A server that always says that it is itself iterating the body."""

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        return True


def test_sendfile_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system refuses os.sendfile after a part, reading goes on from there."""
    ours, theirs = socket.socketpair()
    data = Path(__file__).read_bytes()
    answers: Iterator[int | OSError] = iter([7, *[OSError(errno.EINVAL, "Invalid argument")] * 2])
    real = os.sendfile

    def sendfile(out: int, in_: int, offset: int, count: int) -> int:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return real(out, in_, offset, answer)

    monkeypatch.setattr(os, "sendfile", sendfile)
    with ours, theirs, open(__file__, "rb") as file:
        body = body_of(file, Iterating(False, ours), 20)
        assert type(body) is SendfileBody
        assert b"".join(body) == data[7:20]
        assert theirs.recv(100) == data[:7]


def calls_of_sendfile(
    monkeypatch: pytest.MonkeyPatch, size: int, behind: bool, long: int | None
) -> list[tuple[int, int]]:
    """The calls, of which the one with this number is long, by their offsets and counts."""
    calls = []
    now = 0.0

    def sendfile(out: int, in_: int, offset: int, count: int) -> int:
        nonlocal now
        calls.append((offset, count))
        if len(calls) == long:
            now += 2 * sockets._LONG
        return count

    call_size = CallSize()
    call_size.size = size
    monkeypatch.setattr(os, "sendfile", sendfile)
    monkeypatch.setattr(sockets, "_call_size", call_size)
    monkeypatch.setattr(
        sockets, "time", SimpleNamespace(perf_counter=lambda: now, thread_time=lambda: now)
    )
    assert sockets.send_some(0, 0, offset=5, count=LARGEST, behind=behind) == LARGEST
    return calls


def test_calls_of_sendfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls have the best size until one takes long; then a single call sends all the rest."""
    size = LARGEST // 8
    assert calls_of_sendfile(monkeypatch, size, behind=False, long=3) == [
        (5, size),
        (5 + size, size),
        (5 + 2 * size, size),
        (5 + 3 * size, LARGEST - 3 * size),
    ]
    assert len(calls_of_sendfile(monkeypatch, size, behind=False, long=None)) == 8
    assert calls_of_sendfile(monkeypatch, size, behind=True, long=None) == [(5, LARGEST)]
    assert calls_of_sendfile(monkeypatch, LARGEST, behind=False, long=None) == [(5, LARGEST)]


def test_call_size() -> None:
    """It is found within 110 MiB, whichever is the best, and again if another becomes it."""
    call_size = CallSize()

    def send(count: int) -> list[int]:
        sizes = []
        for _ in range(count):
            sizes.append(call_size.size)
            call_size.add(LARGEST, 1.0 if call_size.size == best else 2.0)
        return sizes

    for best in SIZES:
        call_size = CallSize()
        call_size.add(4 * LARGEST, 0.0)  # This fills the sockets' buffers.
        send(48)
        assert set(send(50)) == {best}
    for best in (SIZES[0], SIZES[2]):
        send(40_000)
        sizes = send(4200)
        assert sizes.count(best) > 4000
        assert set(sizes) == set(SIZES)


def test_call_size_has_to_be_worth_it() -> None:
    """A sample varies by some percent, so a small size that costs a little less is not taken."""
    call_size = CallSize()
    for _ in range(1000):
        call_size.add(LARGEST, 1.0 if call_size.size == LARGEST else 0.9)
    assert call_size.size == LARGEST


@pytest.mark.parametrize(("small", "large", "share"), [((1, 3), (0.5, 6), 1), ((2, 6), (1, 3), 0)])
def test_call_size_of_downloads_that_vary(
    small: tuple[float, float], large: tuple[float, float], share: int
) -> None:
    """In some downloads, it is the client that does the kernel's work. What counts is the mean."""
    call_size, chosen = CallSize(), []
    pick = random.Random(21).choice
    for _ in range(1000):
        case = pick((0, 1))
        for _ in range(100):
            chosen.append(call_size.size == SIZES[-1])
            call_size.add(LARGEST, (small if chosen[-1] else large)[case])
    assert abs(chosen.count(True) / len(chosen) - share) < 0.15


def test_call_size_of_many_threads() -> None:
    """They share it without a lock: nothing but samples is lost, and no response fails."""
    call_size, failed = CallSize(), []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def send() -> None:
        try:
            for _ in range(20_000):
                call_size.add(4 * LARGEST, 1.0)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=send) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed
    assert call_size.size in SIZES


def test_sendfile_keeps_other_errors() -> None:
    """A client that closes the connection is no reason to read the file."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, open(__file__, "rb") as file, pytest.raises(BrokenPipeError):
        next(iter(body_of(file, Iterating(False, ours), 20)))


def test_find_knows_no_stranger() -> None:
    """A start_response of unknown origin is no server's, even if its __module__ says so."""

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None
    ) -> None:
        pass

    start_response.__module__ = "waitress.task"

    class Response:
        def start_response(
            self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None
        ) -> None:
            pass

        __call__ = start_response

    for candidate in (start_response, Response().start_response, Response(), print):
        assert type(find({}, candidate)) is unknown.Server


@pytest.mark.parametrize("server", SERVERS.values())
def test_servers_have_a_file(server: str) -> None:
    """Each name in the table has a module. It is not imported: its server may be missing."""
    assert find_spec(f"wsgifile.servers.{server}") is not None


class ServersWrapper:
    """Some server's wrapper, which reads the descriptor from its current position."""

    def __init__(self, filelike: Any, block_size: int) -> None:
        self.filelike = filelike

    def send(self) -> bytes:
        return os.read(self.filelike.fileno(), 1 << 20)

    def close(self) -> None:
        self.filelike.close()


def wrapped_by(
    wrapper: type[ServersWrapper], file: BufferedReader, count: int, sized: bool = True
) -> Any:
    return body_of(file, find({"wsgi.file_wrapper": wrapper}, print), count, sized)


def test_unknown_wrapper_gets_a_whole_file() -> None:
    with open(__file__, "rb") as file:
        file.peek(1)  # This moves the descriptor ahead of the file's position.
        data = Path(__file__).read_bytes()
        body = wrapped_by(ServersWrapper, file, len(data))
        assert type(body) is ServersWrapper
        assert body.send() == data
        body.close()
        assert file.closed


def test_unknown_wrapper_may_read() -> None:
    """The file that an unknown wrapper gets can be read to its end."""
    with open(__file__, "rb") as file:
        size = os.path.getsize(__file__)
        filelike = wrapped_by(ServersWrapper, file, size).filelike
        assert filelike.tell() == 0
        assert filelike.read(10) == Path(__file__).read_bytes()[:10]
        assert len(filelike.read()) == size - 10
        assert filelike.read(10) == b""


@pytest.mark.parametrize("change", ["offset", "count", "unsized", "declined"])
def test_unknown_wrapper_gets_nothing_else(change: str) -> None:
    class Declined(ServersWrapper):
        pass

    Declined.__module__, Declined.__name__ = "waitress.buffers", "ReadOnlyFileBasedBuffer"
    with open(__file__, "rb") as file:
        size = os.path.getsize(__file__)
        if change == "offset":
            size -= len(file.read(3))
        size -= change == "count"
        wrapper = Declined if change == "declined" else ServersWrapper
        body = wrapped_by(wrapper, file, size, change != "unsized")
        assert type(body) is Body
        assert len(b"".join(body)) == size


def test_body_closes_once(file: BufferedReader) -> None:
    class AppIter:
        closes = 0
        read = file.read

        def close(self) -> None:
            self.closes += 1

    app_iter = AppIter()
    body: Any = open_body(send_of(app_iter, None, sized=False), find({}, print))
    assert iter(body) is body
    assert b"".join(body) == Path(__file__).read_bytes()[3:]
    body.close()
    body.close()
    assert app_iter.closes == 1


def test_a_client_that_takes_something() -> None:
    """Waiting for a socket ends at once if it takes more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sockets._STANDARD.wait(ours, 20.0)


def test_a_client_that_takes_nothing(tmp_path: Path) -> None:
    """If the client takes nothing for the given time, TimeoutError is raised."""
    (tmp_path / "data").write_bytes(bytes(20_000_000))
    server, client = socket.socketpair()
    with server, client, open(tmp_path / "data", "rb") as file:
        server.setblocking(False)
        with pytest.raises(TimeoutError):
            list(sockets.sendfile(server, FileSlice(file, 0, 20_000_000), 0.1))


def test_gunicorn_that_is_told_not_to(tmp_path: Path) -> None:
    """We do not use os.sendfile either if gunicorn runs with --no-sendfile."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("h11")
    (tmp_path / "app.py").write_text(
        "import sys\n"
        "from wsgifile import FileWrapperMiddleware\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return open(sys.executable, 'rb')\n"
        "def on_sent(transfer):\n"
        "    print(f'{transfer.sender} {transfer.error}\\n', end='', flush=True)\n"
        "app = FileWrapperMiddleware(app, on_sent=on_sent)\n"
    )
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--no-sendfile", "--no-control-socket"]
    command += ["--bind", f"127.0.0.1:{port}", "app:app"]
    with running(command, port, log, cwd=tmp_path), Client(port) as client:
        assert client.get("/").body == Path(sys.executable).read_bytes()
    assert "read None\n" in log.read_text()


def test_uwsgi_that_does_not_ask(file: BufferedReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that asks for the descriptor gets none, and the bytes come by read()."""

    def uwsgi_sendfile(*args: object) -> None:
        """Do nothing. It is taken for uWSGI's wrapper because of its name."""

    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt={}))
    kind = import_module("wsgifile.servers.uwsgi").Server
    body = body_of(file, kind({"wsgi.file_wrapper": uwsgi_sendfile}, lambda *args: print))
    with pytest.raises(io.UnsupportedOperation):
        body.fileno()
    assert b"".join(body) == Path(__file__).read_bytes()[3:13]
    assert body.sender == "read"


def test_uwsgi_behind_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is not taken, because the filter may have promised other bytes."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt={}))
    server = import_module("wsgifile.servers.uwsgi").Hidden({}, lambda *args: print)
    assert isinstance(server.may_leave(), Declined)


def test_agents_hear_of_an_error_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers ask for the next block again after an error."""
    told: list[BaseException] = []
    monkeypatch.setattr(agents, "report", lambda app_iter, error: told.append(error))
    body = body_of(io.BytesIO(b"123"), Both(False, None))
    assert next(body) == b"123"
    for _ in range(2):
        with pytest.raises(ShortFileError):
            next(body)
    assert [type(error) for error in told] == [ShortFileError]


@pytest.mark.parametrize(
    ("opt", "fd", "threads", "waits", "why"),
    [
        ({}, 0, 1, True, None),
        ({"http11-socket": b":80"}, 0, 1, True, None),
        ({}, -1, 1, False, None),
        ({"async": b"2"}, 0, 1, False, None),
        ({"gevent": b"2"}, 0, 1, False, None),
        ({}, 0, 0, True, "threads are off in uWSGI's settings"),
        ({"protocol": b"scgi"}, 0, 1, True, "protocol is set in uWSGI"),
        ({"offload-threads": b"1"}, 0, 1, True, "offload-threads is set in uWSGI"),
    ],
)
def test_uwsgi_connection(
    monkeypatch: pytest.MonkeyPatch,
    opt: dict[str, bytes],
    fd: int,
    threads: int,
    waits: bool,
    why: str | None,
) -> None:
    """Whether a worker waits for its client, and whether the response may leave the worker."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = ours.fileno() if fd == 0 else fd
        uwsgi = SimpleNamespace(opt=opt, has_threads=threads, connection_fd=lambda: number)
        monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
        server = import_module("wsgifile.servers.uwsgi").Server({}, print)
        assert (server.client(1.0) is not None) is waits
    declined = server.may_leave()
    assert (None if declined is None else declined.reason) == why


def test_uwsgi_with_another_wrapper(file: BufferedReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a filter has put its own wrapper into the environ, the file is read."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt={}))
    server = import_module("wsgifile.servers.uwsgi").Server(
        {"wsgi.file_wrapper": print}, lambda *args: print
    )
    assert type(body_of(file, server)) is Body


def test_gunicorn_that_must_not() -> None:
    """The socket is declined if gunicorn's response says that it cannot sendfile."""

    class Response:
        def can_sendfile(self) -> bool:
            return False

        def start_response(self) -> None: ...

    server = import_module("wsgifile.servers.gunicorn").Server({}, Response().start_response)
    assert isinstance(server.socket(), Declined)


def test_a_short_file_in_cgi() -> None:
    """There is no connection to end. The body is cut off, and the log has the error."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "2000")])
        return gzip.open(io.BytesIO(gzip.compress(b"x" * 1000)))

    out, log = io.BytesIO(), io.StringIO()
    environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"}
    handler = SimpleHandler(io.BytesIO(), out, log, environ)
    handler.run(FileWrapperMiddleware(app))
    assert out.getvalue().endswith(b"\r\n\r\n" + b"x" * 1000)
    assert "ended after 1000 of the 2000 bytes promised" in log.getvalue()
