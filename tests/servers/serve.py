"""Start a server with the application under test: ``serve.py SERVER PORT``.

gunicorn imports ``app`` from here. What the senders do is recorded, so that
tests can tell which one it was.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

import cases
import frameworks

import wsgifile.blocks

HOST = "127.0.0.1"
#: Whether coverage is, by .ci/run.
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ


def record(owner: Any, name: str, kind: str, what: Any) -> None:
    """Have calls of owner.name add [kind, what(*arguments)], unless that is None."""
    original = getattr(owner, name)

    def recording(*args: Any, **kwargs: Any) -> Any:
        told = what(*args)
        if told is not None:
            cases.events.append([kind, told])
        return original(*args, **kwargs)

    setattr(owner, name, recording)


def first_read(reader: Any, size: int) -> int | None:
    told, reader.told = getattr(reader, "told", False), True
    return None if told or reader.remaining == 0 else size


record(os, "sendfile", "sendfile", lambda out, in_, offset, count: offset)
if "uwsgi" in sys.modules:
    record(sys.modules["uwsgi"], "sendfile", "wrapper", lambda *args: "uwsgi")
record(wsgifile.blocks.BlockReader, "next_block", "read", first_read)


class UpperIter:
    def __init__(self, app_iter: Any) -> None:
        self.blocks = map(bytes.upper, app_iter)
        self.close = app_iter.close

    def __iter__(self) -> Iterator[bytes]:
        return self.blocks


class Upper:
    """A filter that lets start_response pass and changes the body all the same."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return UpperIter(self.app(environ, start_response))


class Hidden:
    """A filter with a start_response of its own, and a body that is passed on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        def hidden(status: str, headers: Any, *exc_info: Any) -> Any:
            return start_response(status, [*headers, ("X-Filter", "yes")], *exc_info)

        return self.app(environ, hidden)


class Strings:
    """No filter, but for the validator: some servers give it numbers."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        for key, value in list(environ.items()):
            if "." not in key and not isinstance(value, str):
                environ[key] = str(value)
        return self.app(environ, start_response)


def mounted(environ: Any, start_response: Any) -> Any:
    """An application with another one below a part of its path."""
    environ["SCRIPT_NAME"] += "/sub"
    return cases.application(environ, start_response)


def note(transfer: wsgifile.Transfer) -> None:
    cases.events.append(
        [
            "transfer",
            transfer.sender,
            transfer.status,
            transfer.offset,
            transfer.count,
            transfer.sent,
            type(transfer.error).__name__,
            transfer.environ["PATH_INFO"],
        ]
    )
    assert transfer.seconds > 0


middleware = wsgifile.FileWrapperMiddleware(cases.application)
STACKS: dict[str, Any] = {
    "ours": middleware,
    # The same, for what is no test of its own: --bare leaves that alone.
    "middleware": middleware,
    "bare": cases.application,
    "upper": Upper(middleware),
    "mounted": wsgifile.FileWrapperMiddleware(mounted),
    "validator": Strings(validator(wsgifile.FileWrapperMiddleware(validator(cases.application)))),
    "ahead": wsgifile.FileWrapperMiddleware(cases.application, read_ahead=3),
    "watched": wsgifile.FileWrapperMiddleware(cases.application, on_sent=note),
    "impatient": wsgifile.FileWrapperMiddleware(cases.application, on_sent=note, send_timeout=0.5),
    "worker": wsgifile.FileWrapperMiddleware(
        cases.application, on_sent=note, send_timeout=0.5, background=0
    ),
    "hidden": Hidden(middleware),
    "upper_watched": Upper(wsgifile.FileWrapperMiddleware(cases.application, on_sent=note)),
    "twice": wsgifile.FileWrapperMiddleware(middleware),
    "filter_between": wsgifile.FileWrapperMiddleware(Hidden(middleware)),
}


def coverage_saved(environ: Any, start_response: Any) -> Any:
    """See Running.save_coverage()."""
    import coverage

    measured = coverage.Coverage.current()
    if measured is not None:
        measured.save()
    start_response("204 No Content", [])
    return []


def app(environ: Any, start_response: Any) -> Any:
    """``/STACK/CASE``: not a filter, it hands on what it got, both ways.

    Or ``/FRAMEWORK/PATH``, which is loaded with the first such request.
    """
    if MEASURED and sys.gettrace() is None:
        sys.settrace(threading.gettrace())  # A thread that C has made.
    stack, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + "/" + stack
    environ["PATH_INFO"] = "/" + rest
    if stack == "coverage":
        return coverage_saved(environ, start_response)
    if stack not in STACKS:
        STACKS[stack] = wsgifile.FileWrapperMiddleware(getattr(frameworks, stack)())
    return STACKS[stack](environ, start_response)


def waitress(port: int) -> None:
    import waitress
    from waitress.buffers import ReadOnlyFileBasedBuffer
    from waitress.channel import HTTPChannel

    record(
        HTTPChannel,
        "write_soon",
        "wrapper",
        lambda channel, data: (
            type(data).__module__ if isinstance(data, ReadOnlyFileBasedBuffer) else None
        ),
    )
    waitress.serve(app, host=HOST, port=port, threads=2)


