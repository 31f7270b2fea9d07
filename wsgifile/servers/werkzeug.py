"""Werkzeug's development server, which Flask uses too.

It has no wrapper. Its socket blocks, and each connection ends with its response.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from ..server import Server as Base
from ..transfer import Declined

__all__ = ["Hidden", "Server"]


class Server(Base):
    """werkzeug.serving. Its start_response is a function in WSGIRequestHandler.run_wsgi."""

    loop: tuple[str, str] | None = ("werkzeug.serving", "application_iter")
    nagle = True

    def socket(self) -> Any:
        """The connection, which Werkzeug puts into the environ."""
        return self.environ.get("werkzeug.socket")

    def may_leave(self) -> Declined | None:
        """Not if the process ends with the request."""
        forks = self.environ.get("wsgi.multiprocess")
        return Declined("the server forks for each request") if forks else super().may_leave()

    def abort(self, error: BaseException) -> bytes:
        """Receive no more. Werkzeug would go on receiving until the client leaves."""
        with contextlib.suppress(OSError):  # The client has left.
            self.environ["werkzeug.socket"].shutdown(socket.SHUT_RD)
        raise error


class Hidden(Server):
    """Werkzeug behind a filter. If Werkzeug itself iterates the body, the connection can end."""

    def socket(self) -> Declined:
        """Nothing past the filter."""
        return Declined("a filter hides Werkzeug")
