"""waitress, whose wrapper sends from the main loop, so that no download holds a thread.

waitress recognises its ReadOnlyFileBasedBuffer by isinstance, hands it to the channel, and
asks it for blocks as the socket takes them. Ours derives from it, has an end, and sends by
itself instead of returning blocks. If the file has become shorter, waitress's own tries for
ever; ours raises, and the channel closes.

What other threads may read, such as an object of a store, is sent from the main loop as well.
While its next block is read, the main loop goes on with other clients.

A client may send its next requests before it has read the response to the first. In waitress
a thread then waits until the client has read that, and four such clients stop the server. So
a connection on which we send becomes a :class:`Channel`, where no thread waits.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel

from ..blocks import BlockReader, ChainedReader, FileReadError, ShortFileError, name_of
from ..body import Body
from ..page_cache import Lookahead, may_block, prefetch
from ..read_ahead import DEPTH, ReadAhead
from ..recognise import FileSlice, KernelFile
from ..send import Send
from ..server import Server as Base
from ..server import closed_over
from ..sockets import cannot_sendfile, is_standard, send_some
from ..threads import pool
from ..transfer import Declined

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Channel", "Server"]

#: The largest number of bytes sent before other connections get their turn.
_TURN = 4 << 20
#: What is not in memory is read from the disk by a thread, this number of bytes at a time,
#: while the main loop serves others.
_PIECE = 1 << 20
#: The next request of a connection begins when at most this number of bytes of the responses
#: before it are left to send. This bounds the memory and the open files of a connection.
_AHEAD = 1 << 20


class Server(Base):
    """waitress.task. Its start_response is a function in WSGITask.execute."""

    loop: tuple[str, str] | None = ("waitress.task", "app_iter")
    wrapper_reads = True

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        super().__init__(environ, start_response)
        self._task = closed_over(start_response, "self")
        self._channel = self._task.channel
        if type(self._channel) is HTTPChannel:
            self._channel.__class__ = Channel

    def wrap(self, send: Send, file_slice: FileSlice) -> Body | Declined:
        """A buffer for the channel, if the system can read at a position.

        The main loop closes it. So it declines if close() needs the application's thread, for
        a database connection or a session, and if reading the file may block the main loop.
        """
        declined = self._stays(send)
        if declined is not None:
            return declined
        if not hasattr(os, "pread"):
            return Declined("this system has no pread()")
        if may_block(file_slice.file.fileno()):
            return Declined("reading from this file system may block the main loop")
        channel = self._channel
        can_sendfile = (
            hasattr(os, "sendfile")
            and type(channel) is Channel
            and is_standard(channel.socket)
            and send.no_sendfile is None
        )
        return Buffer(send, self, file_slice, channel if can_sendfile else None)

    def wrap_blocks(self, send: Send) -> Body | Declined:
        """A buffer for the channel, if other threads may read the file and close it."""
        if not send.plan.sized or type(self._channel) is not Channel:
            return Declined("there is no Content-Length, or the channel is not waitress's own")
        declined = self._stays(send)
        if declined is not None:
            return declined
        region = send.region
        if region.is_local and region.kernel is None:
            pieces = send.rest(0)
            if not isinstance(pieces, Declined):
                return MemoryBuffer(send, self, pieces)
        if not (region.is_local or send.depth):
            return Declined("other threads may not read it")
        return ReadBuffer(send, self, self._channel)

    def _stays(self, send: Send) -> Declined | None:
        """Whether only the application's thread may have the file; None if not."""
        if send.region.close_in_thread:
            return Declined("close() has to run in the application's thread")
        if send.region.filelike is self._task.request.get_body_stream():
            return Declined("waitress closes the request's body before the main loop has sent it")
        return None

    def flush_header(self) -> None:
        """Send it now, and no last chunk after it, which waitress adds even for HEAD."""
        self.write(b"")
        self._task.chunked_response = False


