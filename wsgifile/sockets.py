"""os.sendfile to a socket, waiting in the way that this kind of socket waits.

The kind goes by the socket's exact type: a TLS socket encrypts what passes through it, and
nobody knows what another sub-class does.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from . import registry
from .call_size import LARGEST, CallSize
from .log import warn_once
from .page_cache import Lookahead, prefetch
from .recognise import FileSlice

__all__ = [
    "SocketKind",
    "can_sendfile",
    "can_wait",
    "cannot_sendfile",
    "is_standard",
    "no_delay",
    "queued",
    "run_in_thread",
    "send_some",
    "sendfile",
    "wait_patiently",
]

#: The largest number of bytes sent at once, before other connections get their turn.
_AT_ONCE = LARGEST
#: A call that takes this number of seconds has waited for the client, or for other threads
#: that want the interpreter. Then fewer and larger calls are better.
_LONG = 0.002


class SocketKind(NamedTuple):
    """How sockets of one type wait."""

    #: ``wait(sock, timeout)`` until the socket takes more. It raises TimeoutError.
    wait: Callable[[Any, float], object]
    #: ``call(function, *args)`` in a system thread. None: there is no need, because the
    #: thread at hand serves no other socket.
    call: Callable[..., Any] | None


def _poll(sock: Any, timeout: float) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    if not poll.poll(1000 * timeout):
        raise TimeoutError("timed out")


_STANDARD = SocketKind(_poll, None)


def _kind(sock: Any) -> SocketKind | None:
    return _kind_of(type(sock))  # type: ignore[arg-type]  # mypy takes types for unhashable.


@lru_cache(64)
def _kind_of(kind: type) -> SocketKind | None:
    name = kind.__module__, kind.__qualname__
    if name == ("socket", "socket"):
        return _STANDARD
    known = registry.SOCKETS.get(name)
    return None if known is None else registry.load(known).SOCKET


def is_standard(sock: Any) -> bool:
    """Whether this is the standard library's own socket."""
    return _kind(sock) is _STANDARD


def can_wait(sock: Any) -> bool:
    """Whether the thread at hand may wait until this socket takes more, encrypted or not."""
    kind = type(sock)
    encrypts = (kind.__module__, kind.__qualname__) == ("ssl", "SSLSocket")
    return (encrypts or is_standard(sock)) and sock.gettimeout() != 0


def can_sendfile(sock: Any) -> bool:
    """Whether :func:`sendfile` can use this socket. It cannot if the socket must not wait."""
    return hasattr(os, "sendfile") and _kind(sock) is not None and sock.gettimeout() != 0


def run_in_thread(sock: Any) -> Callable[..., Any] | None:
    """``call(function, *args)`` in a system thread, for calls that block; None: no need.

    There is a need if one thread serves many sockets of this type.
    """
    kind = _kind(sock)
    return None if kind is None else kind.call


def queued(fd: int) -> int:
    """Number of bytes that the client has not acknowledged, by tcp(7) and unix(7).

    A client may take bytes for minutes before the socket takes more: Linux waits until a
    third of the queue is free.
    """
    try:
        tiocoutq = import_module("termios").TIOCOUTQ
        (count,) = struct.unpack("i", import_module("fcntl").ioctl(fd, tiocoutq, bytes(4)))
    except (ImportError, AttributeError, OSError, ValueError):  # Nobody can tell.
        return 0
    return int(count)


def wait_patiently(fd: int, wait: Callable[[float], bool], timeout: float) -> None:
    """Wait until the socket takes more, as long as the client takes something.

    :param wait: waits for a number of seconds; False if the socket takes nothing then.
    :param timeout: seconds that the client may take nothing.
    :raises TimeoutError: if it takes nothing.
    """
    began, left = time.monotonic(), None
    while not wait(min(1.0, timeout)):
        before, left, now = left, queued(fd), time.monotonic()
        if before is None or left < before:
            began = now
        elif now >= began + timeout:
            raise TimeoutError("timed out")


