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
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from threading import get_ident
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from ..background import Grace
from ..blocks import BlockReader
from ..body import Body, calling_frame
from ..client import Client, Descriptor, borrowed
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
_MAX = 2**31 - 1
#: What is written to /dev/null at once.
_ZEROS = bytes(1 << 20)
#: struct linger, by which close() sends a reset and drops what is left.
_RESET = struct.pack("ii", 1, 0)


#: Options with which one thread serves many connections.
_COOPERATIVE = re.compile("async|asyncio|gevent|greenlet|loop|tornado|ugreen")
#: Options with which the connection gets other bytes than uWSGI is given: another protocol or
#: TLS, or a route that changes the body. Offload threads are uWSGI's own background.
_CHANGED = re.compile(
    "(ssl|https|suwsgi|puwsgi|fastcgi|fastcgi-nph|raw|zeromq|zmq)-socket|mongrel2.*|zeromq|zmq"
    "|(final-|response-)?route(-.*)?|offload-threads?"
)
_PLAIN = {b"http", b"http11", b"uwsgi"}
#: Seconds that a worker gets to finish its requests by default, and how many of them are not used.
_MERCY, _MARGIN = 60, 2


class Server(Base):
    """uWSGI. Its start_response is a function in C, uwsgi_spit."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        super().__init__(environ, start_response)
        self._sent = 0
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
        # read() cannot go on after an offload thread, which is uWSGI's own background.
        if (file_slice.stop if self.offloads else file_slice.start) >= _MAX:
            return Declined("uwsgi.sendfile() does not reach beyond 2 GiB")
        size = os.fstat(file_slice.file.fileno()).st_size
        if self.offloads and file_slice.stop != size:
            return Declined("an offload thread of uWSGI sends the file to its end")
        body = SelfSendingFile(send, self, file_slice)
        wrapper(body, send.block_size)
        return body

    @property
    def alters_body(self) -> bool:  # type: ignore[override]
        """Whether a route may transform the body. Which request it is for cannot be seen."""
        return _transforms()

    def client(self, timeout: float) -> Client | None:
        """The client, unless the thread serves others too.

        uWSGI itself waits for 4 seconds. If there are offload threads, it does not wait.
        """
        if any(map(_COOPERATIVE.fullmatch, _options())):
            return None
        fd = _connection_fd()
        if fd < 0:
            return None
        kept = "http11-socket" in _options()
        return Client(fd, Descriptor(fd), timeout, self.alive, kept=kept)

    def may_leave(self) -> Declined | None:
        """Not without Python's threads, nor if the connection's bytes are not ours alone."""
        uwsgi = import_module("uwsgi")
        if not getattr(uwsgi, "has_threads", False):
            return Declined("threads are off in uWSGI's settings")
        changed = _changed()
        return Declined(f"{changed[0]} is set in uWSGI") if changed else None

    @property
    def offloads(self) -> bool:
        """Whether uWSGI has a background of its own, for whole files."""
        return _offloads()

    @property
    def resets(self) -> bool:  # type: ignore[override]
        """The router takes the end of our connection for the end of the body."""
        return self._routed

    def count_sent(self, count: int) -> None:
        """Remember them until :meth:`log_sent` is called."""
        self._sent += count

    def end_connection(self) -> None:
        """Nothing follows on it, as the dummy has ended."""
        self.log_sent()

    def log_sent(self) -> None:
        """Have uWSGI's log count what did not pass through uWSGI.

        uWSGI counts what it writes to the connection, so /dev/null is the connection for that.
        """
        fd = _connection_fd()
        # There may be no more descriptors. Then the log has fewer bytes.
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            inheritable, connection = os.get_inheritable(fd), os.dup(fd)
            stack.callback(os.close, connection)
            null = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, null)
            stack.callback(os.dup2, connection, fd, inheritable=inheritable)
            os.dup2(null, fd, inheritable=inheritable)
            while self._sent:
                zeros = _ZEROS if self._sent >= len(_ZEROS) else bytes(self._sent)
                self.write(zeros)
                self._sent -= len(zeros)

    def grace(self) -> Grace:
        """Until the master kills a worker that is to end."""
        mercy = _options().get("worker-reload-mercy", _MERCY)
        return Grace(float(mercy) - _MARGIN)

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
        with borrowed(_connection_fd()) as connection, contextlib.suppress(OSError):
            if self._routed:
                # With --http-keepalive the router takes the end of our connection for the
                # end of the body, and keeps the client's. A reset is an error to it.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:
                connection.shutdown(socket.SHUT_RDWR)


class Hidden(Server):
    """uWSGI behind a filter. If uWSGI itself iterates the body, the connection can end."""

    def wrap(self, send: Send, file_slice: FileSlice) -> Declined:
        """Nothing past the filter."""
        return Declined("a filter hides uWSGI")

    def may_leave(self) -> Declined:
        """What the filter promised is not known."""
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


@contextlib.contextmanager
def _no_sigpipe() -> Iterator[None]:
    """uWSGI logs each SIGPIPE of its process. Python sees the error as an OSError."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        signal.sigtimedwait({signal.SIGPIPE}, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _connection_fd() -> int:
    return int(import_module("uwsgi").connection_fd())


