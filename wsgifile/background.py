"""Sending the rest of a response after the worker has gone on to the next request.

A client that falls behind would hold a worker for as long as it likes. So its connection is
taken from the server: :func:`take` duplicates the connection's descriptor and puts a dummy
in its place, one end of a socketpair whose other end is closed. Whatever the server does
afterwards happens to the dummy. One thread and one epoll per process send the rest of all
such responses. A response costs two descriptors there, no thread and no buffer.

The connection ends with its response. It is half-closed first, and closed when the client
has acknowledged everything, because a close with unread input would send a reset (RFC 9112,
section 9.6).
"""

from __future__ import annotations

import _thread
import atexit
import os
import select
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from types import BuiltinFunctionType
from typing import Any

from .blocks import FileReadError, ShortFileError
from .log import logger, one_line
from .page_cache import Lookahead, prefetch
from .recognise import KernelFile
from .sockets import cannot_sendfile, queued, send_some
from .threads import pool
from .transfer import Declined

__all__ = ["Grace", "Rest", "default_limit", "is_possible", "take"]

#: The largest number of bytes sent to one client before others get their turn.
_TURN = 1 << 20
#: Bytes to read at once where os.sendfile cannot send a file, and of a client's input.
_BLOCK = 64 << 10
#: Seconds between two looks at the deadlines.
_TICK = 1.0
#: Seconds to wait for the client to close, once it has acknowledged everything.
_LINGER = 2.0
#: Seconds between two looks at the deliveries while the process ends.
_NAP = 0.05
#: The largest number of deliveries, if the system sets no lower limit of descriptors.
_MOST = 100_000
#: struct linger, by which close() sends a reset and drops what is left.
_RESET = struct.pack("ii", 1, 0)

#: Called once with the number of bytes sent, the worker's too, and the error that ended it early.
OnEnd = Callable[[int, BaseException | None], object]

_AT_ONCE = {signal.SIGINT, signal.SIGTERM}

#: A call of on_end that is due, and its arguments.
_End = tuple[OnEnd, int, BaseException | None]

_EPOLL = hasattr(select, "epoll")


class Grace:
    """How long a server lets requests under way go on when the process ends.

    One is made for all responses that are sent at the same time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def alive(self) -> None:
        """Tell the server that the process lives. Called several times in a second."""

    def close(self) -> None:
        """Nothing is sent any more, or the process was forked."""


@dataclass(slots=True)
class Rest:
    """What is left to send of a response, to whom, and how long the client may take nothing."""

    #: The server's descriptor of the connection.
    connection: int
    #: Bytes, and ranges of the file, in this order.
    pieces: list[memoryview | tuple[int, int]]
    #: The file of those ranges.
    file: KernelFile | None
    #: Seconds that the client may take nothing.
    timeout: float
    #: The largest number of such responses in this process.
    limit: int
    #: Number of bytes that the worker has sent.
    sent: int
    on_end: OnEnd
    #: Whether an error has to end the connection by a reset.
    reset: bool
    #: Whether the file has to be read.
    read: bool
    #: Makes the server's :class:`Grace`.
    grace: Callable[[], Grace]


@dataclass(slots=True, eq=False)
class _Delivery:
    """A :class:`Rest` that is being sent."""

    sock: socket.socket
    #: Our own descriptor of the file.
    file: int | None
    #: For its name.
    filelike: object
    pieces: deque[memoryview | tuple[int, int]]
    timeout: float
    on_end: OnEnd
    reset: bool
    #: The time at which the client has taken nothing for too long.
    deadline: float
    #: Number of bytes sent, with those that the worker has sent.
    sent: int
    lookahead: Lookahead = field(default_factory=lambda: Lookahead(0))
    #: Whether the file is read, as os.sendfile has refused it, or may not be used.
    read: bool = False
    #: Whether another thread reads the file's next bytes from the disk.
    fetching: bool = False
    #: Bytes in the socket's queue at the last look.
    queued: int = 0
    #: Whether the client sends no more.
    eof: bool = False

    def send(self) -> int:
        """Send until the socket takes no more, or for one turn; the number of bytes.

        :raises OSError: if the client has left; BlockingIOError if it takes nothing.
        :raises FileReadError: if the file cannot be read, or has become shorter.
        """
        piece = self.pieces[0]
        if isinstance(piece, memoryview):
            sent = self.sock.send(piece[:_TURN])
            left: memoryview | tuple[int, int] = piece[sent:]
            done = sent == len(piece)
        else:
            start, stop = piece
            sent = self._send_file(start, min(stop - start, _TURN))
            left, done = (start + sent, stop), start + sent == stop
        if done:
            self.pieces.popleft()
        else:
            self.pieces[0] = left
        self.sent += sent
        return sent

    def _send_file(self, start: int, count: int) -> int:
        assert self.file is not None
        count = min(count, self.lookahead.until - start)
        if not self.read:
            try:
                sent = send_some(
                    self.sock.fileno(), self.file, offset=start, count=count, behind=True
                )
            except OSError as error:
                if isinstance(error, BlockingIOError) or not cannot_sendfile(error):
                    raise
                self.read = True
        if self.read:
            try:
                data = os.pread(self.file, min(count, _BLOCK), start)
            except OSError as error:
                raise FileReadError.of(self.filelike, error) from error
            sent = self.sock.send(data) if data else 0
        if not sent:
            raise ShortFileError(self.filelike, self.sent + self.left, self.sent)
        return sent

    @property
    def left(self) -> int:
        """Number of bytes to send."""
        return sum(_length(piece) for piece in self.pieces)

    def look(self, now: float) -> None:
        """Give the client more time if it has taken something of the socket's queue."""
        before, self.queued = self.queued, queued(self.sock.fileno())
        if self.queued < before:
            self.deadline = now + (self.timeout if self.queued or self.pieces else _LINGER)

    def is_over(self) -> bool:
        """Whether the client, to which all was sent, has all and has closed, or has left."""
        failed = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        return failed or (self.eof and not self.queued)

    def close(self) -> None:
        """Give back the descriptors."""
        file, self.file = self.file, None
        # What reads from it closes it afterwards.
        if file is not None and not self.fetching:
            os.close(file)
        self.pieces.clear()
        self.sock.close()