def _wait(kind: SocketKind, sock: Any, timeout: float) -> None:
    def wait(seconds: float) -> bool:
        try:
            kind.wait(sock, seconds)
        except TimeoutError:
            return False
        return True

    wait_patiently(sock.fileno(), wait, timeout)


def sendfile(
    sock: Any,
    file_slice: FileSlice,
    timeout: float,
    wait: Callable[[], bool] | None = None,
) -> Iterator[int]:
    """Send the slice, and yield the number of bytes after each step.

    It ends early if the file does, or if the system cannot send this file; read() then goes
    on from there, or meets the error. On a cooperative socket others get their turn before
    each step.

    :param timeout: seconds that the client may take nothing.
    :param wait: waits until the socket takes more, and returns whether to go on. None: as
        sockets of this type wait.
    :raises OSError: if the client has left; TimeoutError if it takes nothing.
    """
    kind = _kind(sock)
    assert kind is not None
    behind = False
    offset, stop = file_slice.start, file_slice.stop
    lookahead = Lookahead(offset)
    while offset < stop:
        count = min(stop - offset, _AT_ONCE)
        if kind.call is not None:
            _wait(kind, sock, timeout)
            # Others must not wait for the disk either.
            fd, left = file_slice.file.fileno(), stop - offset
            if offset >= lookahead.until and not lookahead.check(fd, offset, left, near=behind):
                kind.call(prefetch, fd, offset, count)
                lookahead.until = offset + count
            count = min(count, lookahead.until - offset)
        try:
            sent = send_some(
                sock.fileno(), file_slice.file.fileno(), offset=offset, count=count, behind=behind
            )
        except BlockingIOError:
            if wait is None:
                _wait(kind, sock, timeout)
            elif not wait():
                return
            continue
        except OSError as error:
            if cannot_sendfile(error):
                return
            raise
        if not sent:
            return
        behind = sent < count
        offset += sent
        yield sent


#: Of this process. Nearly all processes have one kind of socket, TCP or unix.
_call_size = CallSize()


def send_some(out: int, in_: int, *, offset: int, count: int, behind: bool) -> int:
    """os.sendfile, in calls of a good size, until the socket takes no more for now.

    :param behind: whether the client was behind the last time. Then small calls gain nothing.
    :returns: the number of bytes sent; 0 at the end of the file.
    :raises OSError: if nothing was sent; BlockingIOError if the socket takes nothing.
    """
    size = _call_size.size
    if behind or count < min(2 * size, LARGEST):
        return os.sendfile(out, in_, offset, count)
    began = time.thread_time()
    sent = _send_in_calls(out, in_, offset=offset, count=count, size=size)
    # A short transfer costs more for each byte, whatever the size of the calls.
    if sent >= LARGEST // 4:
        _call_size.add(sent, time.thread_time() - began)
    return sent


def _send_in_calls(out: int, in_: int, offset: int, count: int, size: int) -> int:
    sent, began, call = 0, time.perf_counter(), size
    while sent < count:
        try:
            more = os.sendfile(out, in_, offset + sent, min(count - sent, call))
        except OSError:
            if sent:
                break
            raise
        if not more:
            break
        sent += more
        ended = time.perf_counter()
        call = size if ended - began < _LONG else count
        began = ended
    return sent


# Some file systems have no sendfile, and some containers forbid it.
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_OF_THE_FILE = frozenset({errno.EIO, errno.ESTALE})


def cannot_sendfile(error: OSError) -> bool:
    """Whether this error of os.sendfile is about the file or the system, not the client.

    Then the file is read instead. Reading meets an error of the disk again, and raises it as a
    FileReadError, which no server takes for a client that has left.
    """
    if error.errno in _OF_THE_FILE:
        return True
    if error.errno not in _CANNOT:
        return False
    warn_once("os.sendfile gave up, files are read instead: %s", error)
    return True


def no_delay(sock: Any) -> None:
    """Have the socket send what it has without waiting for acknowledgements.

    TCP_CORK instead would make large packets. They gain nothing through a network interface or
    behind nginx, and cost more processor time here.
    """
    if _kind(sock) is not None and sock.family in _TCP:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_TCP = frozenset({socket.AF_INET, socket.AF_INET6})
