"""os.sendfile to a socket, waiting in the way that this socket waits.

By the socket's exact type: TLS encrypts what passes, and what another
sub-class does is not known.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .senders import FileSlice

__all__ = ["can_sendfile", "corked", "is_plain", "no_delay", "sendfile"]

#: The most bytes of one call. Linux sends less than 2 GiB at once anyway.
_AT_ONCE = 1 << 30
#: The same where nobody else runs meanwhile.
_AT_ONCE_COOPERATIVE = 1 << 20


def _poll(sock: Any) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    timeout = sock.gettimeout()
    if not poll.poll(None if timeout is None else timeout * 1000):
        raise TimeoutError("timed out")


def _gevent(sock: Any) -> None:
    import_module("gevent.socket").wait_write(sock.fileno(), sock.gettimeout())


def _eventlet(sock: Any) -> None:
    import_module("eventlet.hubs").trampoline(
        sock, write=True, timeout=sock.gettimeout(), timeout_exc=TimeoutError
    )


#: How to wait until a socket takes more, by module and name of its type:
#: monkey patching puts other types in the place of ``socket.socket``.
_WAIT: dict[tuple[str, str], Callable[[Any], None]] = {
    ("socket", "socket"): _poll,
    ("gevent._socket3", "socket"): _gevent,
    ("eventlet.greenio.base", "GreenSocket"): _eventlet,
}


def _kind(sock: object) -> tuple[str, str]:
    return type(sock).__module__, type(sock).__qualname__


def is_plain(sock: object) -> bool:
    """Whether this is the standard library's own socket."""
    return _kind(sock) == ("socket", "socket")


def can_sendfile(sock: Any) -> bool:
    """Whether :func:`sendfile` is for this socket; not for one that must not wait."""
    return hasattr(os, "sendfile") and _kind(sock) in _WAIT and sock.gettimeout() != 0


def sendfile(sock: Any, what: FileSlice) -> Iterator[int]:
    """Send what, and yield the number of bytes after each step.

    It ends early if the file does, or if the system cannot send this one: then
    reading goes on from there, or finds out. On a cooperative socket others
    get their turn before each step.

    :raises OSError: when the client has gone, TimeoutError when it takes nothing.
    """
    wait = _WAIT[_kind(sock)]
    cooperative = not is_plain(sock)
    at_once = _AT_ONCE_COOPERATIVE if cooperative else _AT_ONCE
    offset, end = what.offset, what.offset + what.count
    while offset < end:
        if cooperative:
            wait(sock)
        try:
            sent = os.sendfile(
                sock.fileno(), what.file.fileno(), offset, min(end - offset, at_once)
            )
        except BlockingIOError:
            if not cooperative:
                wait(sock)
            continue
        except OSError as error:
            if error.errno in _CANNOT:
                return
            raise
        if not sent:
            return
        offset += sent
        yield sent


# Some file systems have no sendfile, and some containers forbid it.
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


@contextlib.contextmanager
def corked(sock: Any) -> Iterator[None]:
    """Have the socket send full packets only, meanwhile (Linux).

    Header and body are two writes. Without this, the end of a small body waits
    for the client's acknowledgement of the header, up to 40 ms.
    """
    if sock.family not in _TCP or not hasattr(socket, "TCP_CORK"):
        yield
        return
    no_delay(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    try:
        yield
    finally:
        # Not to hide the error of a connection that has gone.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


def no_delay(sock: Any) -> None:
    """Have the socket send the last packet of a response without waiting."""
    if sock.family in _TCP:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_TCP = frozenset({socket.AF_INET, socket.AF_INET6})
