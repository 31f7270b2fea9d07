"""waitress, whose wrapper sends from the main loop: no download holds a thread.

Its ReadOnlyFileBasedBuffer is recognised by isinstance, handed to the channel,
and asked for blocks as the socket takes them. Ours is bounded and reads the
descriptor at a position of its own. Where waitress's own finds the file shorter
than it was it tries for ever; ours raises, and the channel closes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from waitress.buffers import ReadOnlyFileBasedBuffer

from ..body import Body
from ..senders import FileSlice, Send
from ..wrapper import ShortFileError
from . import Server as Base
from . import closed_over

__all__ = ["Server"]


class Server(Base):
    """waitress.task: start_response is a function in WSGITask.execute."""

    loop = ("waitress.task", "app_iter")

    def wrap(self, send: Send, what: FileSlice) -> Body | None:
        """A buffer for the channel, if the system can read at a position.

        It is closed by the main loop. A close() that needs the thread of the
        application, a database connection's or a session's, gets the read loop.
        """
        if send.region.threaded or not hasattr(os, "pread"):
            return None
        return Buffer(send, what)

    def send_header(self, write: Callable[[bytes], object]) -> None:
        """Not the last chunk after it, with which a HEAD would end, too."""
        write(b"")
        closed_over(self.start_response, "self").chunked_response = False


class Buffer(Body, ReadOnlyFileBasedBuffer):  # type: ignore[misc]
    """A slice of a file in the channel's list of output buffers.

    If a filter iterates it, it is a Body like any other.
    """

    def __init__(self, send: Send, what: FileSlice) -> None:
        super().__init__(send)
        self.file = what.file
        self._position = what.offset
        self._count = self.remain = what.count

    def prepare(self, size: int | None = None) -> int:
        """How many bytes there are; size is the Content-Length."""
        return self.remain

    def get(self, numbytes: int = -1, skip: bool = False) -> bytes:
        """Up to numbytes of what comes next. waitress calls skip() when they are sent."""
        size = min(self.remain, self.send.block_size)
        if numbytes >= 0:
            size = min(size, numbytes)
        data = os.pread(self.file.fileno(), size, self._position)
        if size and not data:
            raise ShortFileError(self.file, self._count, self._count - self.remain)
        if skip:
            self.skip(len(data))
        return data

    def skip(self, numbytes: int, allow_prune: bool = False) -> None:
        """Go on by numbytes."""
        self._position += numbytes
        self.remain -= numbytes

    def close(self) -> None:
        """The channel has sent everything, or the client has gone."""
        self.remain = 0
        super().close()
