"""cheroot, which is CherryPy's server.

It has no wrapper. Its socket has a timeout, 10 seconds by default.
"""

from __future__ import annotations

from typing import Any

from ..background import Grace
from ..server import Server as Base

__all__ = ["Server"]


class Server(Base):
    """cheroot.wsgi. Its start_response is a method of Gateway_10."""

    loop: tuple[str, str] | None = ("cheroot.wsgi", "response")

    def socket(self) -> Any:
        """The request's connection."""
        return self._request.conn.socket

    def expects_request(self) -> bool:
        """Unless the client or HTTP/1.0 says otherwise."""
        return not self._request.close_connection

    def end_connection(self) -> None:
        """Wait for no other request."""
        self._request.close_connection = True

    def grace(self) -> Grace:
        """Its own limit for threads that have not ended."""
        return Grace(self._request.server.shutdown_timeout or 0.0)

    @property
    def _request(self) -> Any:
        return self.start_response.__self__.req
