"""gunicorn, whose wrapper is one socket.sendfile of Content-Length bytes.

That call starts from the descriptor's own position, does not check how many bytes were
sent, and waits for a slow client until the arbiter kills the worker. So it is not used.
gunicorn's sockets block, or are gevent's.

The arbiter kills a sync worker that has not called notify() for some time, 30 seconds by
default. The worker calls it between requests only, so it is called here while a client is
waited for.
"""

from __future__ import annotations

import errno
import os
import time
from types import FrameType
from typing import Any

from ..background import Grace
from ..server import Server as Base
from ..transfer import Declined

__all__ = ["Server"]

#: Seconds between the end of the responses under way and the arbiter's SIGKILL.
_MARGIN = 2.0


class Heartbeat(Grace):
    """Does what notify() does, even after a worker that ends has closed its file.

    :param fd: the descriptor of that file, whose times the arbiter looks at.
    """

    def __init__(self, seconds: float, fd: int) -> None:
        super().__init__(seconds)
        self._fd = os.dup(fd)

    def alive(self) -> None:
        """As gunicorn.workers.workertmp does it."""
        now = time.monotonic()
        os.utime(self._fd, (now, now))

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class Server(Base):
    """gunicorn.http.wsgi. Its start_response is a method of Response."""

    loop: tuple[str, str] | None = ("gunicorn.workers.", "respiter")
    #: The worker that asks for blocks, and whether it is a sync worker.
    _worker: Any = None
    _sync = False

    def socket(self) -> Any:
        """The response's socket, unless sendfile is off in gunicorn's settings."""
        if not self._response.can_sendfile():
            return Declined("sendfile is off in gunicorn's settings, or gunicorn encrypts")
        return self._response.sock

    def connection(self) -> Any:
        """The response's socket, whether sendfile is off or not."""
        return self._response.sock

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        """As in the base class. The same frame has the worker, which is remembered."""
        iterating = super().is_iterating(body, frame)
        if iterating and frame is not None:
            self._worker = frame.f_locals.get("self")
            self._sync = frame.f_globals.get("__name__") == "gunicorn.workers.sync"
        return iterating

    def count_sent(self, count: int) -> None:
        """The number in its log."""
        self._response.sent += count

    def alive(self) -> None:
        """A sync worker does nothing else meanwhile."""
        if self._sync:
            self._worker.notify()

    def may_leave(self) -> Declined | None:
        """Not if sendfile is off: there may be a reason not to touch the socket."""
        sock = self.socket()
        return sock if isinstance(sock, Declined) else super().may_leave()

    def expects_request(self) -> bool:
        """A sync worker never does."""
        return not self._response.should_close()

    def end_connection(self) -> None:
        """Wait for no other request, which gthread does."""
        self._response.force_close()

    def grace(self) -> Grace:
        """Until the arbiter kills the worker."""
        seconds = self._response.cfg.graceful_timeout - _MARGIN
        return Heartbeat(seconds, self._worker.tmp.fileno())

    def abort(self, error: BaseException) -> bytes:
        """Raise it. A client that takes nothing is not worth a traceback in the log."""
        if isinstance(error, TimeoutError):
            raise ConnectionResetError(errno.ECONNRESET, "the client took nothing") from error
        raise error

    @property
    def _response(self) -> Any:
        return self.start_response.__self__
