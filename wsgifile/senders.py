"""Who sends the file: the policy, and two of the senders.

:func:`open_body` holds the whole policy. A small file is read at once. Otherwise the
senders are asked in turn: the server's own wrapper, then os.sendfile, then a loop of
``read(size)``. A sender returns the body for the server, or
:class:`~wsgifile.transfer.Declined`, and **declined means nothing was touched**: no byte
sent, no position moved, no header changed.

The first two senders take the bytes from a descriptor, outside of what WSGI defines. So
they ask the :class:`~wsgifile.server.Server`, which declines if anything stands between
the server and us.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from .blocks import FileReadError
from .body import Body, OneBlock
from .page_cache import may_block
from .recognise import FileSlice
from .send import Send
from .server import Server
from .sockets import can_sendfile, run_in_thread
from .transfer import Declined

__all__ = ["open_body"]

#: Up to this number of bytes is read at once. A file of 4 KiB: 5,500 requests/s, by
#: os.sendfile 4,600. With 256 KiB here, a file of 100 KiB: 4,500, by os.sendfile 5,200.
SMALL = 65536

_HAS_PREAD = hasattr(os, "pread")


def open_body(send: Send, server: Server) -> Iterable[bytes]:
    """The body, by the first sender that does not decline."""
    plan = send.plan
    if send.watch is not None:
        send.watch.server = server
    data = read_small(send, server)
    if data is not None:
        server.prepare_to_send()
        return OneBlock(send, data)
    if plan.count == 0:
        # A Body begins with an empty block. A server that alters the body makes a body of that.
        return OneBlock(send, b"") if server.alters_body else Body(send, server)
    file_slice = send.file_slice()
    for name, sender in _SENDERS:
        body = file_slice if isinstance(file_slice, Declined) else sender(send, server, file_slice)
        if not isinstance(body, Declined):
            return body
        if send.watch is not None:
            send.watch.declined.append((name, body))
    if server.times_writes:
        send.block_size = min(send.block_size, SMALL)
    return Body(send, server)


def read_small(send: Send, server: Server) -> bytes | None:
    """All bytes to send, if they are few, and certain to be what the server sends."""
    plan = send.plan
    count = plan.count
    if not count or not plan.sized or send.region.end is None or server.alters_body:
        return None
    # A file that is read before the header is sent cannot fail after it and end the connection.
    if count <= SMALL or (count <= send.block_size and server.keeps_connection(sized=plan.sized)):
        return read_all(send, count)
    return None


def read_all(send: Send, count: int) -> bytes | None:
    """All count bytes to send.

    None if they cannot be had. Then a Body meets the error again, and can tell the server.

    :raises FileReadError: if a file that is elsewhere cannot be read. Nothing has been sent.
    """
    kernel, data = send.region.kernel, b""
    first, *more = send.plan.parts
    try:
        if kernel is not None and _HAS_PREAD and not (more or isinstance(first, bytes)):
            data = os.pread(kernel.fileno(), count, first[0])
        else:
            blocks = send.read_now()
            while len(data) < count:
                data += blocks.next_block(count)
    except (OSError, FileReadError):
        if send.region.source is not None:
            raise  # A store is not asked again. Nothing was sent, so the client gets a 500.
        return None
    return data if len(data) == count else None


def server_wrapper(
    send: Send, server: Server, file_slice: FileSlice
) -> Iterable[bytes] | Declined:
    """The server's own wsgi.file_wrapper, made safe."""
    declined = None if server.wrapper_reads else send.no_sendfile
    return server.wrap(send, file_slice) if declined is None else declined


def os_sendfile(send: Send, server: Server, file_slice: FileSlice) -> Body | Declined:
    """os.sendfile to the server's socket, if we know how that socket waits."""
    sock = server.socket()
    if isinstance(sock, Declined):
        return sock
    if not can_sendfile(sock):
        return Declined("the socket encrypts, or its type is not known")
    call = run_in_thread(sock)
    if call is not None and may_block(file_slice.file.fileno()):
        return ReadInThread(send, server, call)
    declined = send.no_sendfile
    if declined is not None:
        return declined
    return SendfileBody(send, server, file_slice, sock)


#: They are asked in this order. The names tell ``--explain`` who declined.
_SENDERS: tuple[
    tuple[str, Callable[[Send, Server, FileSlice], Iterable[bytes] | Declined]], ...
] = (
    ("the server's wrapper", server_wrapper),
    ("os.sendfile", os_sendfile),
)


class ReadInThread(Body):
    """Blocks that another thread reads, because this one serves other clients too."""

    def __init__(self, send: Send, server: Server, call: Callable[..., bytes]) -> None:
        super().__init__(send, server)
        self._call = call

    def read_block(self, size: int) -> bytes:
        """Up to size more bytes. Any thread may read a file on disk."""
        return self._call(self.blocks.next_block, size)


class SendfileBody(Body):
    """Sends itself by os.sendfile when the server asks for the first block."""

    sender = "os.sendfile"

    def __init__(self, send: Send, server: Server, file_slice: FileSlice, sock: Any) -> None:
        super().__init__(send, server)
        self._file_slice = file_slice
        self._sock = sock

    def begin(self) -> None:
        """Send all of it. If the file runs short, read() finds out afterwards."""
        super().begin()
        self.server.write(b"")  # This sends the header.
        self.send_slice(self._file_slice, self._sock)
