"""Werkzeug's development server, which Flask uses too.

It has no wrapper. Its socket blocks, and each connection ends with its response.
"""

from __future__ import annotations

from typing import Any

from ..server import Server as Base

__all__ = ["Server"]


class Server(Base):
    """werkzeug.serving. Its start_response is a function in WSGIRequestHandler.run_wsgi."""

    loop: tuple[str, str] | None = ("werkzeug.serving", "application_iter")
    nagle = True

    def socket(self) -> Any:
        """The connection, which Werkzeug puts into the environ."""
        return self.environ.get("werkzeug.socket")
