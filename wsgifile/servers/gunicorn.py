"""gunicorn, whose wrapper is one socket.sendfile of Content-Length bytes.

That call starts from the descriptor's own position, does not check how many bytes were
sent, and takes almost twice the CPU time of our own calls of os.sendfile: 0.38 seconds for
a GB, ours 0.21. So it is not used. gunicorn's sockets block, or are gevent's.
"""

from __future__ import annotations

from typing import Any

from ..server import Server as Base
from ..transfer import Declined

__all__ = ["Server"]


class Server(Base):
    """gunicorn.http.wsgi. Its start_response is a method of Response."""

    loop: tuple[str, str] | None = ("gunicorn.workers.", "respiter")

    def socket(self) -> Any:
        """The response's socket, unless sendfile is off in gunicorn's settings."""
        if not self._response.can_sendfile():
            return Declined("sendfile is off in gunicorn's settings, or gunicorn encrypts")
        return self._response.sock

    def count_sent(self, count: int) -> None:
        """The number in its log."""
        self._response.sent += count

    @property
    def _response(self) -> Any:
        return self.start_response.__self__
