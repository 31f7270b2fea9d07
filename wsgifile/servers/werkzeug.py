"""Werkzeug's development server, which is Flask's too.

It has no wrapper. Its socket blocks, and every connection ends with its
response.
"""

from __future__ import annotations

import socket
from types import FrameType

from ..wrapper import Body
from . import Server as Base

__all__ = ["Server"]


class Server(Base):
    """werkzeug.serving: start_response is a function in WSGIRequestHandler.run_wsgi."""

    def socket(self) -> socket.socket | None:
        """The connection, which Werkzeug puts into the environ."""
        sock: socket.socket | None = self.environ.get("werkzeug.socket")
        return sock

    def iterates(self, body: Body, frame: FrameType) -> bool:
        """run_wsgi has what the application returned in a local variable."""
        ours = frame.f_globals is self.start_response.__globals__
        return ours and frame.f_locals.get("application_iter") is body
