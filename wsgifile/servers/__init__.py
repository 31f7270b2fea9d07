"""What we know of servers: one small file each, and one row in a table.

Whatever goes past WSGI, to the server's wrapper or its socket, is right only
if the server's callable is real: if the start_response that we were given is
the server's own, not one of a filter between us. :func:`find` looks, and
imports a server's file here only then, when that server is long loaded.

To add a server: a class derived from :class:`Server` that is named so too, in
a file of its own, and its row in ``SERVERS``; and if its wrapper sends by the
descriptor a row in ``unknown.DECLINED``, as that is what a filter leaves of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from types import BuiltinFunctionType, CellType, FrameType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ..body import Body
from ..senders import FileSlice, Send
from ..sockets import no_delay
from ..transfer import Declined

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["SERVERS", "Server", "closed_over", "find"]

#: Where start_response comes from, as (module, function) or (module, type of
#: the object whose method it is), and the file here that knows this server.
SERVERS: dict[tuple[str | None, str], str] = {
    ("cheroot.wsgi", "Gateway_10"): "cheroot",
    ("django.core.servers.basehttp", "ServerHandler"): "wsgiref",
    ("eventlet.wsgi", "start_response"): "eventlet",
    ("fastwsgi", ""): "fastwsgi",
    ("gevent.pywsgi", "WSGIHandler"): "gevent",
    ("gunicorn.http.wsgi", "Response"): "gunicorn",
    ("paste.httpserver", "WSGIHandler"): "paste",
    ("tornado.wsgi", "start_response"): "tornado",
    (None, "uwsgi_spit"): "uwsgi",
    ("waitress.task", "start_response"): "waitress",
    ("werkzeug.serving", "start_response"): "werkzeug",
    ("wsgiref.simple_server", "ServerHandler"): "wsgiref",
}


class Server:
    """What senders may ask of a server, for one request. These answers decline."""

    #: Whether its sockets wait with what is written for the client to acknowledge what
    #: was written before: up to 40 ms between the header and the end of a body. And then
    #: they make large packets, which is slow (see ``sockets``).
    nagle = False
    #: Where the server iterates: the beginning of the module's name, and the
    #: local variable that holds what the application returned.
    loop: tuple[str, str] | None = None

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.environ = environ
        self.start_response: Any = start_response

    @property
    def name(self) -> str:
        """For the log."""
        software = self.environ.get("SERVER_SOFTWARE")
        return str(software or type(self).__module__.rpartition(".")[2])

    def wrap(self, send: Send, what: FileSlice) -> Iterable[bytes] | Declined:
        """A body for what, which the server takes for its own ``wsgi.file_wrapper``."""
        return Declined("this server has none, or os.sendfile is faster")

    def socket(self) -> Any:
        """The client's socket, or Declined."""
        return Declined("the socket is not to be had: of this server, or behind a filter")

    def iterates(self, body: Body, frame: FrameType | None) -> bool:
        """Whether it is the server itself that asks body for a block, from frame."""
        if self.loop is None or frame is None:
            return False
        module, variable = self.loop
        name = frame.f_globals.get("__name__")
        return (
            isinstance(name, str)
            and name.startswith(module)
            and frame.f_locals.get(variable) is body
        )

    def count_sent(self, count: int) -> None:
        """Tell the server's access log of bytes that it has not seen."""

    def send_header(self, write: Callable[[bytes], object]) -> None:
        """Send the header of a response without a body, if the server does not do it well."""

    def send_blocks(self) -> None:
        """Get ready to send header and blocks, each of which is a write of its own."""
        if self.nagle:
            no_delay(self.socket())

    def end_unsized(self) -> None:
        """End a response of which the header does not tell where it ends."""

    def abort(self, error: BaseException) -> bytes:
        """Make error end the connection: raise it, or do what the server takes better."""
        raise error


def closed_over(function: Any, name: str) -> Any:
    """A variable of the function in which function is defined."""
    cell: CellType = function.__closure__[function.__code__.co_freevars.index(name)]
    return cell.cell_contents


def find(environ: WSGIEnvironment, start_response: Any) -> Server:
    """The server whose own start_response this is, or what there is for any other."""
    # Not by __module__ and __qualname__ of functions, which functools.wraps copies.
    kind = type(start_response)
    if kind is FunctionType:
        module, name = start_response.__globals__.get("__name__"), start_response.__code__.co_name
    elif kind is MethodType:
        owner = type(start_response.__self__)
        module, name = owner.__module__, owner.__name__
    elif kind is BuiltinFunctionType:
        module, name = start_response.__module__, start_response.__name__
    else:
        # Nothing of any other type: fastwsgi crashes when its own is looked at. That
        # one is seen again when it iterates.
        module, name = "fastwsgi" if "fastwsgi" in sys.modules else None, ""
    return _class(module, name)(environ, start_response)


@lru_cache(256)
def _class(module: str | None, name: str) -> type[Server]:
    known = SERVERS.get((module, name), "unknown")
    found: type[Server] = import_module(f"{__name__}.{known}").Server
    return found
