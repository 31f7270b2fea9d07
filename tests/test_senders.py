"""The chain's policy: its order, and that a sender that declines leaves no trace."""

from __future__ import annotations

import io
import os
import socket

import pytest

from wsgifile.recognise import recognise
from wsgifile.senders import Send, SendfileBody, open_body
from wsgifile.servers import Server, find
from wsgifile.wrapper import Body


class Both(Server):
    """A server that has a wrapper, and a socket too."""

    def __init__(self, wrapper, sock):
        super().__init__({}, None)
        self.wrapper, self.sock = wrapper, sock
        self.asked = []

    def wrap(self, send, what):
        self.asked.append("wrap")
        return Body(send.app_iter, send.blocks(), 1) if self.wrapper else None

    def socket(self):
        self.asked.append("socket")
        return self.sock


@pytest.fixture
def file():
    with open(__file__, "rb") as file:
        file.read(3)
        yield file


@pytest.fixture
def sock():
    with socket.socket() as sock:
        yield sock


def body_of(file, server, count=10):
    return open_body(Send(file, recognise(file), count, 1000, server, None))


def test_order(file, sock):
    """The server's own wrapper, then os.sendfile, then the read loop."""
    server = Both(True, sock)
    assert type(body_of(file, server)) is Body
    assert server.asked == ["wrap"]
    server = Both(False, sock)
    assert type(body_of(file, server)) is SendfileBody
    assert server.asked == ["wrap", "socket"]
    server = Both(False, None)
    assert type(body_of(file, server)) is Body
    assert server.asked == ["wrap", "socket"]


@pytest.mark.parametrize("server", [None, Both(False, None)])
def test_declined_means_untouched(file, server):
    position = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    body = body_of(file, server)
    assert (file.tell(), os.lseek(file.fileno(), 0, os.SEEK_CUR)) == (3, position)
    assert len(b"".join(body)) == 10


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
        assert find({}, candidate) is None
