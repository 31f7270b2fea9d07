"""Paste's httpserver, which has no wrapper. Its socket blocks."""

from __future__ import annotations

from typing import Any

from ..server import Server as Base

__all__ = ["Server"]


class Server(Base):
    """paste.httpserver. Its start_response is a method of WSGIHandler."""

    loop: tuple[str, str] | None = ("paste.httpserver", "result")
    nagle = True

    def socket(self) -> Any:
        """The handler's connection."""
        return self.start_response.__self__.connection

    def expects_request(self) -> bool:
        """If its protocol_version is HTTP/1.1."""
        return not self.start_response.__self__.close_connection

    def end_connection(self) -> None:
        """Wait for no other request."""
        self.start_response.__self__.close_connection = True

    def abort(self, error: BaseException) -> bytes:
        """End the connection, which Paste keeps open after an OSError."""
        self.end_connection()
        raise error
