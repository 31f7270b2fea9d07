"""wsgiref, the standard library's reference server, and Django's runserver, built on it.

Its wrapper is a loop of 8 KiB reads, which os.sendfile beats. Its socket blocks.
"""

from __future__ import annotations

import socketserver
from types import FrameType
from typing import Any

from ..server import Server as Base
from ..transfer import Declined

__all__ = ["Server"]


class Server(Base):
    """wsgiref.simple_server. Its start_response is a method of ServerHandler.

    Django's ServerHandler derives from that one, and keeps connections open.
    """

    nagle = True

    def socket(self) -> Any:
        """The request handler's connection."""
        return self._handler.request_handler.connection

    @property
    def times_writes(self) -> bool:
        """Sub-classes may set a timeout. socket.sendall() applies it to the whole block."""
        return bool(self.socket().gettimeout())

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        """The handler keeps what the application returned."""
        return self._handler.result is body

    def count_sent(self, count: int) -> None:
        """The number at the end of its log line."""
        self._handler.bytes_sent += count

    def failed(self) -> None:
        """End the connection, which runserver would keep open."""
        self._handler.request_handler.close_connection = True

    def may_leave(self) -> Declined | None:
        """Not if the process ends with the request. Windows has no such servers."""
        forking = getattr(socketserver, "ForkingMixIn", ())
        if isinstance(self._handler.request_handler.server, forking):
            return Declined("the server forks for each request")
        return super().may_leave()

    def expects_request(self) -> bool:
        """Only runserver does."""
        return not self._handler.request_handler.close_connection

    def end_connection(self) -> None:
        """Wait for no other request, which runserver does."""
        self._handler.request_handler.close_connection = True

    @property
    def _handler(self) -> Any:
        return self.start_response.__self__