def _length(piece: memoryview | tuple[int, int]) -> int:
    return len(piece) if isinstance(piece, memoryview) else piece[1] - piece[0]


class _Sender:
    """All deliveries of this process, and the thread that sends them."""

    def __init__(self) -> None:
        # uWSGI calls finish() in the handler of a signal, which may interrupt take().
        self._lock = threading.RLock()
        self._deliveries: dict[int, _Delivery] = {}
        #: While the thread runs.
        self._epoll: select.epoll | None = None
        self._grace: Grace | None = None

    def take(self, rest: Rest) -> Declined | None:
        """See :func:`take`."""
        with self._lock:
            if len(self._deliveries) >= rest.limit:
                return Declined(f"{rest.limit} responses are sent in the background already")
            try:
                epoll = self._started()
                if self._grace is None:
                    self._grace = rest.grace()
                self._swap(rest, epoll)
            except (OSError, ValueError) as error:  # Or the server ends, and has closed a file.
                return Declined(f"the connection cannot be taken: {error}")
        return None

    def _started(self) -> select.epoll:
        """The epoll of the thread, which is started if it does not run."""
        if self._epoll is None:
            epoll = select.epoll()
            self._epoll = epoll
            if not pool("background").submit(self._run):
                self._epoll = None
                epoll.close()
                raise OSError("no thread can be started")
        return self._epoll

    def _swap(self, rest: Rest, epoll: select.epoll) -> None:
        """Put a dummy in the place of the connection.

        Everything that can fail comes first, and is undone if it fails.
        """
        fd, file = rest.connection, None
        with ExitStack() as undo:
            if rest.file is not None:
                file = os.dup(rest.file.fileno())
                undo.callback(os.close, file)
            # O_NONBLOCK belongs to the open connection, so it also changes for the server's
            # descriptor. A new socket object changes it too, if there is a default timeout.
            blocking = os.get_blocking(fd)
            undo.callback(os.set_blocking, fd, blocking)
            sock = undo.enter_context(_duplicate(fd))
            sock.setblocking(False)
            _register(epoll, sock)
            undo.callback(epoll.unregister, sock)
            dummy, peer = socket.socketpair()
            peer.close()
            with dummy:
                os.set_blocking(dummy.fileno(), blocking)
                os.dup2(dummy.fileno(), fd, inheritable=os.get_inheritable(fd))
            undo.pop_all()
        self._deliveries[sock.fileno()] = _Delivery(
            sock=sock,
            file=file,
            filelike=rest.file,
            pieces=deque(rest.pieces),
            timeout=rest.timeout,
            on_end=rest.on_end,
            reset=rest.reset,
            deadline=time.monotonic() + rest.timeout,
            sent=rest.sent,
            read=rest.read,
        )

    def _run(self) -> None:
        """Send, until nothing is left to send. The thread's work."""
        look = time.monotonic() + _TICK
        while True:
            epoll = self._epoll
            assert epoll is not None
            events = epoll.poll(_TICK)
            ended = [end for fd, event in events if (end := self._turn(fd, event))]
            if time.monotonic() >= look:
                ended += self._late()
                look = time.monotonic() + _TICK
            _report(ended)
            with self._lock:
                if not self._deliveries:
                    self._close()
                    return

    def _turn(self, fd: int, event: int) -> _End | None:
        """Handle an event: the connection takes more, has input, or has ended."""
        with self._lock:
            delivery = self._deliveries.get(fd)
            if delivery is None:  # The process ends.
                return None
            try:
                if not delivery.pieces:
                    self._linger(delivery, event)
                elif not self._fetch(delivery):
                    delivery.send()
                    delivery.deadline = time.monotonic() + delivery.timeout
                    if not delivery.pieces:
                        return self._sent(delivery)
            except BlockingIOError:
                pass
            except Exception as error:
                return self._end(delivery, error)
            return None

    def _fetch(self, delivery: _Delivery) -> bool:
        """Whether another thread waits for the disk to read what comes next.

        The connection is out of the epoll meanwhile.
        """
        piece, lookahead = delivery.pieces[0], delivery.lookahead
        if isinstance(piece, memoryview):
            return False
        start, stop = piece
        if start < lookahead.until:
            return False
        file, count = delivery.file, min(stop - start, _TURN)
        assert file is not None
        if lookahead.check(file, start, stop - start, near=True):
            return False
        lookahead.until = start + count
        delivery.fetching = True
        self._unregister(delivery)

        def fetch() -> None:
            prefetch(file, start, count)
            self._fetched(delivery, file)

        if not pool("disks").submit(fetch):
            # Then everybody waits for the disk.
            delivery.fetching = False
            self._register(delivery)
            return False
        return True

    def _fetched(self, delivery: _Delivery, file: int) -> None:
        end = None
        with self._lock:
            delivery.fetching = False
            if delivery.file is None:  # The process ends.
                os.close(file)
                return
            delivery.deadline = time.monotonic() + delivery.timeout
            try:
                self._register(delivery)
            except OSError as error:
                end = self._end(delivery, error)
        if end is not None:
            _report([end])

    def _register(self, delivery: _Delivery) -> None:
        assert self._epoll is not None
        _register(self._epoll, delivery.sock)

    def _unregister(self, delivery: _Delivery) -> None:
        assert self._epoll is not None
        with suppress(OSError):
            self._epoll.unregister(delivery.sock)

    def _sent(self, delivery: _Delivery) -> _End:
        """The socket has taken everything. See that the client gets it."""
        assert self._epoll is not None
        if delivery.file is not None:
            file, delivery.file = delivery.file, None
            os.close(file)
        end = delivery.on_end, delivery.sent, None
        delivery.queued = 1 << 62
        try:
            delivery.sock.shutdown(socket.SHUT_WR)
            self._epoll.modify(delivery.sock, select.EPOLLIN)
        except OSError:
            self._end(delivery, None)
        return end

    def _linger(self, delivery: _Delivery, event: int) -> None:
        """Everything was sent. The client sends something, or has closed one or both ways."""
        if event & select.EPOLLERR:
            self._end(delivery, None)
        elif event & select.EPOLLHUP:
            delivery.eof = True
            self._unregister(delivery)
            self._look(delivery, time.monotonic())
        else:
            delivery.sock.recv(_BLOCK)  # Dropped.

    def _late(self) -> list[_End]:
        """Look at all deadlines."""
        now = time.monotonic()
        with self._lock:
            looked = [self._look(delivery, now) for delivery in list(self._deliveries.values())]
        return [end for end in looked if end is not None]

    def _look(self, delivery: _Delivery, now: float) -> _End | None:
        delivery.look(now)
        if delivery.pieces:
            if now >= delivery.deadline and not delivery.fetching:
                return self._end(delivery, TimeoutError("timed out"))
        elif now >= delivery.deadline or delivery.is_over():
            self._end(delivery, None)
        return None

    def _end(self, delivery: _Delivery, error: BaseException | None) -> _End | None:
        """Close the connection. Returns what to report; None if all was sent before."""
        sending = bool(delivery.pieces)
        del self._deliveries[delivery.sock.fileno()]
        if not delivery.fetching:
            self._unregister(delivery)
        with suppress(OSError):
            # Without a reset, the kernel would keep what the client did not take, some MiB,
            # for as long as the client stays connected.
            if isinstance(error, TimeoutError) or (error is not None and delivery.reset):
                delivery.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:
                # A process forked meanwhile may have the connection open too.
                delivery.sock.shutdown(socket.SHUT_RDWR)
        delivery.close()
        if isinstance(error, FileReadError):
            logger.warning("%s: the response is cut off", one_line(str(error)))
        return (delivery.on_end, delivery.sent, error) if sending else None

    def finish(self) -> None:
        """Wait for all deliveries, as long as the server lets requests go on; then end them.

        It is called when the process ends.
        """
        if not self._deliveries:
            return
        # A signal's handler may raise.
        with suppress(KeyboardInterrupt, SystemExit):
            began = time.monotonic()
            while not self._is_over(time.monotonic() - began):
                time.sleep(_NAP)
        error = ConnectionAbortedError("the server has stopped")
        with self._lock:
            ended = [self._end(delivery, error) for delivery in list(self._deliveries.values())]
        _report(end for end in ended if end is not None)

    def _is_over(self, seconds: float) -> bool:
        """Whether there is nothing to wait for, after seconds of waiting."""
        with self._lock:
            if not self._deliveries or self._grace is None or _is_killed():
                return True
            self._grace.alive()
            return seconds >= self._grace.seconds

    def _close(self) -> None:
        epoll, self._epoll = self._epoll, None
        if epoll is not None:
            epoll.close()
        grace, self._grace = self._grace, None
        if grace is not None:
            grace.close()

    def forget(self) -> None:
        """This process was forked. The deliveries are its parent's, and so is the epoll."""
        for delivery in self._deliveries.values():
            delivery.fetching = False  # Threads are not forked.
            delivery.close()
        self._close()


