"""eventlet.wsgi, which has no wrapper."""

from __future__ import annotations

from typing import Any

from . import Server as Base

__all__ = ["Server"]


class Server(Base):
    """eventlet.wsgi: start_response is a function in HttpProtocol.handle_one_response."""

    loop = ("eventlet.wsgi", "result")

    def socket(self) -> Any:
        """The protocol's connection."""
        return self.cell("self").cell_contents.connection

    def count_sent(self, count: int) -> None:
        """For the number in its log, which is a variable of the function write."""
        write = self.cell("write").cell_contents
        length = write.__closure__[write.__code__.co_freevars.index("length")].cell_contents
        length[0] += count
