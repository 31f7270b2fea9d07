"""uWSGI, whose wrapper sends a file from 0 to its end, whatever the application asked for.

uWSGI compares by identity: if the application returns the object that it gave to the
wrapper, uWSGI asks that object for its descriptor. Nobody else asks from C. So our object
sends the slice at that moment, by ``uwsgi.sendfile()``, and answers that it has no
descriptor. uWSGI then reads, and finds that nothing is left, or that the file ran short.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from threading import get_ident
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from ..blocks import BlockReader
from ..body import Body, calling_frame
from ..recognise import FileSlice
from ..send import Send
from ..server import Server as Base
from ..transfer import Declined

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Hidden", "Server"]

#: The actions of routes that get the body block by block. Some change it, some add a length,
#: and none of them sees what uwsgi.sendfile() sends.
_TRANSFORMATION = re.compile(
    rb"(^|\s)(gzip|chunked|flush|fixcl|forcecl|toupper|template|to-?file|toxslt|offload"
    rb"|(cache|memcached|redis)-?store):"
)
#: uwsgi.sendfile() takes the offset and the length as C's int.
_MAX = 2**31
#: struct linger, by which close() sends a reset and drops what is left.
_RESET = struct.pack("ii", 1, 0)


class Server(Base):
    """uWSGI. Its start_response is a function in C, uwsgi_spit."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        super().__init__(environ, start_response)
        # All frames below us, and the instruction at which each one waits. If a block is
        # asked for from a frame that has not moved on, uWSGI was called from that frame.
        # The frames themselves are not kept, because they would keep their variables alive.
        self._callers = set()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            self._callers.add(_place(frame))
            frame = frame.f_back

    def wrap(self, send: Send, file_slice: FileSlice) -> Body | Declined:
        """A body for its wrapper, if uwsgi.sendfile() can reach the end of the slice."""
        wrapper: Any = self.environ.get("wsgi.file_wrapper")
        if getattr(wrapper, "__name__", None) != "uwsgi_sendfile":
            return Declined("it is not uWSGI's")
        if file_slice.stop >= _MAX:
            return Declined("uwsgi.sendfile() does not reach beyond 2 GiB")
        size = os.fstat(file_slice.file.fileno()).st_size
        if _offloads() and file_slice.stop != size:
            return Declined("an offload thread of uWSGI sends the file to its end")
        body = SelfSendingFile(send, self, file_slice)
        wrapper(body, send.block_size)
        return body

    @property
    def alters_body(self) -> bool:
        """Whether a route may transform the body. Which request it is for cannot be seen."""
        return _transforms()

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        """uWSGI asks from C: from a thread of its own, or called by what started it.

        A filter in C would look the same, but it could not answer an error either.
        """
        return frame is None or _place(frame) in self._callers

    def end_unsized(self) -> None:
        """End the connection, which --http11-socket always keeps open."""
        # A transformation adds its last bytes later, and may frame the body.
        if not self._routed and not self.alters_body:
            self.end()

    def abort(self, error: BaseException) -> bytes:
        """End the connection, which --http11-socket would keep open."""
        self.end()
        raise error

    @property
    def _routed(self) -> bool:
        """Whether the client is connected to the router of --http, which passes requests on."""
        return "UWSGI_ROUTER" in self.environ

    def end(self) -> None:
        """End the connection."""
        # This needs no descriptor, as there may be no more.
        connection = socket.socket(fileno=import_module("uwsgi").connection_fd())
        with contextlib.suppress(OSError):
            if self._routed:
                # With --http-keepalive the router takes the end of our connection for the
                # end of the body, and keeps the client's. A reset is an error to it.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:
                connection.shutdown(socket.SHUT_RDWR)
        connection.detach()


class Hidden(Server):
    """uWSGI behind a filter. If uWSGI itself iterates the body, the connection can end."""

    def wrap(self, send: Send, file_slice: FileSlice) -> Declined:
        """Nothing past the filter."""
        return Declined("a filter hides uWSGI")


def _values(part_of_name: str) -> Iterator[bytes]:
    """The values of uWSGI's options that have this in their name."""
    for name, values in import_module("uwsgi").opt.items():
        if part_of_name in name:
            yield from values if isinstance(values, list) else [values]


@lru_cache(1)
def _transforms() -> bool:
    return any(map(_TRANSFORMATION.search, _values("route")))


@lru_cache(1)
def _offloads() -> bool:
    return any(int(value) for value in _values("offload-thread"))


def _place(frame: FrameType) -> tuple[int, CodeType, int]:
    return id(frame), frame.f_code, frame.f_lasti


class _ExceptHook:
    """sys.excepthook, by which uWSGI logs its "write error".

    It does so when uwsgi.sendfile() fails, and again when the response ends.
    """

    #: The threads in which it has done so for the first time.
    muted: ClassVar[set[int]] = set()

    def __init__(self, hook: Callable[..., object]) -> None:
        self._hook = hook

    @classmethod
    def mute(cls) -> None:
        """Drop these errors in this thread."""
        cls.muted.add(get_ident())
        if not isinstance(sys.excepthook, cls):
            sys.excepthook = cls(sys.excepthook)

    def __call__(self, kind: type[BaseException], error: BaseException, trace: object) -> None:
        if kind is not OSError or trace is not None or get_ident() not in self.muted:
            self._hook(kind, error, trace)


class SelfSendingFile(Body):
    """A slice of a file that sends itself when uWSGI asks for its descriptor.

    If a filter iterates or reads it, it is like any other Body.
    """

    sender: str = "wsgi.file_wrapper"
    server: Server
    sent: int | None
    blocks: BlockReader

    def __init__(self, send: Send, server: Server, file_slice: FileSlice) -> None:
        super().__init__(send, server)
        self._file_slice = file_slice

    def begin(self) -> None:
        """A filter in C iterates. uWSGI would have asked for the descriptor."""
        self.sender = "read"
        super().begin()

    def fileno(self) -> int:
        """Send the slice, if uWSGI is asking.

        :raises io.UnsupportedOperation: always.
        """
        if self.server.is_iterating(self, calling_frame()) and not self._begun:
            self._sendfile()
        raise io.UnsupportedOperation("fileno")

    def _sendfile(self) -> None:
        """Leave what cannot be sent to read(), which goes on or meets the error."""
        fd = self._file_slice.file.fileno()
        start, stop = self._file_slice.start, self._file_slice.stop
        try:
            duplicate = os.dup(fd)  # uwsgi.sendfile() closes what it gets.
        except OSError:  # There are no more descriptors.
            return
        self._begun = True
        self.sent = None  # It does not tell how much it sent.
        try:
            import_module("uwsgi").sendfile(duplicate, 0, start, stop - start)
        except (OSError, SystemError):  # It prints its OSError, and then has none to raise.
            # uWSGI sends nothing more. read() raises an error if the file is too short.
            _ExceptHook.mute()
            size = os.fstat(fd).st_size
            if size >= stop:
                self.server.end()
                self.fail(ConnectionError("uWSGI has not sent all of the file, and logged why"))
            stop = min(stop, max(start, size))
        self.blocks.skip(stop - start)

    def _close(self, app_iter: object) -> None:
        _ExceptHook.muted.discard(get_ident())
        super()._close(app_iter)

    def read(self, size: int = -1) -> bytes:
        """Up to size bytes of what is left; all of it if size is negative."""
        return b"".join(self) if size < 0 else self.next_block(size, calling_frame())
