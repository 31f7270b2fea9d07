"""The application of the tests of slow clients, and the servers that need a program of their own.

It is copied to the server's directory as ``app.py``, beside ``data``, which it sends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from wsgifile import FileWrapperMiddleware, Transfer, background
from wsgifile.body import Body
from wsgifile.client import Client

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SIZE = 24 << 20


class Zeros:
    left = SIZE

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


#: Processes that end with this one.
children: list[subprocess.Popen[bytes]] = []


def fork_and_end() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def fork_and_stay() -> None:
    """The child lives as long as this process, with all that it has inherited."""
    end, ours = os.pipe()
    if not os.fork():
        os.close(ours)
        os.read(end, 1)
        os._exit(0)
    os.close(end)


def run_a_program() -> None:
    """The same for a program, which inherits what may be inherited."""
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    children.append(subprocess.Popen(wait, stdin=subprocess.PIPE, close_fds=False))
    subprocess.run(["true"], preexec_fn=os.getpid, check=True)


def use_multiprocessing() -> None:
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    child.start()
    child.join()
    assert child.exitcode == 0


def wait_until_idle() -> None:
    """Nothing is sent in the background, and its thread has given back what it needs for that."""
    while background._sender._epoll is not None:
        time.sleep(0.01)


def log(text: str) -> None:
    """A line, in one write, as other threads and processes write to the same log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def hold(name: str) -> None:
    """Keep the worker until there is a file of this name."""
    log(f"held: {name}")
    while not os.path.exists(name):
        time.sleep(0.01)


#: What the application can be asked for, and what it answers.
CALLS: dict[str, Callable[[], object]] = {
    "/ping": lambda: "ok",
    "/pid": os.getpid,
    "/descriptors": lambda: len(os.listdir("/proc/self/fd")),
    "/disarm": lambda: ctypes.CDLL(None).fault_disarm(),
    "/fork_and_end": fork_and_end,
    "/fork_and_stay": fork_and_stay,
    "/run_a_program": run_a_program,
    "/idle": wait_until_idle,
    "/hold/1": lambda: hold("1"),
    "/hold/2": lambda: hold("2"),
    "/use_multiprocessing": use_multiprocessing,
}


def files(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    path = environ["PATH_INFO"]
    if path in CALLS:
        answer = str(CALLS[path]()).encode()
        log(f"asked for {path}")
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]
    if path == "/read":
        start_response("200 OK", [("Content-Length", str(SIZE))])
        return Zeros()
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    file: Any = open("data", "rb")
    close = file.close

    def closed() -> None:
        log("the file is closed")
        close()

    file.close = closed
    if path.startswith("/fault/"):
        # A call, and which one of these is to fail. The thread ends soon afterwards.
        background._TICK = 0.05
        _, _, call, errno, number = path.split("/")
        ctypes.CDLL(None).fault_arm(
            call.encode(), int(errno), int(number), ctypes.c_long(0), ctypes.c_long(0)
        )
    return file


leave = Body.leave


def leave_and_tell(body: Body, client: Client) -> bool:
    free = leave(body, client)
    log("it leaves" if free else "it stays")
    return free


Body.leave = leave_and_tell  # type: ignore[assignment, method-assign]


def on_sent(transfer: Transfer) -> None:
    log(f"sent {transfer.sender} {transfer.sent} {transfer.error!r}")


app = FileWrapperMiddleware(files, on_sent=on_sent)


def filtered(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    return app(environ, lambda *args: start_response(*args))


def threadless(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """On a uWSGI without --enable-threads, as far as the attribute says."""
    sys.modules["uwsgi"].has_threads = 0  # type: ignore[attr-defined]
    return app(environ, start_response)


def cheroot(port: int, threads: str = "1", certificate: str = "") -> None:
    from cheroot.ssl.builtin import BuiltinSSLAdapter
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", port), app, numthreads=int(threads), timeout=1)
    if certificate:
        server.ssl_adapter = BuiltinSSLAdapter(certificate, certificate)
    try:
        server.start()
    except KeyboardInterrupt:
        server.stop()


def wsgiref(port: int) -> None:
    from wsgiref.simple_server import make_server

    with suppress(KeyboardInterrupt):
        make_server("127.0.0.1", port, app).serve_forever()


def wsgiref_threads(port: int) -> None:
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    make_server("127.0.0.1", port, app, Server).serve_forever()


def wsgiref_forking(port: int) -> None:
    from socketserver import ForkingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class Server(ForkingMixIn, WSGIServer):
        pass

    make_server("127.0.0.1", port, app, Server).serve_forever()


def wsgiref_gevent(port: int, **patched: bool) -> None:
    from gevent import monkey

    monkey.patch_all(**patched)
    wsgiref_threads(port)


def wsgiref_gevent_threads(port: int) -> None:
    wsgiref_gevent(port, socket=False, select=False)


def wsgiref_eventlet(port: int) -> None:
    import eventlet

    eventlet.monkey_patch()
    wsgiref_threads(port)


def werkzeug(port: int, http11: str = "", certificate: str = "") -> None:
    from werkzeug.serving import WSGIRequestHandler, run_simple

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1" if http11 else "HTTP/1.0"

    run_simple(
        "127.0.0.1",
        port,
        app,
        threaded=True,
        request_handler=Handler,
        ssl_context=(certificate, certificate) if certificate else None,
    )


def werkzeug_forking(port: int) -> None:
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", port, app, processes=2)


def runserver(port: int) -> None:
    from django.conf import settings
    from django.core.management import execute_from_command_line

    settings.configure(DEBUG=True, WSGI_APPLICATION="app.app")
    execute_from_command_line(["manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"])


def paste(port: int, version: str = "HTTP/1.0") -> None:
    from paste.httpserver import serve

    serve(app, "127.0.0.1", str(port), protocol_version=version)


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]), *sys.argv[3:])
