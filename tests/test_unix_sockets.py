"""What each server calls the client of a unix socket, and that "unix" in trusted_proxies is it."""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from ports import connect, running

APP = """
from wsgifile import FileWrapperMiddleware, XAccelRedirect

def app(environ, start_response):
    start_response("200 OK", [("X-Peer", environ.get("REMOTE_ADDR", "(none)"))])
    return open(__file__, "rb")

app = FileWrapperMiddleware(
    app, offload=XAccelRedirect({"/": "/_files"}), trusted_proxies=["unix"]
)
"""
TORNADO = """
import asyncio, tornado.httpserver, tornado.netutil, tornado.wsgi

async def main():
    server = tornado.httpserver.HTTPServer(tornado.wsgi.WSGIContainer(peer.app))
    server.add_socket(tornado.netutil.bind_unix_socket(sys.argv[1]))
    await asyncio.Event().wait()

asyncio.run(main())
"""
GEVENT = """
from gevent import socket
from gevent.pywsgi import WSGIServer

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
WSGIServer(listener, peer.app).serve_forever()
"""

GUNICORN = "-m gunicorn --no-control-socket --bind unix:{socket} peer:app"
#: The module of each server, its command or program, and what it calls the client.
SERVERS: dict[str, tuple[str, str, str]] = {
    "gunicorn": ("gunicorn", GUNICORN, ""),
    "gunicorn_gthread": ("gunicorn", f"{GUNICORN} --threads 2", ""),
    "gunicorn_gevent": ("gevent", f"{GUNICORN} --worker-class gevent", ""),
    "gunicorn_tornado": ("tornado", f"{GUNICORN} --worker-class tornado", "0.0.0.0"),
    "waitress": ("waitress", "-m waitress --unix-socket={socket} peer:app", "localhost"),
    "uwsgi": ("pyuwsgi", "uwsgi --http-socket {socket} --module peer:app", "0.0.0.0"),
    "cheroot": (
        "cheroot",
        "from cheroot.wsgi import Server; Server(sys.argv[1], peer.app).start()",
        "",
    ),
    "hypercorn": ("hypercorn", "-m hypercorn --bind unix:{socket} wsgi:peer:app", "(none)"),
    "granian": ("granian", "granian --interface wsgi --uds {socket} peer:app", ""),
    "gevent": ("gevent", GEVENT, "(none)"),
    "tornado": ("tornado", TORNADO, "0.0.0.0"),
    "werkzeug": (
        "werkzeug",
        "import werkzeug; werkzeug.run_simple('unix://' + sys.argv[1], 0, peer.app)",
        "<local>",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_trusted(name: str) -> None:
    """The file is left to the proxy."""
    module, server, peer = SERVERS[name]
    pytest.importorskip(module)
    # The path of a unix socket must be short.
    with tempfile.TemporaryDirectory(prefix="unix-") as scratch:
        directory = os.path.realpath(scratch)
        Path(directory, "peer.py").write_text(APP)
        answer = ask(directory, command(server, f"{directory}/socket"))
    assert f"\nX-Peer: {peer}\n".lower() in answer.lower()
    assert f"\nX-Accel-Redirect: /_files{directory}/peer.py\n".lower() in answer.lower()
    assert answer.endswith("\n\n")  # There is no body.


def command(server: str, socket: str) -> list[str]:
    if "import" in server:
        return [sys.executable, "-c", f"import sys, peer\n{server}", socket]
    words = server.format(socket=socket).split()
    if words[0] == "-m":
        return [sys.executable, *words]
    return [f"{sysconfig.get_path('scripts')}/{words[0]}", *words[1:]]


def ask(directory: str, command: list[str]) -> str:
    """The answer of the server that this command starts, with plain line ends."""
    environ = {**os.environ, "PYTHONPATH": f"{directory}:{Path(__file__).parents[1]}"}
    log, socket = Path(directory, "log"), f"{directory}/socket"
    with (
        running(command, socket, log, cwd=directory, env=environ),
        connect(socket, 20) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer.decode().replace("\r\n", "\n")
