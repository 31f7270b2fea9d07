"""cheroot, which is CherryPy's server.

It has no wrapper. Its socket has a timeout, 10 seconds by default.
"""

from __future__ import annotations

from typing import Any

from ..server import Server as Base

__all__ = ["Server"]


class Server(Base):
    """cheroot.wsgi. Its start_response is a method of Gateway_10."""

    loop: tuple[str, str] | None = ("cheroot.wsgi", "response")

    def socket(self) -> Any:
        """The request's connection."""
        return self.start_response.__self__.req.conn.socket
