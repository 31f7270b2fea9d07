"""eventlet.wsgi, which has no wrapper."""

from __future__ import annotations

from typing import Any

from ..server import Server as Base
from ..server import closed_over

__all__ = ["Server"]


class Server(Base):
    """eventlet.wsgi: start_response is a function in HttpProtocol.handle_one_response."""

    loop: tuple[str, str] | None = ("eventlet.wsgi", "result")
    nagle = True

    def socket(self) -> Any:
        """The protocol's connection."""
        return closed_over(self.start_response, "self").connection

    def count_sent(self, count: int) -> None:
        """For the number in its log, which is a variable of the function write."""
        closed_over(closed_over(self.start_response, "write"), "length")[0] += count
