"""The chain: who sends the file.

The policy stands in :func:`open_body`, whole: a small file is read at once; else
the server's own wrapper, then os.sendfile, then a read(size) loop. A sender
returns the body for the server, or :class:`~wsgifile.transfer.Declined`, and **declined
means nothing was touched**: no byte sent, no position moved, no header changed.

Those two take the bytes from a descriptor past what WSGI defines, so they
ask the :class:`~wsgifile.servers.Server` at hand, which declines unless nothing
stands between it and us.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from .body import Body, Whole
from .page_cache import lets_wait
from .recognise import FileSlice
from .send import Send
from .server import Server
from .sockets import apart, can_sendfile, sendfile
from .transfer import Declined
from .wrapper import FileReadError, FileWrapper

__all__ = ["open_body"]

#: Up to so many bytes are read at once: a list of one block is what servers do best.
#: 4 KiB on wsgiref: 5,500 requests/s, by os.sendfile 4,600. With 256 KiB, a file of
#: 100 KiB on gunicorn: 4,500, by os.sendfile 5,200.
SMALL = 65536

_HAS_PREAD = hasattr(os, "pread")


def open_body(send: Send, server: Server) -> Iterable[bytes]:
    """The body by the first sender that does not decline."""
    plan = send.plan
    if send.watch is not None:
        send.watch.server = server
    if plan.sized and plan.count and plan.count <= SMALL and send.region.size is not None:
        data = read_whole(send, plan.count)
        if data is not None:
            server.send_blocks()
            return Whole(send, data)
    if plan.count == 0:
        return Body(send, server)
    what = send.slice()
    for name, sender in _CHAIN:
        body = what if isinstance(what, Declined) else sender(send, server, what)
        if not isinstance(body, Declined):
            return body
        if send.watch is not None:
            send.watch.declined.append((name, body))
    return Body(send, server)  # Blocks of read(size). The server does the sending.


def read_whole(send: Send, count: int) -> bytes | None:
    """All there is to send, of a file that lets nobody wait.

    None if it cannot be had: a body knows how to tell that to each server.
    """
    region, plan, data = send.region, send.plan, b""
    try:
        if _HAS_PREAD and region.kernel and region.offset is not None and not plan.parts:
            data = os.pread(region.kernel.fileno(), count, region.offset + plan.start)
        else:
            blocks = send.blocks()
            while len(data) < count:
                data += blocks.next_block(count)
    except (OSError, FileReadError):
        return None
    return data if len(data) == count else None


def server_wrapper(send: Send, server: Server, what: FileSlice) -> Iterable[bytes] | Declined:
    """The server's own wsgi.file_wrapper, made safe."""
    return server.wrap(send, what)


def os_sendfile(send: Send, server: Server, what: FileSlice) -> Body | Declined:
    """os.sendfile to the server's socket, if that is one which we know to wait for."""
    sock = server.socket()
    if isinstance(sock, Declined):
        return sock
    if not can_sendfile(sock):
        return Declined("the socket is none of the kinds that are known, or encrypts")
    call = apart(sock)
    if call is not None and lets_wait(what.file.fileno()):
        return ReadApart(send, server, call)
    return SendfileBody(send, server, what, sock)


#: In their order, and under names by which it is told who declined.
_CHAIN: tuple[tuple[str, Callable[[Send, Server, FileSlice], Iterable[bytes] | Declined]], ...] = (
    ("the server's wrapper", server_wrapper),
    ("os.sendfile", os_sendfile),
)


class ReadApart(Body):
    """Blocks that are read in a thread of the system, as others would wait for them, too."""

    def __init__(self, send: Send, server: Server, call: Callable[..., bytes]) -> None:
        super().__init__(send, server)
        self._call = call

    def read_block(self, size: int) -> bytes:
        """By another thread, as a file on disk does not mind who reads it."""
        return self._call(self.blocks.next_block, size)


class SendfileBody(Body):
    """Sends itself by os.sendfile when the server asks for the first block."""

    sender = "os.sendfile"
    sent: int
    blocks: FileWrapper  # As what is one slice.

    def __init__(self, send: Send, server: Server, what: FileSlice, sock: Any) -> None:
        super().__init__(send, server)
        self._what = what
        self._sock = sock

    def begin(self) -> None:
        """Send all. What is left then, of a file that runs short, read() will see to."""
        self.server.send_blocks()
        self.server.write(b"")  # The header leaves now.
        for sent in sendfile(self._sock, self._what):
            self.blocks.skip(sent)
            self.sent += sent
            self.server.count_sent(sent)
