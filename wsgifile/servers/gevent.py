"""gevent.pywsgi, which has no wrapper."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from ..server import Server as Base

__all__ = ["Server"]


class Server(Base):
    """gevent.pywsgi: start_response is a method of its WSGIHandler."""

    nagle = True

    def socket(self) -> Any:
        """The handler's connection."""
        return self._handler.socket

    def iterates(self, body: object, frame: FrameType | None) -> bool:
        """The handler keeps what the application returned."""
        return self._handler.result is body

    def count_sent(self, count: int) -> None:
        """For the number in its log."""
        self._handler.response_length += count

    def send_header(self, write: Callable[[bytes], object]) -> None:
        """Not the last chunk after it, with which a HEAD would end, too."""
        write(b"")
        self._handler.response_use_chunked = False

    def end_unsized(self) -> None:
        """Close the connection of an HTTP/1.0 client that asked to keep it."""
        if not self._handler.response_use_chunked:
            self._handler.close_connection = True

    @property
    def _handler(self) -> Any:
        return self.start_response.__self__
