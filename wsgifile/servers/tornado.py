"""Tornado's WSGIContainer, which collects the whole body before it sends a byte.

An application's error leaves the client waiting for ever. As nothing is out by
then, one in the body can still become a 500. One before the body cannot: it is
raised where Tornado has called the application, and that is past helping.
"""

from __future__ import annotations

import traceback

from ..server import Server as Base
from ..server import closed_over

__all__ = ["Server"]


class Server(Base):
    """tornado.wsgi: start_response is a function in WSGIContainer.handle_request."""

    loop: tuple[str, str] | None = ("tornado.wsgi", "app_response_iter")

    def abort(self, error: BaseException) -> bytes:
        """A 500 in the place of what there is so far."""
        traceback.print_exception(error, file=self.environ["wsgi.errors"])
        message = b"Internal Server Error\n"
        closed_over(self.start_response, "response")[:] = [message]
        self.start_response(
            "500 Internal Server Error",
            [("Content-Type", "text/plain"), ("Content-Length", str(len(message)))],
        )
        raise StopIteration
