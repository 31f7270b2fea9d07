"""uWSGI, whose wrapper sends a file from 0 to its end, whatever was asked for.

Whether it may is decided by identity: what it was given as a file is what the
application returned. Then it asks that for its descriptor, and nobody else
asks from C. So that question has the slice sent, by ``uwsgi.sendfile()``, and
is answered with "no descriptor". Then uWSGI reads, to find that nothing is
left or that the file ran short.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import sys
from importlib import import_module
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from ..body import Body, caller
from ..recognise import FileSlice
from ..send import Send
from ..server import Server as Base
from ..transfer import Declined
from ..wrapper import FileWrapper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Server"]

#: uwsgi.sendfile() takes offset and length for C's int.
_MAX = 2**31
#: struct linger, with which close() does not send what is left, but a reset.
_RESET = struct.pack("ii", 1, 0)


class Server(Base):
    """uWSGI: start_response is a function in C, uwsgi_spit."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        super().__init__(environ, start_response)
        # All of them, with the instruction at which each is waiting: a frame
        # that has not moved when a block is asked for is below uWSGI. Not the
        # frames themselves, which would keep alive what they refer to.
        self._callers = set()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            self._callers.add(_place(frame))
            frame = frame.f_back

    def wrap(self, send: Send, what: FileSlice) -> Body | Declined:
        """A file for its wrapper, if uwsgi.sendfile() can reach what is to be sent."""
        wrapper: Any = self.environ.get("wsgi.file_wrapper")
        its_own = getattr(wrapper, "__name__", None) == "uwsgi_sendfile"
        if not its_own or what.offset + what.count >= _MAX:
            return Declined("it is not uWSGI's, or the end is more than 2 GiB away")
        body = Wrapper(send, self, what)
        wrapper(body, send.block_size)
        return body

    def iterates(self, body: object, frame: FrameType | None) -> bool:
        """uWSGI is in C, and asks from its own thread's, or from below what started it.

        So may a filter be, but none that could answer for an error.
        """
        return frame is None or _place(frame) in self._callers

    def end_unsized(self) -> None:
        """Have --http11-socket end the connection, which it always keeps open."""
        if not self._routed:
            self._end()

    def abort(self, error: BaseException) -> bytes:
        """End the connection: --http11-socket would keep it open."""
        self._end()
        raise error

    @property
    def _routed(self) -> bool:
        """Whether the connection is one of the process that listens to --http."""
        return "UWSGI_ROUTER" in self.environ

    def _end(self) -> None:
        fd = import_module("uwsgi").connection_fd()
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
            if self._routed:
                # To the router an end is an end like any other, and with
                # --http-keepalive it keeps the client's connection. A reset is an error.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:
                connection.shutdown(socket.SHUT_RDWR)


def _place(frame: FrameType) -> tuple[int, CodeType, int]:
    return id(frame), frame.f_code, frame.f_lasti


class Wrapper(Body):
    """A slice of a file. If a filter iterates or reads it, it is a Body like any other."""

    sender: str = "wsgi.file_wrapper"
    sent: int | None
    blocks: FileWrapper

    def __init__(self, send: Send, server: Base, what: FileSlice) -> None:
        super().__init__(send, server)
        self._what = what

    def begin(self) -> None:
        """A filter in C, or uWSGI would have asked for the descriptor."""
        self.sender = "read"
        super().begin()

    def fileno(self) -> int:
        """Send, if it is uWSGI that asks.

        :raises io.UnsupportedOperation: always.
        """
        if self.server.iterates(self, caller()) and not self._begun:
            self._begun = True
            what = self._what
            # It tells nothing about how far it came, and closes what it gets.
            # If the client has gone it has logged that, and will close.
            with contextlib.suppress(OSError):
                import_module("uwsgi").sendfile(
                    os.dup(what.file.fileno()), 0, what.offset, what.count
                )
            self.sent = None
            left = os.fstat(what.file.fileno()).st_size - what.offset
            self.blocks.skip(max(0, min(what.count, left)))
        raise io.UnsupportedOperation("fileno")

    def read(self, size: int = -1) -> bytes:
        """Up to size bytes of what is left, all of it if size is negative."""
        return b"".join(self) if size < 0 else self.next_block(size, caller())
