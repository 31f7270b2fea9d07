"""Slow clients: what stays with a worker is not cut, and what happens when a server stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ports import free_port, running

SIZE = 24 << 20

APP = """
import io
import os
import ssl
import sys

from wsgifile import FileWrapperMiddleware
from wsgifile.body import Body

leave = Body.leave


def asked(body, client):
    free = leave(body, client)
    print("it leaves" if free else "it stays", flush=True)
    return free


Body.leave = asked


class Zeros:
    left = 24 << 20

    def read(self, size):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def files(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/ping":
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    if path == "/read":
        start_response("200 OK", [("Content-Length", str(24 << 20))])
        return Zeros()
    start_response("200 OK", [])
    file = open("data", "rb")
    close = file.close

    def closed():
        print("the file is closed", flush=True)
        close()

    file.close = closed
    return file


def on_sent(transfer):
    print("sent", transfer.sender, transfer.sent, repr(transfer.error), flush=True)


app = FileWrapperMiddleware(files, on_sent=on_sent)


def filtered(environ, start_response):
    return app(environ, lambda *args: start_response(*args))


def cheroot(port):
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", port), app, numthreads=1, timeout=1)
    try:
        server.start()
    except KeyboardInterrupt:
        server.stop()


def wsgiref(port):
    from wsgiref.simple_server import make_server

    try:
        make_server("127.0.0.1", port, app).serve_forever()
    except KeyboardInterrupt:
        pass


def wsgiref_forking(port):
    from socketserver import ForkingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class Server(ForkingMixIn, WSGIServer):
        pass

    make_server("127.0.0.1", port, app, server_class=Server).serve_forever()


def werkzeug_forking(port):
    from werkzeug.serving import run_simple

    run_simple("127.0.0.1", port, app, processes=2)


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]))
"""

BIN = Path(sys.executable).parent


def gunicorn(*options: str) -> Callable[[int], list[str]]:
    command = [str(BIN / "gunicorn"), "--no-control-socket", *options]
    return lambda port: [*command, "--bind", f"127.0.0.1:{port}", "app:app"]


def uwsgi(*options: str) -> Callable[[int], list[str]]:
    command = [str(BIN / "uwsgi"), "--module", "app:app", "--need-app", "--die-on-term"]
    return lambda port: [*command, *options, "--http-socket", f"127.0.0.1:{port}"]


def script(name: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "app.py", name, str(port)]


@contextmanager
def started(
    tmp_path: Path, command: Callable[[int], list[str]], module: str, stop: int = signal.SIGTERM
) -> Iterator[tuple[int, subprocess.Popen[Any], Path]]:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "data").write_bytes(bytes(SIZE))
    port, log = free_port(), tmp_path / "log"
    with running(command(port), port, log, stop, cwd=tmp_path) as process:
        yield port, process, log


def begin(port: int, path: str) -> socket.socket:
    """A client that has read a little."""
    sock = socket.socket()
    sock.settimeout(30)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.connect(("127.0.0.1", port))
    sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert sock.recv(100).startswith(b"HTTP/1.")
    return sock


def length(sock: socket.socket) -> int:
    """Number of bytes up to the end of the connection."""
    count = 0
    with sock:
        while got := len(sock.recv(1 << 16)):
            count += got
    return count


def logged(log: Path, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


#: Servers that cut a client off after a second, with one worker.
IMPATIENT = {
    "gunicorn": (gunicorn("--timeout", "2"), "gunicorn"),
    "cheroot": (script("cheroot"), "cheroot"),
    "uwsgi": (uwsgi("--socket-timeout", "1"), "pyuwsgi"),
}


@pytest.mark.parametrize("server", IMPATIENT)
def test_worker_waits(tmp_path: Path, server: str) -> None:
    """A client that stops for longer than the server waits gets all, also of what is read."""
    command, module = IMPATIENT[server]
    with started(tmp_path, command, module) as (port, _, log):
        sock = begin(port, "/read")
        time.sleep(5)
        assert length(sock) + 100 >= SIZE
        logged(log, f"sent read {SIZE} None")


#: Servers that are stopped by a signal: the command, its module, the signal, and whether a
#: download under way gets time to finish.
STOPS: dict[str, tuple[Callable[[int], list[str]], str, int, bool]] = {
    "gunicorn": (gunicorn(), "gunicorn", signal.SIGTERM, True),
    "gunicorn_hup": (gunicorn(), "gunicorn", signal.SIGHUP, True),
    "gunicorn_short": (gunicorn("--graceful-timeout", "1"), "gunicorn", signal.SIGTERM, False),
    "gthread": (gunicorn("--threads", "2"), "gunicorn", signal.SIGTERM, True),
    "cheroot": (script("cheroot"), "cheroot", signal.SIGINT, True),
    "wsgiref": (script("wsgiref"), "wsgiref", signal.SIGINT, False),
    "uwsgi": (uwsgi("--master"), "pyuwsgi", signal.SIGTERM, False),
    "uwsgi_reload": (uwsgi("--master", "--lazy-apps"), "pyuwsgi", signal.SIGHUP, True),
}


@pytest.mark.parametrize("name", STOPS)
def test_server_stops(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing hangs, and nothing is a traceback."""
    command, module, number, waits = STOPS[name]
    if module == "pyuwsgi":
        # Python would crash as it ends: coverage's tracer asks greenlet, whose variables uWSGI's
        # exit() has destroyed by then.
        for variable in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
            monkeypatch.delenv(variable, raising=False)
    with started(tmp_path, command, module) as (port, process, log):
        sock = begin(port, "/data")
        logged(log, "the file is closed")
        length(begin(port, "/ping"))
        process.send_signal(number)
        if not waits:
            logged(log, "the server has stopped")
        count = length(sock)
        assert (count >= SIZE) is waits
        logged(log, "sent background")
        if number != signal.SIGHUP:
            process.wait(20)
    assert "Traceback" not in log.read_text()


