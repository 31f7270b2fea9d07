"""Tornado's WSGIContainer, which collects the whole body before it sends a byte.

An application's error leaves the client waiting for ever. An error in the body can still
become a 500, because nothing has been sent by then. An error before the body cannot: it is
raised where Tornado calls the application, and we cannot change that.
"""

from __future__ import annotations

import traceback

from ..server import Server as Base
from ..server import closed_over

__all__ = ["Server"]


class Server(Base):
    """tornado.wsgi. Its start_response is a function in WSGIContainer.handle_request."""

    loop: tuple[str, str] | None = ("tornado.wsgi", "app_response_iter")

    def abort(self, error: BaseException) -> bytes:
        """Replace what was collected so far by a 500."""
        traceback.print_exception(error, file=self.environ["wsgi.errors"])
        message = b"Internal Server Error\n"
        closed_over(self.start_response, "response")[:] = [message]
        self.start_response(
            "500 Internal Server Error",
            [("Content-Type", "text/plain"), ("Content-Length", str(len(message)))],
        )
        raise StopIteration