class Channel(HTTPChannel):  # type: ignore[misc]
    """A channel that begins a request when the client has taken the responses before it.

    Until then the request holds no thread. If it waits for longer than waitress's setting
    channel_timeout, and the client takes nothing meanwhile, the connection ends. It also ends
    if a thread waits so long to add to a response that is not a file.
    """

    #: Whether a request waits.
    _waiting = False
    _writing = False
    #: Whether a thread waits to write.
    _blocked = False
    requests: list[Any]
    will_close: bool
    last_activity: float

    def service(self) -> None:
        """Answer the next request, or have it wait. A worker thread calls this."""
        with self.outbuf_lock:  # Otherwise all could be sent before _waiting is set.
            self._waiting = self._is_behind()
        if not self._waiting:
            # A request that cannot be read has no path, but waitress logs it if the client leaves.
            self.requests[0].__dict__.setdefault("path", "")
            super().service()

    def write_soon(self, data: Any) -> int:
        """Take a part of a response, as soon as there are not too many before it."""
        self._writing = True
        try:
            count: int = super().write_soon(data)
        finally:
            self._writing = False
        return count

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Called for each part of a response, and between two requests, which need not wait."""
        if self._writing and self.total_outbufs_len > self.adj.outbuf_high_watermark:
            self.last_activity = time.time()  # The application may have been slow.
            self._blocked = True
            super()._flush_outbufs_below_high_watermark()
            self._blocked = False

    def writable(self) -> bool:
        """Whether there is something to send. The main loop calls this all the time."""
        waits = self._waiting or self._blocked or self.will_close
        if waits and time.time() - self.last_activity > self.adj.channel_timeout:
            # waitress never closes a channel that has requests. It marks any other channel to be
            # closed, but closes it only when the client takes more. So wake it.
            self.will_close = True
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        return bool(super().writable())

    def handle_write(self) -> None:
        """Send more. The main loop calls this and handle_close()."""
        super().handle_write()
        self._go_on()

    def handle_close(self) -> None:
        """The connection has ended. service() then drops the requests."""
        super().handle_close()
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._is_behind():
            self._waiting = False
            self.server.add_task(self)

    def _is_behind(self) -> bool:
        limit = min(_AHEAD, self.adj.outbuf_high_watermark)
        return bool(self.total_outbufs_len > limit)


class ChannelBody(Body, ReadOnlyFileBasedBuffer):  # type: ignore[misc]
    """A body in the channel's list of output buffers.

    If a filter iterates it, it is like any other Body.

    :param count: number of bytes to send.
    """

    sent: int
    #: Number of bytes that are left to send, and waitress's length of a buffer. 0 until waitress
    #: has recognised it: for a filter, a length would be the number of blocks (PEP 3333).
    remain: int

    def __init__(self, send: Send, server: Base, count: int) -> None:
        super().__init__(send, server)
        self._count = count

    def prepare(self, size: int | None = None) -> int:
        """The number of bytes to send. size is the Content-Length."""
        self.remain = self._count
        return self.remain

    def skip(self, numbytes: int, allow_prune: bool = False) -> None:
        """Go on by numbytes, which have been sent."""
        self.remain -= numbytes
        self.sent += numbytes

    def close(self) -> None:
        """The channel has sent everything, or the client has left."""
        self.remain = 0
        super().close()

    def report_failure(self, error: Exception) -> Exception:
        """Report the error, and return it."""
        try:
            self.report_to_agents(error)
        finally:
            self.fail(error)
        return error


class BlockBuffer(ChannelBody, ABC):
    """Blocks that are in memory when the main loop sends them."""

    def __init__(self, send: Send, server: Base) -> None:
        assert send.plan.count is not None
        super().__init__(send, server, send.plan.count)
        self._block = memoryview(b"")

    @abstractmethod
    def fetch(self) -> bytes | memoryview | None:
        """What comes next; None: it is not there yet."""

    def get(self, numbytes: int) -> memoryview:
        """Up to numbytes of what comes next; nothing as long as it is not there."""
        if not self._block:
            with self.reporting():
                self._block = memoryview(self.fetch() or b"")
        return self._block[:numbytes]

    def skip(self, numbytes: int, allow_prune: bool = False) -> None:
        """Go on by numbytes, which have been sent."""
        self._block = self._block[numbytes:]
        super().skip(numbytes)

    def close(self) -> None:
        """The same. A channel that has ended refers to this until the garbage is collected."""
        self._block = memoryview(b"")
        super().close()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report what is raised here."""
        try:
            yield
        except Exception as error:
            self.report_failure(error)
            raise
        except BaseException as error:
            # What another thread has met, such as a SystemExit, must not end the main loop.
            failure = FileReadError(f"reading {name_of(self.send.region.filelike)} failed")
            raise self.report_failure(failure) from error