def test_max_requests(tmp_path: Path) -> None:
    """The worker that has answered enough ends when its downloads have."""
    command = gunicorn("--max-requests", "2")
    with started(tmp_path, command, "gunicorn") as (port, _, log):
        sock = begin(port, "/data")
        length(begin(port, "/ping"))
        logged(log, "Autorestarting worker")
        assert length(sock) >= SIZE
        length(begin(port, "/ping"))  # The next worker's.
    assert "Traceback" not in log.read_text()
    assert "WORKER TIMEOUT" not in log.read_text()


#: Of the following, those that find out when the client has fallen behind.
ASKED = {"no-sendfile", "wsgiref forks", "werkzeug forks", "route"}
#: Where nothing leaves its worker, with two of them.
STAYS = {
    "filter": (
        lambda port: [*gunicorn("--threads", "2")(port)[:-1], "app:filtered"],
        "gunicorn",
        "read",
    ),
    "no-sendfile": (gunicorn("--threads", "2", "--no-sendfile"), "gunicorn", "read"),
    "gevent": (gunicorn("--worker-class", "gevent"), "gevent", "os.sendfile"),
    "wsgiref forks": (script("wsgiref_forking"), "wsgiref", "os.sendfile"),
    "werkzeug forks": (script("werkzeug_forking"), "werkzeug", "os.sendfile"),
    "offload": (uwsgi("--offload-threads", "1"), "pyuwsgi", "wsgi.file_wrapper"),
    "async": (uwsgi("--async", "2", "--ugreen"), "pyuwsgi", "wsgi.file_wrapper"),
    "route": (uwsgi("--threads", "2", "--route-run", "log:x"), "pyuwsgi", "wsgi.file_wrapper"),
}


@pytest.mark.parametrize("name", STAYS)
def test_stays(tmp_path: Path, name: str) -> None:
    """Declined, or uWSGI's own background: others are served, and the client gets all."""
    command, module, sender = STAYS[name]
    with started(tmp_path, command, module) as (port, _, log):
        sock = begin(port, "/data")
        length(begin(port, "/ping"))
        if name in ASKED:
            logged(log, "it stays")
        assert length(sock) + 100 >= SIZE
        logged(log, f"sent {sender} ")
        assert "background" not in log.read_text()
