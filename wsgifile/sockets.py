"""os.sendfile to a socket, waiting in the way that this socket waits.

By the socket's exact type: TLS encrypts what passes, and what another
sub-class does is not known.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .log import warn_once
from .page_cache import Lookout, bring_in

if TYPE_CHECKING:
    from .recognise import FileSlice

__all__ = ["apart", "can_sendfile", "gives_up", "is_plain", "no_delay", "send_some", "sendfile"]

#: The most bytes that are sent in one go, before others have their turn.
_AT_ONCE = 1 << 20
#: And in one call: the less there is in the socket's queue, the sooner a page that is
#: in the processor's cache gets to the client. 1 GiB by waitress to a client on
#: loopback, GB/s by size of the calls: 12 KiB 3.3, 15 KiB 3.9, 16 KiB 4.1, 17 to 19 KiB
#: 4.6, 20 KiB 4.5, 24 KiB 3.8, 32 KiB 4.3, 56 KiB 3.4, 112 KiB 3.2, 1 MiB 2.5. Reading
#: 256 KiB at once: 3.0.
_CALL = 18 << 10
#: For a client that is behind that is in vain. 12 of them, with small windows: 0.21 of
#: the CPU time of waitress's own wrapper, with calls of 16 KiB 0.27.
_CALL_BEHIND = 64 << 10
#: A call of so many seconds has waited for the client, or for other threads that want
#: the interpreter. Then it is better to call less often.
_LONG = 0.002


def _poll(sock: Any) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    timeout = sock.gettimeout()
    if not poll.poll(None if timeout is None else timeout * 1000):
        raise TimeoutError("timed out")


def _gevent(sock: Any) -> None:
    import_module("gevent.socket").wait_write(sock.fileno(), sock.gettimeout())


def _gevent_apart(function: Callable[..., Any], *args: Any) -> Any:
    return import_module("gevent").get_hub().threadpool.apply(function, args)


def _eventlet(sock: Any) -> None:
    import_module("eventlet.hubs").trampoline(
        sock, write=True, timeout=sock.gettimeout(), timeout_exc=TimeoutError
    )


def _eventlet_apart(function: Callable[..., Any], *args: Any) -> Any:
    return import_module("eventlet.tpool").execute(function, *args)


#: By module and name of a socket's type: how to wait until it takes more, and how to
#: call what blocks in a thread of the system, if others would wait for it as well.
#: Monkey patching puts other types in the place of ``socket.socket``.
_TYPES: dict[tuple[str, str], tuple[Callable[[Any], None], Callable[..., Any] | None]] = {
    ("socket", "socket"): (_poll, None),
    ("gevent._socket3", "socket"): (_gevent, _gevent_apart),
    ("eventlet.greenio.base", "GreenSocket"): (_eventlet, _eventlet_apart),
}


def _kind(sock: object) -> tuple[str, str]:
    return type(sock).__module__, type(sock).__qualname__


def is_plain(sock: object) -> bool:
    """Whether this is the standard library's own socket."""
    return _kind(sock) == ("socket", "socket")


def can_sendfile(sock: Any) -> bool:
    """Whether :func:`sendfile` is for this socket; not for one that must not wait."""
    return hasattr(os, "sendfile") and _kind(sock) in _TYPES and sock.gettimeout() != 0


def apart(sock: Any) -> Callable[..., Any] | None:
    """``call(function, *args)`` in a thread of the system; None: there is no need.

    There is where the same thread serves other sockets of this type.
    """
    return _TYPES[_kind(sock)][1]


def sendfile(sock: Any, what: FileSlice) -> Iterator[int]:
    """Send what, and yield the number of bytes after each step.

    It ends early if the file does, or if the system cannot send this one: then
    reading goes on from there, or finds out. On a cooperative socket others
    get their turn before each step.

    :raises OSError: when the client has gone, TimeoutError when it takes nothing.
    """
    wait, call = _TYPES[_kind(sock)]
    behind = False
    offset = what.offset
    end = offset + what.count
    lookout = Lookout(offset)
    while offset < end:
        count = min(end - offset, _AT_ONCE)
        if call is not None:
            wait(sock)
            # Nor do they wait for the disk.
            fd, left = what.file.fileno(), end - offset
            if offset >= lookout.until and not lookout.finds(fd, offset, left, near=behind):
                call(bring_in, fd, offset, count)
                lookout.until = offset + count
            count = min(count, lookout.until - offset)
        try:
            sent = send_some(sock.fileno(), what.file.fileno(), offset, count, behind)
        except BlockingIOError:
            wait(sock)
            continue
        except OSError as error:
            if gives_up(error):
                return
            raise
        if not sent:
            return
        behind = sent < count
        offset += sent
        yield sent


def send_some(out: int, in_: int, offset: int, count: int, behind: bool) -> int:
    """os.sendfile, in calls of a good size, until one of them says to stop.

    The number of bytes sent; 0 at the end of the file. behind: whether the client
    was, the last time, so that more waits for it anyway.

    :raises OSError: if nothing was sent, BlockingIOError as the socket takes nothing.
    """
    least = call = _CALL_BEHIND if behind else _CALL
    sent, began = 0, time.perf_counter()
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
        call = least if ended - began < _LONG else count
        began = ended
    return sent


# Some file systems have no sendfile, and some containers forbid it.
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_OF_THE_FILE = frozenset({errno.EIO, errno.ESTALE})


def gives_up(error: OSError) -> bool:
    """Whether os.sendfile cannot send this at all, which is logged, or the disk is bad."""
    if error.errno in _OF_THE_FILE:
        return True  # To read it tells, by an error that is not taken for the client's.
    if error.errno not in _CANNOT:
        return False
    warn_once("os.sendfile gave up, files are read instead: %s", error)
    return True


def no_delay(sock: Any) -> None:
    """Have the socket send what it has without waiting for acknowledgements.

    (Nor would TCP_CORK be of use: it makes large packets, which are slower as above.)
    """
    if _kind(sock) in _TYPES and sock.family in _TCP:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_TCP = frozenset({socket.AF_INET, socket.AF_INET6})
