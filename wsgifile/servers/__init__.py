"""What we know of each server, one small file each.

Whatever goes past WSGI, to the server's wrapper or its socket, is right only if nothing
stands between the server and us: if the start_response that we were given is the server's
own. :func:`find` looks at that. A server's file here is imported only if that server is loaded:
by :func:`preload`, or when :func:`find` meets it.

To add a server, see ``docs/adding_a_server.rst``.
"""

from __future__ import annotations

import sys
from functools import lru_cache, partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from .. import registry
from ..agents import servers_start_response
from ..server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["find", "preload"]


def preload() -> None:
    """Import what is known of the servers that are loaded.

    At the first request there may be no descriptor left for that.
    """
    files = {module or file: file for (module, _), file in registry.SERVERS.items()}
    files.update((file, file) for file in registry.ENVIRONS.values())
    for name in ["unknown", *(file for module, file in files.items() if module in sys.modules)]:
        registry.load(name)


def find(environ: WSGIEnvironment, start_response: Any) -> Server:
    """The server whose own start_response this is.

    Otherwise a class that uses nothing past WSGI: the ``Hidden`` of the server that the
    environ names, or ``unknown.Server``.
    """
    if type(start_response) is partial:
        start_response = servers_start_response(start_response)
    # Not by __module__ and __qualname__ of a function, which functools.wraps copies.
    kind = type(start_response)
    if kind is FunctionType:
        module, name = start_response.__globals__.get("__name__"), start_response.__code__.co_name
    elif kind is MethodType:
        owner = type(start_response.__self__)
        module, name = owner.__module__, owner.__name__
    elif kind is BuiltinFunctionType:
        module, name = start_response.__module__, start_response.__name__
    else:
        # An object of any other type is not looked at, because fastwsgi crashes when its own
        # is. That server is recognised when it iterates.
        module, name = "fastwsgi" if "fastwsgi" in sys.modules else None, ""
    known = _class_of(module, name)
    if known is None:
        key = next(filter(environ.__contains__, registry.ENVIRONS), None)
        known = _hidden_class_of(key)
    return known(environ, start_response)


@lru_cache(256)
def _class_of(module: str | None, name: str) -> type[Server] | None:
    file = registry.SERVERS.get((module, name))
    return None if file is None else registry.load(file).Server


@lru_cache(256)
def _hidden_class_of(key: str | None) -> type[Server]:
    found: type[Server] = (
        registry.load("unknown").Server
        if key is None
        else registry.load(registry.ENVIRONS[key]).Hidden
    )
    return found
