"""gunicorn, whose wrapper is one socket.sendfile of Content-Length bytes.

It starts from the descriptor's own position, does not look how many bytes there
were, and takes almost twice the time of our own calls of os.sendfile: 0.38 CPU
seconds for a GB, ours 0.21. So it is left alone. Its sockets block, or are gevent's.
"""

from __future__ import annotations

from typing import Any

from ..server import Server as Base
from ..transfer import Declined

__all__ = ["Server"]


class Server(Base):
    """gunicorn.http.wsgi: start_response is a method of its Response."""

    loop: tuple[str, str] | None = ("gunicorn.workers.", "respiter")

    def socket(self) -> Any:
        """The response's, unless gunicorn is told not to use sendfile."""
        if not self._response.can_sendfile():
            return Declined("gunicorn is told not to use sendfile, or encrypts")
        return self._response.sock

    def count_sent(self, count: int) -> None:
        """For the number in its log."""
        self._response.sent += count

    @property
    def _response(self) -> Any:
        return self.start_response.__self__
