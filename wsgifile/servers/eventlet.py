"""eventlet.wsgi, which has no wrapper, and eventlet's sockets."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..server import Server as Base
from ..server import closed_over
from ..sockets import SocketKind

__all__ = ["SOCKET", "Server"]


def _wait(sock: Any, timeout: float) -> None:
    import_module("eventlet.hubs").trampoline(
        sock, write=True, timeout=timeout, timeout_exc=TimeoutError
    )


def _run_in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return import_module("eventlet.tpool").execute(function, *args)


#: One thread serves all sockets of this type.
SOCKET = SocketKind(_wait, _run_in_thread)


class Server(Base):
    """eventlet.wsgi. Its start_response is a function in HttpProtocol.handle_one_response."""

    loop: tuple[str, str] | None = ("eventlet.wsgi", "result")
    nagle = True

    def socket(self) -> Any:
        """The protocol's connection."""
        return closed_over(self.start_response, "self").connection

    def count_sent(self, count: int) -> None:
        """The number in its log is a variable that its function write uses."""
        closed_over(closed_over(self.start_response, "write"), "length")[0] += count
