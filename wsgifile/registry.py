"""What is known of servers by name: the only tables that a new server needs a row in.

Nothing is imported to fill them. A server's file in ``wsgifile.servers`` is imported only if
that server is loaded.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["ENVIRONS", "SERVERS", "SKIPPED_WRAPPERS", "SOCKETS", "load"]

#: The file in ``servers`` that knows a server, by where start_response comes from:
#: (module, function) or (module, type of the object whose method it is).
SERVERS: dict[tuple[str | None, str], str] = {
    ("cheroot.wsgi", "Gateway_10"): "cheroot",
    ("django.core.servers.basehttp", "ServerHandler"): "wsgiref",
    ("eventlet.wsgi", "start_response"): "eventlet",
    ("fastwsgi", ""): "fastwsgi",
    ("gevent.pywsgi", "WSGIHandler"): "gevent",
    ("gunicorn.http.wsgi", "Response"): "gunicorn",
    ("paste.httpserver", "WSGIHandler"): "paste",
    ("tornado.wsgi", "start_response"): "tornado",
    ("twisted.web.wsgi", "_WSGIResponse"): "twisted",
    (None, "uwsgi_spit"): "uwsgi",
    ("waitress.task", "start_response"): "waitress",
    ("werkzeug.serving", "start_response"): "werkzeug",
    ("wsgiref.simple_server", "ServerHandler"): "wsgiref",
}

#: The file in ``servers`` that knows a server by a key of its environ. Its class ``Hidden`` is
#: for requests whose start_response is a filter's, and uses nothing past WSGI.
ENVIRONS: dict[str, str] = {
    "mod_wsgi.version": "mod_wsgi",
    "uwsgi.version": "uwsgi",
    "werkzeug.socket": "werkzeug",
}

#: The file in ``servers`` that knows how a socket waits, by module and name of the
#: socket's type. Monkey patching puts these types in the place of ``socket.socket``.
SOCKETS: dict[tuple[str, str], str] = {
    ("eventlet.greenio.base", "GreenSocket"): "eventlet",
    ("gevent._socket3", "socket"): "gevent",
}

#: Values of ``wsgi.file_wrapper`` that the read loop beats, by module and name, with the
#: reason. They are met where the server has no file in ``servers``, or is hidden by a filter.
SKIPPED_WRAPPERS: dict[tuple[str | None, str], str] = {
    ("builtins", "FileWrapper"): "bjoern's and pyruvate's ignore the offset or Content-Length",
    ("gunicorn.http.wsgi", "FileWrapper"): "gunicorn's keeps the connection after a short file",
    ("mod_wsgi", "FileWrapper"): "mod_wsgi's sends 8,000 bytes at a time",
    (None, "uwsgi_sendfile"): "uWSGI's ignores the offset and Content-Length",
    ("waitress.buffers", "ReadOnlyFileBasedBuffer"): "waitress's never ends after a short file",
    ("werkzeug.wsgi", "FileWrapper"): "Werkzeug's sends 8 KiB at a time",
    ("wsgifile.wrapper", "FileWrapper"): "it is wsgifile's own",
    ("wsgifile.wrapper", "SizedFileWrapper"): "it is wsgifile's own",
    ("wsgiref.util", "FileWrapper"): "wsgiref's sends 8 KiB at a time",
}


def load(name: str) -> ModuleType:
    """The file of ``servers`` of this name."""
    return import_module(f"wsgifile.servers.{name}")