class MemoryBuffer(BlockBuffer):
    """What is in memory.

    :param pieces: the bytes. The application may change its BytesIO once its thread is free.
    """

    def __init__(self, send: Send, server: Base, pieces: list[Any]) -> None:
        super().__init__(send, server)
        self._pieces = pieces

    def prepare(self, size: int | None = None) -> int:
        """The same. If there is nothing to send, the client gets a 500."""
        with self.reporting():
            self._block = self.fetch()
        return super().prepare(size)

    def fetch(self) -> memoryview:
        """What comes next."""
        while self._pieces:
            piece: memoryview = self._pieces.pop(0)
            if piece:  # It is empty if the BytesIO is too short.
                return piece
        raise ShortFileError(self.send.region.filelike, self._count, self.sent)

    def close(self) -> None:
        """The same."""
        self._pieces = []
        super().close()


class ReadBuffer(BlockBuffer):
    """What other threads read ahead of the client."""

    # Declared again because type checkers infer a narrower type from the assignment here.
    blocks: BlockReader | ChainedReader | ReadAhead
    remain: int

    def __init__(self, send: Send, server: Base, channel: HTTPChannel) -> None:
        super().__init__(send, server)
        blocks = self.blocks
        if not isinstance(blocks, ReadAhead):
            blocks = ReadAhead(blocks, send.depth or DEPTH, send.block_size)
        self.blocks = self._ahead = blocks
        self._channel = channel
        #: The thread that called the application, and whether the channel has to close this
        #: without waiting for it.
        self._worker = threading.get_ident()
        self._handed_over = False

    def prepare(self, size: int | None = None) -> int:
        """The same. It reads the first block, so that the client gets a 500 if that fails."""
        self._ahead.give_whole_blocks()
        with self.reporting():
            self._block = memoryview(self._ahead.next_block(self._count))
        self._handed_over = True
        return super().prepare(size)

    def fetch(self) -> bytes | None:
        """What comes next. Until it is there, the channel is not writable."""
        self._channel.writable = self._is_writable
        waits = False
        try:
            block = self._ahead.poll(self._wake)
            waits = block is None
        finally:
            if not waits:
                self._channel.__dict__.pop("writable", None)
        return block

    def _is_writable(self) -> bool:
        """While a block is read. Then the source is slow, not the client."""
        self._channel.last_activity = time.time()
        return bool(self._channel.will_close)

    def _wake(self) -> None:
        wake(self._channel)

    def close(self) -> None:
        """The same. What is slow to read may be slow to close, so the main loop does not do it."""
        handed_over, self._handed_over = self._handed_over, False
        self._block, self.remain = memoryview(b""), 0
        elsewhere = handed_over and threading.get_ident() != self._worker
        if not (elsewhere and pool("closes").submit(super().close)):
            super().close()


def wake(channel: HTTPChannel) -> None:
    """Have the main loop ask again whether the channel is writable. Any thread may call this."""
    channel.__dict__.pop("writable", None)
    if channel.connected:
        with suppress(OSError):  # The server has been closed.
            channel.server.pull_trigger()


