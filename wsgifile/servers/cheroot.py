"""cheroot, which is CherryPy's server.

It has no wrapper. Its socket has a timeout, 10 seconds if nobody says otherwise.
"""

from __future__ import annotations

from typing import Any

from ..server import Server as Base

__all__ = ["Server"]


class Server(Base):
    """cheroot.wsgi: start_response is a method of its Gateway."""

    loop: tuple[str, str] | None = ("cheroot.wsgi", "response")

    def socket(self) -> Any:
        """The connection of the request."""
        return self.start_response.__self__.req.conn.socket
