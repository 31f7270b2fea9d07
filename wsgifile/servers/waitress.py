"""waitress, whose wrapper sends from the main loop: no download holds a thread.

Its ReadOnlyFileBasedBuffer is recognised by isinstance, handed to the channel,
and asked for blocks as the socket takes them. Ours is bounded, and does not give
them but sends by itself. Where waitress's own finds the file shorter than it was it
tries for ever; ours raises, and the channel closes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel

from ..body import Body
from ..page_cache import Lookout, bring_in, lets_wait
from ..recognise import FileSlice, KernelFile
from ..send import Send
from ..server import Server as Base
from ..server import closed_over
from ..sockets import gives_up, is_plain, send_some
from ..threads import pool
from ..transfer import Declined
from ..wrapper import FileReadError, ShortFileError, read_failed

__all__ = ["Server"]

#: The most that is sent before other connections have their turn.
_TURN = 4 << 20
#: What is not in memory is read from the disk in pieces of so many bytes, by a thread,
#: while the main loop serves others.
_PIECE = 1 << 20


class Server(Base):
    """waitress.task: start_response is a function in WSGITask.execute."""

    loop: tuple[str, str] | None = ("waitress.task", "app_iter")

    def wrap(self, send: Send, what: FileSlice) -> Body | Declined:
        """A buffer for the channel, if the system can read at a position.

        It is closed by the main loop. A close() that needs the thread of the
        application, a database connection's or a session's, gets the read loop, and
        so does a file for which the main loop would wait, nobody knows how long.
        """
        if send.region.threaded:
            return Declined("close() is for the thread of the application")
        if not hasattr(os, "pread"):
            return Declined("this system has no pread()")
        if lets_wait(what.file.fileno()):
            return Declined("the file system lets readers wait, and the main loop must not")
        channel = closed_over(self.start_response, "self").channel
        sendable = type(channel) is HTTPChannel and is_plain(channel.socket)
        return Buffer(send, self, what, channel if sendable and hasattr(os, "sendfile") else None)

    def send_header(self, write: Callable[[bytes], object]) -> None:
        """Not the last chunk after it, with which a HEAD would end, too."""
        write(b"")
        closed_over(self.start_response, "self").chunked_response = False


class Buffer(Body, ReadOnlyFileBasedBuffer):  # type: ignore[misc]
    """A slice of a file in the channel's list of output buffers.

    If a filter iterates it, it is a Body like any other.
    """

    sender = "wsgi.file_wrapper"
    sent: int
    file: KernelFile
    remain: int

    def __init__(
        self, send: Send, server: Base, what: FileSlice, channel: HTTPChannel | None
    ) -> None:
        super().__init__(send, server)
        self.file = what.file
        self._position = what.offset
        self._count = self.remain = what.count
        self._channel = channel
        self._behind = False
        self._lookout = Lookout(what.offset)
        self._reading = False
        self._worker = threading.get_ident()

    def prepare(self, size: int | None = None) -> int:
        """How many bytes there are; size is the Content-Length."""
        return self.remain

    def get(self, numbytes: int) -> bytes:
        """Up to numbytes of what comes next. waitress calls skip() when they are sent.

        Or nothing, after which the channel waits for its socket to take more: the
        file leaves here, by os.sendfile. When it has, the channel would not find out
        before it has something else to send, so the buffer is removed here, too.
        """
        channel = self._channel
        if channel is not None and (self._waits(channel) or self._sendfile(channel)):
            if not self.remain:
                channel.outbufs.remove(self)
                try:
                    self.close()
                except Exception:
                    # As waitress does: the client has all of it.
                    channel.logger.exception("closing a file failed")
            return b""
        size = min(self.remain, self.send.block_size, numbytes)
        try:
            data = os.pread(self.file.fileno(), size, self._position)
        except OSError as error:
            raise self._told(read_failed(self.file, error)) from error
        if size and not data:
            raise self._told(self._short())
        return data

    def _waits(self, channel: HTTPChannel) -> bool:
        """Whether the disk is to be waited for, which another thread does.

        Until it has what comes next, the channel is not writable, so that the main
        loop goes on with others.
        """
        position, lookout = self._position, self._lookout
        # The first turn is often the worker's, which may wait.
        if position < lookout.until or threading.get_ident() == self._worker:
            return False
        if self._reading:
            return True
        fd = self.file.fileno()
        if lookout.finds(fd, position, self.remain, near=self._behind):
            return False
        count = min(self.remain, _PIECE)
        try:
            fd = os.dup(fd)  # The client may leave, and the file be closed.
        except OSError:  # No more descriptors.
            lookout.until = position + count
            return False

        def read() -> None:
            try:
                bring_in(fd, position, count)
            finally:
                os.close(fd)
                lookout.until = position + count
                # In this order: as long as it is being read nobody reads it again.
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
        """Send until the socket takes no more, or others have waited enough."""
        count = min(self.remain, _TURN)
        if self._position < self._lookout.until:
            count = min(count, self._lookout.until - self._position)
        out, in_ = channel.socket.fileno(), self.file.fileno()
        try:
            sent = send_some(out, in_, self._position, count, self._behind)
        except BlockingIOError:
            return True
        except OSError as error:
            # A file that cannot be sent so, or a client that has gone: which the
            # channel hears when it sends what is read.
            gives_up(error)
            self._channel = None
            return False
        if not sent:
            raise self._told(self._short())
        self._behind = sent < count
        self.skip(sent)
        channel.total_outbufs_len -= sent
        channel.last_activity = time.time()
        return True

    def _short(self) -> ShortFileError:
        return ShortFileError(self.file, self._count, self._count - self.remain)

    def _told(self, error: FileReadError) -> FileReadError:
        self.fail(error)
        return error

    def skip(self, numbytes: int, allow_prune: bool = False) -> None:
        """Go on by numbytes."""
        self._position += numbytes
        self.remain -= numbytes
        self.sent += numbytes

    def close(self) -> None:
        """The channel has sent everything, or the client has gone."""
        self.remain = 0
        super().close()
