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

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .body import Body, Whole
from .page_cache import lets_wait
from .plan import Plan
from .read_ahead import ReadAhead
from .recognise import FileRegion, KernelFile
from .sockets import apart, can_sendfile, sendfile
from .transfer import Declined, Watch
from .wrapper import FileReadError, FileWrapper, Joined

if TYPE_CHECKING:
    from .servers import Server

__all__ = ["FileSlice", "Send", "open_body"]

#: Up to so many bytes are read at once: a list of one block is what servers do best.
#: 4 KiB on wsgiref: 5,500 requests/s, by os.sendfile 4,600. With 256 KiB, a file of
#: 100 KiB on gunicorn: 4,500, by os.sendfile 5,200.
SMALL = 65536

_HAS_PREAD = hasattr(os, "pread")


@dataclass(slots=True)
class FileSlice:
    """Bytes that may be taken from a descriptor; count is at least 1."""

    file: KernelFile
    offset: int
    count: int


@dataclass(slots=True)
class Send:
    """What is to be sent, as a value."""

    #: What the application returned, to be closed at the end.
    app_iter: object
    region: FileRegion
    plan: Plan
    #: Bytes to read at once.
    block_size: int
    #: How many blocks to read ahead, of a file that may let us wait.
    read_ahead: int
    #: The server, as far as we know it and talk to it directly.
    server: Server
    #: What start_response returned.
    write: Callable[[bytes], object]
    #: Who wants to know what becomes of it.
    watch: Watch | None = None

    def blocks(self) -> FileWrapper | Joined | ReadAhead:
        """The bytes to send by way of read()."""
        plan = self.plan
        if plan.parts is None:
            blocks = self._blocks(plan.start, plan.count)
            # What has a size is on a disk of this machine or in memory.
            if self.read_ahead and self.region.size is None and plan.count != 0:
                return ReadAhead(blocks, self.read_ahead, self.block_size)
            return blocks
        return Joined(
            FileWrapper.bounded(io.BytesIO(part), 0, len(part))
            if isinstance(part, bytes)
            else self._blocks(part[0], part[1] - part[0])
            for part in plan.parts
        )

    def _blocks(self, start: int, count: int | None) -> FileWrapper:
        offset = self.region.offset
        # Of what does not tell its position there are no ranges.
        at = None if offset is None else offset + start
        blocks = FileWrapper.bounded(self.region.filelike, at, count)
        if count is None:
            blocks.remaining = self.region.limit
        return blocks

    def slice(self) -> FileSlice | Declined:
        """The bytes to send as a slice of a kernel file, if they are one."""
        region, plan = self.region, self.plan
        if region.kernel is None or region.offset is None:
            return Declined(region.why)
        if plan.count is None or not plan.sized:
            return Declined("there is no Content-Length")
        if plan.parts is not None:
            return Declined("several ranges, or the text of an error, are no slice of it")
        return FileSlice(region.kernel, region.offset + plan.start, plan.count)


def open_body(send: Send) -> Iterable[bytes]:
    """The body by the first sender that does not decline."""
    plan = send.plan
    if plan.sized and plan.count and plan.count <= SMALL and send.region.size is not None:
        data = read_whole(send, plan.count)
        if data is not None:
            send.server.send_blocks()
            return Whole(send, data)
    if plan.count == 0:
        return Body(send)
    what = send.slice()
    for name, sender in _CHAIN:
        body = what if isinstance(what, Declined) else sender(send, what)
        if not isinstance(body, Declined):
            return body
        if send.watch is not None:
            send.watch.declined.append((name, body))
    return Body(send)  # Blocks of read(size). The server does the sending.


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


def server_wrapper(send: Send, what: FileSlice) -> Iterable[bytes] | Declined:
    """The server's own wsgi.file_wrapper, made safe."""
    return send.server.wrap(send, what)


def os_sendfile(send: Send, what: FileSlice) -> Body | Declined:
    """os.sendfile to the server's socket, if that is one which we know to wait for."""
    sock = send.server.socket()
    if isinstance(sock, Declined):
        return sock
    if not can_sendfile(sock):
        return Declined("the socket is none of the kinds that are known, or encrypts")
    call = apart(sock)
    if call is not None and lets_wait(what.file.fileno()):
        return ReadApart(send, call)
    return SendfileBody(send, what, sock)


#: In their order, and under names by which it is told who declined.
_CHAIN: tuple[tuple[str, Callable[[Send, FileSlice], Iterable[bytes] | Declined]], ...] = (
    ("the server's wrapper", server_wrapper),
    ("os.sendfile", os_sendfile),
)


class ReadApart(Body):
    """Blocks that are read in a thread of the system, as others would wait for them, too."""

    def __init__(self, send: Send, call: Callable[..., bytes]) -> None:
        super().__init__(send)
        self._call = call

    def read_block(self, size: int) -> bytes:
        """By another thread, as a file on disk does not mind who reads it."""
        return self._call(self.blocks.next_block, size)


class SendfileBody(Body):
    """Sends itself by os.sendfile when the server asks for the first block."""

    sender = "os.sendfile"
    sent: int
    blocks: FileWrapper  # As what is one slice.

    def __init__(self, send: Send, what: FileSlice, sock: Any) -> None:
        super().__init__(send)
        self._what = what
        self._sock = sock

    def begin(self) -> None:
        """Send all. What is left then, of a file that runs short, read() will see to."""
        self.send.server.send_blocks()
        self.send.write(b"")  # The header leaves now.
        for sent in sendfile(self._sock, self._what):
            self.blocks.skip(sent)
            self.sent += sent
            self.send.server.count_sent(sent)
