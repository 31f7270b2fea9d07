"""What we know of servers: one small file each, and one row in a table.

Whatever goes past WSGI, to the server's wrapper or its socket, is right only
if the server's callable is real: if the start_response that we were given is
the server's own, not one of a filter between us. :func:`find` looks, and
imports a server's file here only then, when that server is long loaded.

To add a server: a class derived from :class:`Server` that is named so too, in
a file of its own, and its row in ``SERVERS``.
"""

from __future__ import annotations

import socket
from importlib import import_module
from types import FrameType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ..senders import FileSlice, Send
from ..wrapper import Body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["SERVERS", "Server", "find"]

#: Where start_response comes from, as (module, function) or (module, type of
#: the object whose method it is), and the file here that knows this server.
SERVERS = {
    ("gunicorn.http.wsgi", "Response"): "gunicorn",
    ("waitress.task", "start_response"): "waitress",
    ("werkzeug.serving", "start_response"): "werkzeug",
    ("wsgiref.simple_server", "ServerHandler"): "wsgiref",
}


class Server:
    """What senders may ask of a server, for one request. These answers decline."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.environ = environ
        self.start_response: Any = start_response

    def wrap(self, send: Send, what: FileSlice) -> Body | None:
        """A body for what, which the server takes for its own ``wsgi.file_wrapper``."""
        return None

    def socket(self) -> socket.socket | None:
        """The client's socket."""
        return None

    def iterates(self, body: Body, frame: FrameType) -> bool:
        """Whether it is the server itself that asks body for a block, from frame."""
        return False

    def count_sent(self, count: int) -> None:
        """Tell the server's access log of bytes that it has not seen."""


def find(environ: WSGIEnvironment, start_response: StartResponse) -> Server | None:
    """The server whose own start_response this is, if we know it."""
    # Not by __module__ and __qualname__, which functools.wraps copies.
    if type(start_response) is FunctionType:
        origin = start_response.__globals__.get("__name__"), start_response.__code__.co_name
    elif type(start_response) is MethodType:
        origin = type(start_response.__self__).__module__, type(start_response.__self__).__name__
    else:
        return None
    name = SERVERS.get(origin)  # type: ignore[arg-type]
    if name is None:
        return None
    server: type[Server] = import_module(f"{__name__}.{name}").Server
    return server(environ, start_response)
