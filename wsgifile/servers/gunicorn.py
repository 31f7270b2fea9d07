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

from ..body import Body
from ..senders import FileSlice, Send
from ..sockets import is_plain
from ..wrapper import ShortFileError
from . import Server as Base

__all__ = ["Server"]


class Server(Base):
    """gunicorn.http.wsgi: start_response is a method of its Response."""

    loop = ("gunicorn.workers.", "respiter")

    def wrap(self, send: Send, what: FileSlice) -> Body | None:
        """A wrapper, if gunicorn will send it by os.sendfile.

        Else it would iterate it, or, with a worker of gevent's, read 8 KiB at a
        time.
        """
        sock = self.socket()
        return Wrapper(send, what, self._response) if is_plain(sock) else None

    def socket(self) -> Any:
        """The response's, unless gunicorn is told not to use sendfile."""
        return self._response.sock if self._response.can_sendfile() else None

    def count_sent(self, count: int) -> None:
        """For the number in its log."""
        self._response.sent += count

    @property
    def _response(self) -> Any:
        return self.start_response.__self__


class Wrapper(Body, FileWrapper):  # type: ignore[misc]
    """A slice of a file. If a filter iterates it, it is a Body like any other."""

    def __init__(self, send: Send, what: FileSlice, response: Any) -> None:
        super().__init__(send)
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