def gunicorn(port: int, *more: str) -> None:
    from gunicorn.app.wsgiapp import run
    from gunicorn.http.wsgi import Response

    record(Response, "sendfile", "wrapper", lambda resp, respiter: type(respiter).__module__)
    options = ["--bind", f"{HOST}:{port}", "--workers", "1", "--access-logfile", "-"]
    options += ["--no-control-socket", *more]
    sys.modules["serve"] = sys.modules[__name__]
    sys.argv = ["gunicorn", *options, "serve:app"]
    run()


def gunicorn_gthread(port: int) -> None:
    gunicorn(port, "--worker-class", "gthread", "--threads", "2")


def gunicorn_gevent(port: int) -> None:
    gunicorn(port, "--worker-class", "gevent")


def wsgiref(port: int) -> None:
    from wsgiref.simple_server import make_server

    make_server(HOST, port, app).serve_forever()


def runserver(port: int) -> None:
    from django.core.servers.basehttp import run

    run(HOST, port, app, threading=True)


def werkzeug(port: int, **options: Any) -> None:
    from werkzeug.serving import run_simple

    run_simple(HOST, port, app, **options)


def werkzeug_threaded(port: int) -> None:
    werkzeug(port, threaded=True)


def werkzeug_http11(port: int) -> None:
    from werkzeug.serving import WSGIRequestHandler

    class HTTP11(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

    werkzeug(port, threaded=True, request_handler=HTTP11)


def cheroot(port: int) -> None:
    from cheroot.wsgi import Server

    Server((HOST, port), app, numthreads=4).start()


def gevent(port: int) -> None:
    from gevent import monkey

    monkey.patch_all()
    from gevent.pywsgi import WSGIServer

    WSGIServer((HOST, port), app).serve_forever()


def eventlet(port: int) -> None:
    import eventlet
    import eventlet.wsgi

    eventlet.monkey_patch()
    eventlet.wsgi.server(eventlet.listen((HOST, port)), app)


def paste(port: int, **options: Any) -> None:
    from paste.httpserver import serve

    serve(app, HOST, str(port), **options)


def paste_http11(port: int) -> None:
    paste(port, protocol_version="HTTP/1.1")


def twisted(port: int) -> None:
    from twisted.internet import reactor as typed
    from twisted.web.server import Site
    from twisted.web.wsgi import WSGIResource

    reactor: Any = typed  # By the interface alone.
    reactor.listenTCP(
        port, Site(WSGIResource(reactor, reactor.getThreadPool(), app)), interface=HOST
    )
    reactor.run()


def tornado(port: int) -> None:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from tornado.httpserver import HTTPServer
    from tornado.wsgi import WSGIContainer

    async def main() -> None:
        HTTPServer(WSGIContainer(app, ThreadPoolExecutor(4))).listen(port, HOST)
        await asyncio.Event().wait()

    asyncio.run(main())


def hypercorn(port: int) -> None:
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"{HOST}:{port}"]
    asyncio.run(serve(app, config, mode="wsgi"))


def a2wsgi(port: int) -> None:
    import uvicorn
    from a2wsgi import WSGIMiddleware

    uvicorn.run(WSGIMiddleware(app), host=HOST, port=port)


def granian(port: int) -> None:
    from granian import Granian
    from granian.constants import Interfaces

    Granian("serve:app", HOST, port, interface=Interfaces.WSGI).serve()


def uwsgi(port: int, *socket: str) -> None:
    script = os.path.join(os.path.dirname(sys.executable), "uwsgi")
    here = os.path.dirname(__file__)
    listen = [*(socket or ["--http-socket"]), f"{HOST}:{port}"]
    options = ["--module", "serve:app", "--pythonpath", here, "--need-app", "--die-on-term"]
    os.execv(script, [script, *listen, *options, "--enable-threads", "--threads", "4"])


def uwsgi_http11(port: int) -> None:
    uwsgi(port, "--http11-socket")


def uwsgi_router(port: int) -> None:
    uwsgi(port, "--http-keepalive", "--http")


def pyruvate(port: int) -> None:
    import pyruvate

    # One worker: what a client left behind is dropped with its next connection.
    pyruvate.serve(app, f"{HOST}:{port}", 1)


def fastwsgi(port: int) -> None:
    import fastwsgi

    fastwsgi.run(wsgi_app=app, host=HOST, port=port)


def bjoern(port: int) -> None:
    import bjoern

    bjoern.run(app, HOST, port)


def mod_wsgi(port: int, *more: str) -> None:
    # Coverage hangs in it, and none of our code is only for it.
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        del os.environ[name]
    script = os.path.join(os.path.dirname(sys.executable), "mod_wsgi-express")
    options = ["--host", HOST, "--port", str(port), "--callable-object", "app"]
    options += ["--python-path", os.path.dirname(__file__), "--log-to-terminal", "--access-log"]
    options += ["--server-root", os.path.join(cases.FILES, f"mod_wsgi-{port}")]
    command = [script, "start-server", __file__, *options, *more]
    if os.getuid() == 0:
        # Apache serves nothing as root. A namespace in which we are somebody else
        # leaves to it what only root may read: this checkout, and the files.
        command = ["unshare", "--user", "--map-user=33", "--map-group=33", *command]
    os.execvp(command[0], command)


def mod_wsgi_sendfile(port: int) -> None:
    mod_wsgi(port, "--enable-sendfile")


def mod_wsgi_embedded(port: int, *more: str) -> None:
    mod_wsgi(port, "--embedded-mode", "--processes", "1", *more)


def mod_wsgi_embedded_sendfile(port: int) -> None:
    mod_wsgi_embedded(port, "--enable-sendfile")


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]))
