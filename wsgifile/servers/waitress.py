"""waitress, whose wrapper sends from the main loop, so that no download holds a thread.

waitress recognises its ReadOnlyFileBasedBuffer by isinstance, hands it to the channel, and
asks it for blocks as the socket takes them. Ours derives from it, has an end, and sends by
itself instead of returning blocks. If the file has become shorter, waitress's own tries for
ever; ours raises, and the channel closes.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel

from ..blocks import FileReadError, ShortFileError
from ..body import Body
from ..page_cache import Lookahead, may_block, prefetch
from ..recognise import FileSlice, KernelFile
from ..send import Send
from ..server import Server as Base
from ..server import closed_over
from ..sockets import cannot_sendfile, is_standard, send_some
from ..threads import pool
from ..transfer import Declined

__all__ = ["Server"]

#: The largest number of bytes sent before other connections get their turn.
_TURN = 4 << 20
#: What is not in memory is read from the disk by a thread, this number of bytes at a time,
#: while the main loop serves others.
_PIECE = 1 << 20


class Server(Base):
    """waitress.task. Its start_response is a function in WSGITask.execute."""

    loop: tuple[str, str] | None = ("waitress.task", "app_iter")

    def wrap(self, send: Send, file_slice: FileSlice) -> Body | Declined:
        """A buffer for the channel, if the system can read at a position.

        The main loop closes it. So it declines if close() needs the application's thread, for
        a database connection or a session, and if reading the file may block the main loop.
        """
        if send.region.close_in_thread:
            return Declined("close() has to run in the application's thread")
        if not hasattr(os, "pread"):
            return Declined("this system has no pread()")
        if may_block(file_slice.file.fileno()):
            return Declined("reading from this file system may block the main loop")
        channel = closed_over(self.start_response, "self").channel
        if not (
            hasattr(os, "sendfile")
            and type(channel) is HTTPChannel
            and is_standard(channel.socket)
        ):
            channel = None
        return Buffer(send, self, file_slice, channel)

    def flush_header(self) -> None:
        """Send it now, and no last chunk after it, which waitress adds even for HEAD."""
        self.write(b"")
        closed_over(self.start_response, "self").chunked_response = False


class Buffer(Body, ReadOnlyFileBasedBuffer):  # type: ignore[misc]
    """A slice of a file in the channel's list of output buffers.

    If a filter iterates it, it is like any other Body.

    :param channel: whose socket takes os.sendfile; None: return blocks to the channel.
    """

    sender = "wsgi.file_wrapper"
    sent: int
    file: KernelFile
    remain: int

    def __init__(
        self, send: Send, server: Base, file_slice: FileSlice, channel: HTTPChannel | None
    ) -> None:
        super().__init__(send, server)
        self.file = file_slice.file
        self._position = file_slice.start
        self._count = self.remain = file_slice.stop - file_slice.start
        self._channel = channel
        self._behind = False
        self._lookahead = Lookahead(file_slice.start)
        self._reading = False
        self._worker = threading.get_ident()

    def prepare(self, size: int | None = None) -> int:
        """The number of bytes that are left. size is the Content-Length."""
        return self.remain

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
            raise self._reported(FileReadError.of(self.file, error)) from error
        if size and not data:
            raise self._reported(self._short())
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
                # _reading is cleared last, so that nobody starts the same read again.
                channel.__dict__.pop("writable", None)
                self._reading = False
                if channel.connected:
                    with suppress(OSError):  # The server has been closed.
                        channel.server.pull_trigger()

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
            raise self._reported(self._short())
        self._behind = sent < count
        self.skip(sent)
        channel.total_outbufs_len -= sent
        channel.last_activity = time.time()
        return True

    def _short(self) -> ShortFileError:
        return ShortFileError(self.file, self._count, self._count - self.remain)

    def _reported(self, error: FileReadError) -> FileReadError:
        self.report_to_agents(error)
        self.fail(error)
        return error

    def skip(self, numbytes: int, allow_prune: bool = False) -> None:
        """Go on by numbytes, which have been sent."""
        self._position += numbytes
        self.remain -= numbytes
        self.sent += numbytes

    def close(self) -> None:
        """The channel has sent everything, or the client has left."""
        self.remain = 0
        super().close()
