"""The chain's policy: its order, and that a sender that declines leaves no trace."""

from __future__ import annotations

import errno
import io
import os
import socket
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from wsgifile import senders, sockets
from wsgifile.body import Body
from wsgifile.plan import Plan
from wsgifile.recognise import recognise
from wsgifile.senders import Send, SendfileBody, open_body
from wsgifile.servers import SERVERS, Server, find, unknown
from wsgifile.transfer import Declined
from wsgifile.wrapper import ShortFileError


class Both(Server):
    """A server that has a wrapper, and a socket too, which waits."""

    nagle = True

    def __init__(self, wrapper, sock):
        super().__init__({}, None)
        self.wrapper, self.sock = wrapper, sock
        self.asked = []

    def wrap(self, send, what):
        self.asked.append("wrap")
        return Body(send) if self.wrapper else Declined("no")

    def socket(self):
        self.asked.append("socket")
        return self.sock or Declined("no")


@pytest.fixture
def file():
    with open(__file__, "rb") as file:
        file.read(3)
        yield file


@pytest.fixture
def sock():
    with socket.socket() as sock:
        yield sock


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    monkeypatch.setattr(senders, "SMALL", 0)


def body_of(file, server, count=10, sized=True):
    plan = Plan("200 OK", [], count, sized)
    return open_body(Send(file, recognise(file), plan, 1000, 0, server, lambda data: None))


@pytest.mark.parametrize(
    ("wrapper", "has_socket", "expected", "asked"),
    [
        (True, True, Body, ["wrap"]),
        (False, True, SendfileBody, ["wrap", "socket"]),
        (False, False, Body, ["wrap", "socket"]),
    ],
)
def test_order(file, sock, wrapper, has_socket, expected, asked):
    """The server's own wrapper, then os.sendfile, then the read loop."""
    server = Both(wrapper, sock if has_socket else None)
    assert type(body_of(file, server)) is expected
    assert server.asked == asked


@pytest.mark.parametrize("server", [find({}, print), Both(False, None)])
def test_declined_means_untouched(file, server):
    position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    body = body_of(file, server)
    assert (file.tell(), os.lseek(file.fileno(), 0, os.SEEK_CUR)) == (3, position)
    assert len(b"".join(body)) == 10


def test_small(file, sock, monkeypatch):
    """Read at once, and on a socket that does not wait; the server is happy with a list."""
    monkeypatch.setattr(senders, "SMALL", 10)
    server = Both(True, sock)
    position = file.tell()
    small = body_of(file, server)
    assert small == [Path(__file__).read_bytes()[3:13]]
    assert (server.asked, file.tell()) == (["socket"], position)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    body = body_of(file, server, 11)
    assert (len(next(body)), server.asked) == (11, ["socket", "wrap"])


def test_small_to_a_socket_that_does_not_wait(file, sock, monkeypatch):
    """Nothing to tell it."""
    monkeypatch.setattr(senders, "SMALL", 10)
    monkeypatch.setattr(Both, "nagle", False)
    server = Both(True, sock)
    assert isinstance(body_of(file, server), list)
    assert server.asked == []


def test_whose_sockets_wait():
    """All to whose we send but those that see to it themselves, or never were asked to."""
    names = {name for name in SERVERS.values() if name not in {"uwsgi", "fastwsgi"}}
    kinds = {name: import_module(f"wsgifile.servers.{name}").Server for name in names}
    own_socket = {name for name, kind in kinds.items() if kind.socket is not Server.socket}
    assert own_socket - {name for name, kind in kinds.items() if kind.nagle} == {
        "cheroot",
        "gunicorn",
    }


def test_small_to_a_socket_of_another_type(file, monkeypatch):
    """pyOpenSSL's connections, for one, have no family to ask for."""
    monkeypatch.setattr(senders, "SMALL", 10)
    assert body_of(file, Both(True, object())) == [Path(__file__).read_bytes()[3:13]]


@pytest.mark.parametrize("make", [io.BytesIO, None])
def test_small_and_short(file, monkeypatch, make):
    """Not by a list: a body knows how to end it on each server."""
    monkeypatch.setattr(senders, "SMALL", 1 << 20)
    size = os.path.getsize(__file__)
    with pytest.raises(ShortFileError) as caught:
        b"".join(body_of(make(file.read()) if make else file, Both(False, None), size + 1))
    assert (caught.value.expected, caught.value.sent) == (size + 1, size - 3)


def test_small_of_unknown_size(file, monkeypatch):
    """What may make somebody wait is read when the server asks for it."""
    monkeypatch.setattr(senders, "SMALL", 1 << 20)
    lines = io.BufferedReader(io.BytesIO(b"0123456789"))
    assert type(body_of(lines, Both(False, None), 5)) is Body


@pytest.mark.parametrize("count", [0, None])
def test_no_slice(file, count):
    """Nothing to send, or an unknown number of bytes: a server is not even asked."""
    server = Both(True, None)
    body_of(file, server, count)
    assert server.asked == []


