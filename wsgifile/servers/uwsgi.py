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
from importlib import import_module
from types import FrameType
from typing import Any

from ..body import Body, caller
from ..senders import FileSlice, Send
from . import Server as Base

__all__ = ["Server"]

#: uwsgi.sendfile() takes offset and length for C's int.
_MAX = 2**31


class Server(Base):
    """uWSGI: start_response is a function in C, uwsgi_spit."""

    def wrap(self, send: Send, what: FileSlice) -> Body | None:
        """A file for its wrapper, if uwsgi.sendfile() can reach what is to be sent."""
        wrapper: Any = self.environ.get("wsgi.file_wrapper")
        its_own = getattr(wrapper, "__name__", None) == "uwsgi_sendfile"
        if not its_own or what.offset + what.count >= _MAX:
            return None
        body = Wrapper(send, what)
        wrapper(body, send.block_size)
        return body

    def iterates(self, body: Body, frame: FrameType | None) -> bool:
        """uWSGI is in C. So may a filter be, but none that could answer for an error."""
        return frame is None

    def abort(self, error: BaseException) -> None:
        """--http11-socket and the router's keep-alive would send the next response here."""
        fd = import_module("uwsgi").connection_fd()
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
            connection.shutdown(socket.SHUT_RDWR)


class Wrapper(Body):
    """A slice of a file. If a filter iterates or reads it, it is a Body like any other."""

    def __init__(self, send: Send, what: FileSlice) -> None:
        super().__init__(send)
        self._what = what

    def fileno(self) -> int:
        """Send, if it is uWSGI that asks.

        :raises io.UnsupportedOperation: always.
        """
        if caller() is None and not self._begun:
            self._begun = True
            what = self._what
            # It tells nothing about how far it came, and closes what it gets.
            # If the client has gone it has logged that, and will close.
            with contextlib.suppress(OSError):
                import_module("uwsgi").sendfile(
                    os.dup(what.file.fileno()), 0, what.offset, what.count
                )
            left = os.fstat(what.file.fileno()).st_size - what.offset
            self.blocks.skip(max(0, min(what.count, left)))
        raise io.UnsupportedOperation("fileno")

    def read(self, size: int = -1) -> bytes:
        """Up to size bytes of what is left, all of it if size is negative."""
        return b"".join(self) if size < 0 else self.next_block(size, caller())