class Buffer(ChannelBody):
    """A slice of a file on disk.

    :param channel: whose socket takes os.sendfile; None: return blocks to the channel.
    """

    sender = "wsgi.file_wrapper"
    file: KernelFile

    def __init__(
        self, send: Send, server: Base, file_slice: FileSlice, channel: HTTPChannel | None
    ) -> None:
        super().__init__(send, server, file_slice.stop - file_slice.start)
        self.file = file_slice.file
        self._position = file_slice.start
        self._channel = channel
        self._behind = False
        self._lookahead = Lookahead(file_slice.start)
        self._reading = False
        self._worker = threading.get_ident()

    def get(self, numbytes: int) -> bytes:
        """Up to numbytes of what comes next. waitress calls skip() when they are sent.

        If os.sendfile is used, the file is sent from here and nothing is returned; the
        channel then waits for its socket to take more. The channel would not notice the end
        before it has something else to send, so the buffer is also removed from here.
        """
        channel = self._channel
        if channel is not None and (self._waits(channel) or self._sendfile(channel)):
            if not self.remain:
                channel.outbufs.remove(self)
                try:
                    self.close()
                except Exception:
                    # waitress does the same. The client has all of the file.
                    channel.logger.exception("closing a file failed")
            return b""
        size = min(self.remain, self.send.block_size, numbytes)
        try:
            data = os.pread(self.file.fileno(), size, self._position)
        except OSError as error:
            raise self.report_failure(FileReadError.of(self.file, error)) from error
        if size and not data:
            raise self.report_failure(self._short())
        return data

    def _waits(self, channel: HTTPChannel) -> bool:
        """Whether another thread waits for the disk to read what comes next.

        Until it has been read, the channel says that it is not writable, and the main loop
        goes on with others.
        """
        position, lookahead = self._position, self._lookahead
        # The first turn is often the worker thread's, which may wait.
        if position < lookahead.until or threading.get_ident() == self._worker:
            return False
        if self._reading:
            return True
        fd = self.file.fileno()
        if lookahead.check(fd, position, self.remain, near=self._behind):
            return False
        count = min(self.remain, _PIECE)
        try:
            fd = os.dup(fd)  # If the client leaves meanwhile, the file is closed.
        except OSError:  # There are no more descriptors.
            lookahead.until = position + count
            return False

        def read() -> None:
            try:
                prefetch(fd, position, count)
            finally:
                os.close(fd)
                lookahead.until = position + count
                wake(channel)
                # It is cleared last, so that nobody starts the same read again.
                self._reading = False

        self._reading = True
        channel.writable = lambda: channel.will_close
        if not pool("disks").submit(read):
            read()
        return self._reading

    def _sendfile(self, channel: HTTPChannel) -> bool:
        """Send until the socket takes no more, or until it is the others' turn.

        False: this file cannot be sent by os.sendfile.
        """
        count = min(self.remain, _TURN)
        if self._position < self._lookahead.until:
            count = min(count, self._lookahead.until - self._position)
        try:
            sent = send_some(
                channel.socket.fileno(),
                self.file.fileno(),
                offset=self._position,
                count=count,
                behind=self._behind,
            )
        except BlockingIOError:
            return True
        except OSError as error:
            # Either this file cannot be sent by os.sendfile, or the client has left. The
            # channel meets the latter when it sends a block.
            cannot_sendfile(error)
            self._channel = None
            return False
        if not sent:
            raise self.report_failure(self._short())
        self._behind = sent < count
        self.skip(sent)
        channel.total_outbufs_len -= sent
        channel.last_activity = time.time()
        return True

    def _short(self) -> ShortFileError:
        return ShortFileError(self.file, self._count, self._count - self.remain)

    def skip(self, numbytes: int, allow_prune: bool = False) -> None:
        """Go on by numbytes, which have been sent."""
        self._position += numbytes
        super().skip(numbytes)
