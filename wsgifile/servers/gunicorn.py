"""gunicorn, whose wrapper is one socket.sendfile of Content-Length bytes.

It starts from the descriptor's own position, and does not look how many bytes
there were. So it gets, for a file, an object that puts the descriptor at the
right position when asked for it, and that hears from socket.sendfile how far
it came. A body that was cut short raises in close(), the only call that is
left by then, and gunicorn drops the connection.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from gunicorn.http.wsgi import FileWrapper

from ..senders import FileSlice, Send, is_plain_socket
from ..wrapper import Body, ShortFileError
from . import Server as Base

__all__ = ["Server"]


class Server(Base):
    """gunicorn.http.wsgi: start_response is a method of its Response."""

    def wrap(self, send: Send, what: FileSlice) -> Body | None:
        """A wrapper, if gunicorn will send it by os.sendfile.

        Else it would iterate it, or, with a worker of gevent's, read 8 KiB at a
        time: the read loop does better.
        """
        response = self.start_response.__self__
        if not is_plain_socket(response.sock) or not response.can_sendfile():
            return None
        return Wrapper(send, what, response)


class Wrapper(Body, FileWrapper):  # type: ignore[misc]
    """A slice of a file. If a filter iterates it, it is a Body like any other."""

    def __init__(self, send: Send, what: FileSlice, response: Any) -> None:
        super().__init__(send.app_iter, send.blocks(), send.block_size)
        self.filelike = Descriptor(what, response)

    def close(self) -> None:
        """Close the file, and raise if less was sent than promised."""
        super().close()
        descriptor, what = self.filelike, self.filelike.what
        # An error on its way, of a client that has gone, says more than ours.
        if descriptor.asked and descriptor.sent < what.count and sys.exc_info()[0] is None:
            descriptor.asked = False
            raise ShortFileError(what.file, what.count, descriptor.sent)


class Descriptor:
    """What gunicorn takes for the file: a descriptor that stands at the offset."""

    def __init__(self, what: FileSlice, response: Any) -> None:
        self.what = what
        self._response = response
        self.asked = False
        self.sent = 0

    def fileno(self) -> int:
        """The descriptor, positioned. Nobody asks for it in order to iterate."""
        fd = self.what.file.fileno()
        os.lseek(fd, self.what.offset, os.SEEK_SET)
        self.asked = True
        return fd

    def seek(self, position: int) -> None:
        """socket.sendfile's last act: where the next byte would come from."""
        self.sent = position - self.what.offset
        self._response.sent += self.sent  # gunicorn's access log shows this.
