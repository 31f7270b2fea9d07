"""How each server is started: ``launch.py SERVER FILE PORT [OPTIONS]``, until a signal.

FILE is a Python file that has the application as ``app``. OPTIONS is a JSON object with
keyword arguments of :func:`start`. The tests, the soak and the benchmarks start their
servers by this module; ``serve.py`` calls it in its own process.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: The benchmarks have servers listen in another network, too.
HOST = os.environ.get("LAUNCH_HOST", "127.0.0.1")


@dataclass(frozen=True)
class Site:
    """What a server is to serve."""

    #: The Python file that has the application.
    path: str
    port: int
    #: Whether to write an access log, if the server can.
    access_log: bool = True
    #: The path of a unix socket to use in place of the port. Not all servers look at it.
    unix: str = ""

    @property
    def directory(self) -> str:
        return os.path.dirname(os.path.abspath(self.path))

    @property
    def module(self) -> str:
        return Path(self.path).stem

    @property
    def name(self) -> str:
        """The application, for servers that import it themselves."""
        return f"{self.module}:app"

    def app(self) -> Any:
        return importlib.import_module(self.module).app


def waitress(site: Site, *, threads: int = 2, **options: Any) -> None:
    import waitress

    where = {"unix_socket": site.unix} if site.unix else {"host": HOST, "port": site.port}
    waitress.serve(site.app(), threads=threads, **where, **options)


def gunicorn(site: Site, *, worker_class: str = "sync", threads: int = 1) -> None:
    from gunicorn.app.wsgiapp import run

    where = f"unix:{site.unix}" if site.unix else f"{HOST}:{site.port}"
    options = ["--bind", where, "--workers", "1", "--no-control-socket"]
    options += ["--worker-class", worker_class, "--threads", str(threads)]
    if site.access_log:
        options += ["--access-logfile", "-"]
    sys.argv = ["gunicorn", *options, site.name]
    run()


def wsgiref(site: Site) -> None:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = WSGIRequestHandler if site.access_log else Silent
    make_server(HOST, site.port, site.app(), handler_class=handler).serve_forever()


def runserver(site: Site) -> None:
    from django.core.servers.basehttp import run

    run(HOST, site.port, site.app(), threading=True)


def werkzeug(site: Site, *, http11: bool = False, **options: Any) -> None:
    from werkzeug.serving import WSGIRequestHandler, run_simple

    class HTTP11(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

    if http11:
        options["request_handler"] = HTTP11
    if not site.access_log:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple(HOST, site.port, site.app(), **options)


def cheroot(site: Site, *, threads: int = 4) -> None:
    from cheroot.wsgi import Server

    Server(site.unix or (HOST, site.port), site.app(), numthreads=threads).start()


def gevent(site: Site) -> None:
    from gevent import monkey

    monkey.patch_all()
    from gevent.pywsgi import WSGIServer

    log = "default" if site.access_log else None
    WSGIServer((HOST, site.port), site.app(), log=log).serve_forever()


def eventlet(site: Site) -> None:
    import eventlet
    import eventlet.wsgi

    eventlet.monkey_patch()
    listener = eventlet.listen((HOST, site.port))
    eventlet.wsgi.server(listener, site.app(), log_output=site.access_log)


def paste(site: Site, **options: Any) -> None:
    from paste.httpserver import serve

    serve(site.app(), HOST, str(site.port), **options)


def twisted(site: Site) -> None:
    from twisted.internet import reactor as typed
    from twisted.web.server import Site as TwistedSite
    from twisted.web.wsgi import WSGIResource

    reactor: Any = typed  # The types know the interface alone.
    resource = WSGIResource(reactor, reactor.getThreadPool(), site.app())
    reactor.listenTCP(site.port, TwistedSite(resource), interface=HOST)
    reactor.run()


def tornado(site: Site) -> None:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    async def main() -> None:
        HTTPServer(WSGIContainer(site.app(), ThreadPoolExecutor(4))).listen(site.port, HOST)
        await asyncio.Event().wait()

    asyncio.run(main())


def hypercorn(site: Site) -> None:
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"{HOST}:{site.port}"]
    asyncio.run(serve(site.app(), config, mode="wsgi"))


def a2wsgi(site: Site) -> None:
    import uvicorn
    from a2wsgi import WSGIMiddleware

    uvicorn.run(WSGIMiddleware(site.app()), host=HOST, port=site.port)


def granian(site: Site) -> None:
    from granian import Granian
    from granian.constants import Interfaces

    Granian(site.name, HOST, site.port, interface=Interfaces.WSGI).serve()


def pyruvate(site: Site) -> None:
    import pyruvate

    # One worker: it drops what a client has left behind with its next connection.
    pyruvate.serve(site.app(), f"{HOST}:{site.port}", 1)


def fastwsgi(site: Site) -> None:
    import fastwsgi

    fastwsgi.run(wsgi_app=site.app(), host=HOST, port=site.port)


def bjoern(site: Site) -> None:
    import bjoern

    bjoern.run(site.app(), HOST, site.port)


def script(name: str) -> str:
    """A program that was installed beside this Python."""
    return os.path.join(os.path.dirname(sys.executable), name)


def uwsgi(
    site: Site,
    *,
    socket: tuple[str, ...] = ("--http-socket",),
    threads: int = 4,
    more: tuple[str, ...] = (),
) -> None:
    options = [*socket, site.unix or f"{HOST}:{site.port}", "--module", site.name]
    options += ["--pythonpath", site.directory, "--need-app", "--die-on-term"]
    options += ["--enable-threads", "--threads", str(threads), *more]
    if not site.access_log:
        options.append("--disable-logging")
    command = [script("uwsgi"), *options]
    os.execv(command[0], command)


def mod_wsgi(site: Site, *, root: str, more: tuple[str, ...] = ()) -> None:
    """Apache, whose configuration goes to a directory below root."""
    # Coverage hangs in it, and none of our code is only for it.
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        del os.environ[name]
    options = ["--host", HOST, "--port", str(site.port), "--callable-object", "app"]
    options += ["--python-path", site.directory, "--log-to-terminal", "--access-log"]
    options += ["--server-root", os.path.join(root, f"mod_wsgi-{site.port}")]
    command = [script("mod_wsgi-express"), "start-server", site.path, *options, *more]
    if os.getuid() == 0:
        # Apache serves nothing as root. In a namespace where it is another user
        # it can still read what only root may: this checkout, and the files.
        command = ["unshare", "--user", "--map-user=33", "--map-group=33", *command]
    os.execvp(command[0], command)


@dataclass(frozen=True)
class Server:
    #: The module that has to be installed.
    module: str
    #: Serves a site until a signal ends it.
    serve: Callable[..., None]
    #: Keyword arguments of it, for variants of a server.
    options: Mapping[str, Any] = field(default_factory=dict)

    def installed(self) -> bool:
        return find_spec(self.module) is not None


EMBEDDED = ("--embedded-mode", "--processes", "1")

SERVERS = {
    "waitress": Server("waitress", waitress),
    "gunicorn": Server("gunicorn", gunicorn),
    "gunicorn_gthread": Server("gunicorn", gunicorn, {"worker_class": "gthread", "threads": 2}),
    "gunicorn_gevent": Server("gevent", gunicorn, {"worker_class": "gevent"}),
    "uwsgi": Server("pyuwsgi", uwsgi),
    "uwsgi_http11": Server("pyuwsgi", uwsgi, {"socket": ("--http11-socket",)}),
    "uwsgi_router": Server("pyuwsgi", uwsgi, {"socket": ("--http-keepalive", "--http")}),
    "cheroot": Server("cheroot", cheroot),
    "gevent": Server("gevent", gevent),
    "eventlet": Server("eventlet", eventlet),
    "wsgiref": Server("wsgiref", wsgiref),
    "runserver": Server("django", runserver),
    "werkzeug": Server("werkzeug", werkzeug),
    "werkzeug_threaded": Server("werkzeug", werkzeug, {"threaded": True}),
    "werkzeug_http11": Server("werkzeug", werkzeug, {"threaded": True, "http11": True}),
    "granian": Server("granian", granian),
    "bjoern": Server("bjoern", bjoern),
    "mod_wsgi": Server("mod_wsgi", mod_wsgi),
    "mod_wsgi_sendfile": Server("mod_wsgi", mod_wsgi, {"more": ("--enable-sendfile",)}),
    "mod_wsgi_embedded": Server("mod_wsgi", mod_wsgi, {"more": EMBEDDED}),
    "mod_wsgi_embedded_sendfile": Server(
        "mod_wsgi", mod_wsgi, {"more": (*EMBEDDED, "--enable-sendfile")}
    ),
    "paste": Server("paste", paste),
    "paste_http11": Server("paste", paste, {"protocol_version": "HTTP/1.1"}),
    "twisted": Server("twisted", twisted),
    "tornado": Server("tornado", tornado),
    "hypercorn": Server("hypercorn", hypercorn),
    "a2wsgi": Server("a2wsgi", a2wsgi),
    "pyruvate": Server("pyruvate", pyruvate),
    "fastwsgi": Server("fastwsgi", fastwsgi),
}


def version(name: str) -> str:
    """The version of a server, or nothing if it is part of Python."""
    # gunicorn_gevent needs gevent, but is gunicorn.
    for distribution in (name.partition("_")[0], SERVERS[name].module):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(distribution)
    return ""


def start(
    name: str, path: str, port: int, *, access_log: bool = True, unix: str = "", **options: Any
) -> None:
    """Serve the application of this file, with options of the server's function above."""
    site = Site(path, port, access_log, unix)
    if site.directory not in sys.path:
        sys.path.insert(0, site.directory)
    server = SERVERS[name]
    server.serve(site, **{**server.options, **options})


def command(name: str, path: str, port: int, **options: Any) -> list[str]:
    """What does that in a process of its own."""
    this = os.path.abspath(__file__)
    return [sys.executable, this, name, path, str(port), json.dumps(options)]


if __name__ == "__main__":
    start(sys.argv[1], sys.argv[2], int(sys.argv[3]), **json.loads(sys.argv[4]))