def _is_killed() -> bool:
    """Whether the process ends from within the handler of a signal that kills at once.

    uWSGI's workers end like that. Their graceful end is by SIGHUP.
    """
    return not _AT_ONCE.isdisjoint(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def _register(epoll: select.epoll, sock: socket.socket) -> None:
    """Have the epoll tell when the connection takes more."""
    epoll.register(sock, select.EPOLLOUT)


def _duplicate(fd: int) -> socket.socket:
    """A socket of our own for this descriptor's connection."""
    number = os.dup(fd)
    try:
        return socket.socket(fileno=number)
    except BaseException:
        os.close(number)
        raise


def _report(ended: Iterable[_End]) -> None:
    for on_end, sent, error in ended:
        try:
            on_end(sent, error)
        except BaseException:  # The thread must live, as it sends to all other clients.
            logger.exception("a response cannot be reported")


_sender = _Sender()


def _forked() -> None:
    global _sender
    inherited, _sender = _sender, _Sender()
    inherited.forget()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=_forked)
atexit.register(lambda: _sender.finish())


def default_limit() -> int:
    """A quarter of the descriptors that this process may have: each rest needs two."""
    try:
        resource: Any = import_module("resource")
    except ImportError:  # Windows, which has no epoll either.
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(_MOST, int(soft) // 4)


def is_possible() -> bool:
    """Whether this process can send in the background.

    Under monkey patching a thread would be a green one, and stop all others by its epoll.
    """
    return _EPOLL and isinstance(_thread.start_new_thread, BuiltinFunctionType)


def take(rest: Rest) -> Declined | None:
    """Take the connection from the server, and send the rest in the background.

    Declined means nothing was touched. Otherwise the server's descriptor is a dummy.
    """
    if not is_possible():
        return Declined("this process has no epoll, or its threads are green")
    return _sender.take(rest)