def test_no_kernel_file():
    server = Both(True, None)
    assert b"".join(body_of(io.BytesIO(b"0123456789xxx"), server)) == b"0123456789"
    assert server.asked == []


def test_socket_that_does_not_block(file, sock):
    """That one waits in its own way: not ours to block on."""
    sock.setblocking(False)
    assert type(body_of(file, Both(False, sock))) is Body


def test_socket_of_another_type(file, sock):
    """TLS encrypts what passes; so might any other sub-class."""

    class Encrypted(socket.socket):
        pass

    with Encrypted() as encrypted:
        assert type(body_of(file, Both(False, encrypted))) is Body


def test_no_sendfile(file, sock, monkeypatch):
    """A system without it reads."""
    monkeypatch.delattr(os, "sendfile")
    assert type(body_of(file, Both(False, sock))) is Body


class Iterating(Both):
    """A server that iterates itself."""

    def iterates(self, body, frame):
        return True


def test_sendfile_that_the_system_refuses(monkeypatch):
    """Where it cannot, after a part or at once, reading goes on from there."""
    ours, theirs = socket.socketpair()
    data = Path(__file__).read_bytes()
    answers = iter([7, *[OSError(errno.EINVAL, "Invalid argument")] * 2])
    real = os.sendfile

    def sendfile(out, in_, offset, count):
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


@pytest.mark.parametrize("behind", [False, True])
def test_calls_of_sendfile(monkeypatch, behind):
    """Small ones, unless one of them has to wait; then it does all that is left."""
    calls = []

    def sendfile(out, in_, offset, count):
        calls.append((offset, count))
        if len(calls) == 3:
            time.sleep(2 * sockets._LONG)
        return count

    monkeypatch.setattr(os, "sendfile", sendfile)
    call = sockets._CALL_BEHIND if behind else sockets._CALL
    assert sockets.send_some(0, 0, 5, 1 << 20, behind) == 1 << 20
    assert calls[:4] == [
        (5, call),
        (5 + call, call),
        (5 + 2 * call, call),
        (5 + 3 * call, (1 << 20) - 3 * call),
    ]
    assert len(calls) == 4


def test_sendfile_keeps_other_errors():
    """A client that has gone is no reason to read."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, open(__file__, "rb") as file, pytest.raises(BrokenPipeError):
        next(iter(body_of(file, Iterating(False, ours), 20)))


def test_find_knows_no_stranger():
    """Neither functions, methods nor callables of unknown origin, whatever they say."""

    def start_response(status, headers, exc_info=None):
        pass

    start_response.__module__ = "waitress.task"

    class Response:
        def start_response(self, status, headers, exc_info=None):
            pass

        __call__ = start_response

    for candidate in (start_response, Response().start_response, Response(), print):
        assert type(find({}, candidate)) is unknown.Server


@pytest.mark.parametrize("server", SERVERS.values())
def test_servers_have_a_file(server):
    """Named by the table: the modules of servers that are not installed are not imported."""
    assert find_spec(f"wsgifile.servers.{server}") is not None


class ServersWrapper:
    """The wrapper of some server: it sends by descriptor, from where that stands."""

    def __init__(self, filelike, block_size):
        self.filelike = filelike

    def send(self):
        return os.read(self.filelike.fileno(), 1 << 20)

    def close(self):
        self.filelike.close()


def wrapped_by(wrapper, file, count, sized=True):
    return body_of(file, find({"wsgi.file_wrapper": wrapper}, print), count, sized)


def test_unknown_wrapper_gets_a_whole_file():
    with open(__file__, "rb") as file:
        file.peek(1)  # The descriptor has run ahead.
        data = Path(__file__).read_bytes()
        body = wrapped_by(ServersWrapper, file, len(data))
        assert type(body) is ServersWrapper
        assert body.send() == data
        body.close()
        assert file.closed


def test_unknown_wrapper_may_read():
    """read() is bounded, and says so when the file runs short."""
    with open(__file__, "rb") as file:
        size = os.path.getsize(__file__)
        filelike = wrapped_by(ServersWrapper, file, size).filelike
        assert filelike.tell() == 0
        assert filelike.read(10) == Path(__file__).read_bytes()[:10]
        assert len(filelike.read()) == size - 10
        assert filelike.read(10) == b""


@pytest.mark.parametrize("change", ["offset", "count", "unsized", "declined"])
def test_unknown_wrapper_gets_nothing_else(change):
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


def test_body_closes_once(file):
    class AppIter:
        closes = 0
        read = file.read

        def close(self):
            self.closes += 1

    app_iter = AppIter()
    plan = Plan("200 OK", [], None, False)
    body = open_body(Send(app_iter, recognise(app_iter), plan, 1000, 0, find({}, print), print))
    assert iter(body) is body
    assert b"".join(body) == Path(__file__).read_bytes()[3:]
    body.close()
    body.close()
    assert app_iter.closes == 1
