"""The chain: who sends the file.

The policy stands in :func:`open_body`, whole: the server's own wrapper, then
os.sendfile, then a read(size) loop. A sender returns the body for the server,
or declines with None, and **declined means nothing was touched**: no byte sent,
no position moved, no header changed.

The first two take the bytes from a descriptor past what WSGI defines, so they
ask the :class:`~wsgifile.servers.Server` at hand, of which there is one only
if nothing stands between it and us.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from .recognise import FileRegion, KernelFile
from .wrapper import Body, FileWrapper, ShortFileError

if TYPE_CHECKING:
    from .servers import Server

__all__ = ["FileSlice", "Send", "is_plain_socket", "open_body"]


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes that may be taken from a descriptor; count is at least 1."""

    file: KernelFile
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class Send:
    """What is to be sent, as a value."""

    #: What the application returned, to be closed at the end.
    app_iter: object
    region: FileRegion
    #: Bytes to send; None: until the end of the file.
    count: int | None
    #: Bytes to read at once.
    block_size: int
    #: The server, if we know it and talk to it directly.
    server: Server | None
    #: What start_response returned.
    write: Callable[[bytes], object]

    def blocks(self) -> FileWrapper:
        """The bytes to send by way of read()."""
        region = self.region
        return FileWrapper.bounded(region.filelike, region.offset, self.count)

    def slice(self) -> FileSlice | None:
        """The bytes to send as a slice of a kernel file, if they are one."""
        region = self.region
        if region.kernel is None or region.offset is None or not self.count:
            return None
        return FileSlice(region.kernel, region.offset, self.count)


def open_body(send: Send) -> Body:
    """The body by the first sender that does not decline."""
    for sender in (server_wrapper, os_sendfile, read_loop):
        body = sender(send)
        if body is not None:
            return body
    raise AssertionError("read_loop never declines")


def server_wrapper(send: Send) -> Body | None:
    """The server's own wsgi.file_wrapper, made safe."""
    what = send.slice()
    if send.server is None or what is None:
        return None
    return send.server.wrap(send, what)


def os_sendfile(send: Send) -> Body | None:
    """os.sendfile to the server's socket, if it is a plain blocking one."""
    what = send.slice()
    if send.server is None or what is None or not hasattr(os, "sendfile"):
        return None
    sock = send.server.socket()
    if not is_plain_socket(sock) or sock.gettimeout() == 0:
        return None
    return SendfileBody(send, what, send.server, sock)


def is_plain_socket(sock: object) -> TypeGuard[socket.socket]:
    """Whether this is the standard library's socket, not a sub-class or look-alike.

    TLS encrypts what passes, gevent and eventlet must not be blocked. By name,
    for their monkey patching puts theirs in the place of ``socket.socket``.
    """
    return (type(sock).__module__, type(sock).__qualname__) == ("socket", "socket")


def read_loop(send: Send) -> Body:
    """Blocks of read(size). The server does the sending."""
    return Body(send.app_iter, send.blocks(), send.block_size)


class SendfileBody(Body):
    """Sends itself by socket.sendfile when the server asks for the first block."""

    def __init__(self, send: Send, what: FileSlice, server: Server, sock: socket.socket) -> None:
        super().__init__(send.app_iter, send.blocks(), send.block_size)
        self._write = send.write
        self._what = what
        self._server = server
        self._sock = sock
        self._asked = False

    def __next__(self) -> bytes:
        if not self._asked:
            self._asked = True
            # A filter may have let start_response pass and still want to see,
            # or change, the blocks: then it is not the server that is asking.
            if self._server.iterates(self, sys._getframe(1)):
                self._send_all()
        return super().__next__()

    def _send_all(self) -> None:
        what = self._what
        self._write(b"")  # The header leaves now.
        sent = self._sock.sendfile(what.file, what.offset, what.count)
        self._server.count_sent(sent)
        if sent < what.count:
            raise ShortFileError(what.file, what.count, sent)
        self.blocks.remaining = 0