def _changed() -> list[str]:
    """The options by which the connection does not get the bytes that uWSGI is given."""
    options = _options()
    changed = list(filter(_CHANGED.fullmatch, options))
    for name in ("protocol", "socket-protocol"):
        if options.get(name, b"http") not in _PLAIN:
            changed.append(name)
    return changed


def _options() -> dict[str, Any]:
    """What uWSGI was started with, by name; a list if it was given several times."""
    options: dict[str, Any] = getattr(sys.modules.get("uwsgi"), "opt", {})
    return options


def _place(frame: FrameType) -> tuple[int, CodeType, int]:
    return id(frame), frame.f_code, frame.f_lasti


class _ExceptHook:
    """sys.excepthook, by which uWSGI logs its "write error".

    It does so when uwsgi.sendfile() fails, and again when the response ends.
    """

    #: The threads in which it has logged the error for the first time.
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
        #: The client has taken nothing for too long.
        self._late: TimeoutError | None = None

    def begin(self) -> None:
        """A filter in C iterates. uWSGI would have asked for the descriptor."""
        self.sender = "read"
        super().begin()

    def fileno(self) -> int:
        """Send the slice, if uWSGI is asking.

        :raises io.UnsupportedOperation: always.
        """
        if self.server.is_iterating(self, calling_frame()) and not self._begun:
            if not self.server.offloads:
                self._client = self.server.client(self.send.send_timeout)
            try:
                # The header passes through uWSGI, and so does what the client takes at once.
                while self._sendfile():
                    if self._client is not None and not _changed():
                        self._send_directly()
            except TimeoutError as error:
                self._begun, self._late = True, error
            except OSError:  # There are no more descriptors, or the disk fails.
                pass
        raise io.UnsupportedOperation("fileno")

    def _send_directly(self) -> None:
        """Send the rest by os.sendfile, which costs less than pieces that fit."""
        try:
            with _no_sigpipe(), borrowed(_connection_fd()) as sock:
                self.send_slice(self._file_slice, sock)
        except ConnectionError:
            pass  # uwsgi.sendfile() meets the error again, and logs it.
        finally:
            if not self._left:
                self.server.log_sent()

    def _sendfile(self) -> bool:
        """Send as much as the client takes at once. Whether there is more to send this way.

        What cannot be sent is left to read(), which goes on or meets the error.

        :raises TimeoutError: if the client has taken nothing for too long.
        :raises OSError: if nothing was sent.
        """
        fd, start = self._file_slice.file.fileno(), self.blocks.position
        left = min(self._file_slice.stop, _MAX, os.fstat(fd).st_size) - start
        count = self._room(left) if left > 0 else 0
        if not count:  # The file is too short, or its rest is sent in the background.
            return False
        duplicate = os.dup(fd)  # uwsgi.sendfile() closes what it gets.
        self._begun = True
        if self._client is None:
            self.sent = None  # It does not tell how much it sent.
        try:
            import_module("uwsgi").sendfile(duplicate, 0, start, count)
        except (OSError, SystemError):  # It prints its OSError, and then has none to raise.
            self._fail_to_send()
            return False
        self.blocks.skip(count)
        if self.sent is not None:
            self.sent += count
        return start + count < self._file_slice.stop

    def _fail_to_send(self) -> None:
        """uWSGI sends nothing more. If the file is too short, read() raises the error."""
        _ExceptHook.mute()
        self.sent = self._client = None
        start, stop = self.blocks.position, self._file_slice.stop
        size = os.fstat(self._file_slice.file.fileno()).st_size
        if size >= stop:
            self.server.end()
            self.fail(ConnectionError("uWSGI has not sent all of the file, and logged why"))
        self.blocks.skip(min(stop, max(start, size)) - start)

    def _room(self, size: int) -> int:
        if self._late is not None:
            raise self._late
        return super()._room(size)

    def _close(self, app_iter: object) -> None:
        _ExceptHook.muted.discard(get_ident())
        super()._close(app_iter)

    def read(self, size: int = -1) -> bytes:
        """Up to size bytes of what is left; all of it if size is negative."""
        return b"".join(self) if size < 0 else self.next_block(size, calling_frame())
