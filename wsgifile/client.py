"""The client of one response: how much its connection takes, and how long to wait for it.

A server's own write waits for a slow client as long as the server likes: 4 seconds on uWSGI,
10 on cheroot, and on gunicorn's sync worker until the worker is killed. So the sender waits
before each block, and gives the server only what the connection takes at once.

os.sendfile may wait in the kernel, for a moment at a time. On a unix socket, which takes
150 KiB at once, waiting here each time would cost two to five times the processor time.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from .sockets import queued, wait_patiently

__all__ = ["Client", "Descriptor", "borrowed"]

#: Seconds to wait once before a client has fallen behind; more if its packets take longer.
_PATIENCE = 0.05
#: The same where the server would keep the connection, which ends if the client falls behind.
#: A client that shares a busy processor with us may take nothing for longer than 50 ms.
_PATIENCE_KEPT = 0.2
#: Seconds to wait for one response altogether before its client has fallen behind.
_PATIENCE_IN_ALL = 1.0

#: socket(7), of Linux 4.12: what the kernel keeps for the connection, nine numbers.
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")
#: The smoothed time of a round trip in tcp(7)'s TCP_INFO, in microseconds.
_RTT = struct.Struct("68xI")
#: struct timeval, and how long os.sendfile waits before wait() goes on.
_TIMEVAL = struct.Struct("ll")
_MICROSECONDS = 10_000
#: If a call of os.sendfile takes this number of seconds or more, it has waited.
_LONG = 0.01
#: Seconds between two calls of alive().
_HEARTBEAT = 0.5
#: If the client has this number of bytes or fewer to take, it is the disk that we wait for.
_NEARLY_NOTHING = 64 << 10


class SocketOptions(Protocol):
    """What is needed of a socket here."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """See :meth:`socket.socket.getsockopt`."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """See :meth:`socket.socket.setsockopt`."""


class Client:
    """A client that a thread waits for. The thread serves nobody else meanwhile.

    :param fd: the connection's descriptor.
    :param options: the connection.
    :param timeout: seconds that the client may take nothing.
    :param alive: called while the client takes its time, at least once a second.
    :param kept: whether the server keeps the connection for the next request.
    """

    def __init__(
        self,
        fd: int,
        options: SocketOptions,
        timeout: float,
        alive: Callable[[], object],
        *,
        kept: bool,
    ) -> None:
        self.fd = fd
        self._options = options
        self._timeout = timeout
        self.alive = alive
        #: When alive() was called last, and when the connection took something last.
        self._told = self._took = 0.0
        self._least = _PATIENCE_KEPT if kept else _PATIENCE
        #: Whether waiting ends when the client has fallen behind, and whether it has.
        self.may_leave: bool = False
        self.behind: bool = False
        self._waited = 0.0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def wait(self) -> bool:
        """Wait until the connection takes more. False: the client has fallen behind.

        :raises TimeoutError: if it takes nothing for too long.
        """
        if self._poll.poll(0):
            return True
        began = time.monotonic()
        if self.may_leave:
            patience = min(self._patience(), _PATIENCE_IN_ALL - self._waited)
            ready = bool(self._poll.poll(1000 * max(0.0, patience)))
            self._took = time.monotonic()
            self._waited += self._took - began
            self.behind = not ready
            return ready
        wait_patiently(self.fd, self._wait_alive, self._timeout)
        return True

    def _wait_alive(self, seconds: float) -> bool:
        ready = bool(self._poll.poll(1000 * seconds))
        if not ready:
            self.alive()
        return ready

    def room(self, size: int) -> int | None:
        """Wait until the connection takes up to size bytes, and return how many.

        None: the client has fallen behind.

        :raises TimeoutError: if it takes nothing for too long.
        """
        # Python's own sockets, if they have a timeout, wait for the same before they send.
        return max(1, min(size, self._free(size))) if self.wait() else None

    def _free(self, size: int) -> int:
        """The number of bytes that the connection takes, or size if the system cannot tell."""
        try:
            info = self._options.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            _, _, allocated, limit, _, queued, *_ = _MEMINFO.unpack(info)
        except (OSError, struct.error):
            return size
        # A packet occupies up to twice the number of its bytes.
        return int(limit - max(allocated, queued)) // 2

    @contextmanager
    def brief_waits(self) -> Iterator[None]:
        """Have os.sendfile wait for a moment itself before it says that it would block."""
        option = socket.SOL_SOCKET, socket.SO_SNDTIMEO
        was_blocking, self._took = os.get_blocking(self.fd), time.monotonic()
        try:
            before = self._options.getsockopt(*option, _TIMEVAL.size)
            self._options.setsockopt(*option, _TIMEVAL.pack(0, _MICROSECONDS))
            brief = True
        except OSError:  # The system has other structs.
            brief = False
        os.set_blocking(self.fd, brief)
        try:
            yield
        finally:
            os.set_blocking(self.fd, was_blocking)
            if brief:
                self._options.setsockopt(*option, before)

    def keeps_up(self) -> bool:
        """Whether the client keeps up. Called each time os.sendfile has sent something."""
        now = time.monotonic()
        seconds, self._took = now - self._took, now
        if now >= self._told + _HEARTBEAT:
            self._told = now
            self.alive()
        if self.may_leave and seconds > _LONG and queued(self.fd) > _NEARLY_NOTHING:
            self._waited += seconds
            self.behind = self._waited > _PATIENCE_IN_ALL
        return not self.behind

    def _patience(self) -> float:
        """Seconds to wait once. What is on its way to the client is not late."""
        try:
            info = self._options.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
            (rtt,) = _RTT.unpack(info)
        except (OSError, AttributeError, struct.error):  # A unix socket, or not Linux.
            return self._least
        return max(self._least, 2e-6 * float(rtt))


class Descriptor:
    """The options of a connection that is known by its descriptor only."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """See :meth:`socket.socket.getsockopt`."""
        with borrowed(self._fd) as sock:
            return sock.getsockopt(level, option, size)

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """See :meth:`socket.socket.setsockopt`."""
        with borrowed(self._fd) as sock:
            sock.setsockopt(level, option, value)


@contextmanager
def borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket object for a connection that belongs to somebody else."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
