"""gevent.pywsgi, which has no wrapper, and gevent's sockets."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

from ..server import Server as Base
from ..sockets import SocketKind

__all__ = ["SOCKET", "Server"]


def _wait(sock: Any, timeout: float) -> None:
    import_module("gevent.socket").wait_write(sock.fileno(), timeout)


def _run_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return import_module("gevent").get_hub().threadpool.apply(function, args)


#: One thread serves all sockets of this type.
SOCKET = SocketKind(_wait, _run_in_thread)


class Server(Base):
    """gevent.pywsgi. Its start_response is a method of WSGIHandler."""

    nagle = True

    def socket(self) -> Any:
        """The handler's connection."""
        return self._handler.socket

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        """The handler keeps what the application returned."""
        return self._handler.result is body

    def count_sent(self, count: int) -> None:
        """The number in its log."""
        self._handler.response_length += count

    def flush_header(self) -> None:
        """Send it now, and no last chunk after it, which gevent adds even for HEAD."""
        self.write(b"")
        self._handler.response_use_chunked = False

    def end_unsized(self) -> None:
        """Close the connection, even if an HTTP/1.0 client asked to keep it."""
        if not self._handler.response_use_chunked:
            self._handler.close_connection = True

    @property
    def _handler(self) -> Any:
        return self.start_response.__self__
