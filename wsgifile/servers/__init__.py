"""What we know of servers: one small file each, and one row in a table.

Whatever goes past WSGI, to the server's wrapper or its socket, is right only
if the server's callable is real: if the start_response that we were given is
the server's own, not one of a filter between us. :func:`find` looks, and
imports a server's file here only then, when that server is long loaded.

To add a server: a class derived from :class:`~wsgifile.server.Server` that is named so too, in
a file of its own, and its row in ``SERVERS``; and if its wrapper sends by the
descriptor a row in ``unknown.DECLINED``, as that is what a filter leaves of it.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ..server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["SERVERS", "find"]

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
