"""Paste's httpserver, which has no wrapper. Its socket blocks."""

from __future__ import annotations

import sys
from typing import Any

from . import Server as Base

__all__ = ["Server"]


class Server(Base):
    """paste.httpserver: start_response is a method of its WSGIHandler."""

    loop = ("paste.httpserver", "result")

    def socket(self) -> Any:
        """The handler's connection."""
        return self.start_response.__self__.connection

    def abort(self, error: BaseException) -> None:
        """Close the connection, which with HTTP/1.1 it keeps open after any OSError.

        And it says nothing of them, not even of a file that ran short.
        """
        self.start_response.__self__.close_connection = 1
        if isinstance(error, OSError):
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
