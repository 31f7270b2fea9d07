"""Be one server, until a signal: ``serve.py SERVER PORT``. Started by ``servers.py``.

No server writes an access log. What they serve is ``apps.app``.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
import sys
import threading

HOST = "127.0.0.1"
THREADS = int(os.environ.get("BENCHMARK_THREADS", 4))
HERE = os.path.dirname(os.path.abspath(__file__))


def waitress(port: int) -> None:
    import waitress
    from apps import app

    # By default it accepts 100 connections, and select() ends at descriptor 1024:
    # too few for the slow clients, whose files are open as well.
    waitress.serve(
        app,
        host=HOST,
        port=port,
        threads=THREADS,
        connection_limit=2000,
        asyncore_use_poll=True,
    )


def gunicorn(port: int, *more: str) -> None:
    from gunicorn.app.wsgiapp import run

    options = ["--bind", f"{HOST}:{port}", "--workers", "1", "--no-control-socket", *more]
    sys.argv = ["gunicorn", *options, "apps:app"]
    run()


def gunicorn_sync(port: int) -> None:
    gunicorn(port)


def gunicorn_gthread(port: int) -> None:
    gunicorn(port, "--worker-class", "gthread", "--threads", str(THREADS))


def cheroot(port: int) -> None:
    from apps import app
    from cheroot.wsgi import Server

    Server((HOST, port), app).start()


def gevent(port: int) -> None:
    from gevent import monkey

    monkey.patch_all()
    from apps import app
    from gevent.pywsgi import WSGIServer

    WSGIServer((HOST, port), app, log=None).serve_forever()


def eventlet(port: int) -> None:
    import eventlet
    import eventlet.wsgi

    eventlet.monkey_patch()
    from apps import app

    eventlet.wsgi.server(eventlet.listen((HOST, port)), app, log_output=False)


def werkzeug(port: int) -> None:
    from apps import app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple(HOST, port, app, threaded=True)


def wsgiref(port: int) -> None:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    from apps import app

    class Silent(WSGIRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    make_server(HOST, port, app, handler_class=Silent).serve_forever()


def uwsgi(port: int) -> None:
    script = os.path.join(os.path.dirname(sys.executable), "uwsgi")
    options = ["--http-socket", f"{HOST}:{port}", "--module", "apps:app", "--pythonpath", HERE]
    options += ["--need-app", "--die-on-term", "--disable-logging"]
    # Which it does, but does not say.
    options += ["--add-header", "Connection: close"]
    os.execv(script, [script, *options, "--enable-threads", "--threads", str(THREADS)])


def granian(port: int) -> None:
    from granian import Granian
    from granian.constants import Interfaces

    Granian("apps:app", HOST, port, interface=Interfaces.WSGI).serve()


NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {scratch}/nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    scgi_temp_path {scratch}/scgi;
    uwsgi_temp_path {scratch}/uwsgi;
    server {{
        listen {host}:{port};
        location / {{ root {files}; }}
        location = /small {{ return 200 "small\\n"; }}
    }}
}}
"""


def nginx(port: int) -> None:
    scratch, files = os.environ["BENCHMARK_SCRATCH"], os.environ["BENCHMARK_FILES"]
    conf = os.path.join(scratch, "nginx.conf")
    with open(conf, "w") as file:
        file.write(NGINX.format(scratch=scratch, files=files, host=HOST, port=port))
    script = find_nginx()
    assert script is not None
    os.execv(script, [script, "-p", scratch, "-c", conf, "-e", "stderr"])


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def floor(port: int) -> None:
    """As little as Python can do: no HTTP to speak of, one socket.sendfile() per request."""
    with socket.create_server((HOST, port), backlog=128) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    files = os.environ["BENCHMARK_FILES"]
    received = b""
    with connection:
        # Else the end of a response may wait for the acknowledgement of its beginning.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            while b"\r\n\r\n" not in received:
                more = connection.recv(65536)
                if not more:
                    return
                received += more
            head, _, received = received.partition(b"\r\n\r\n")
            name = os.path.basename(head.split()[1].decode())
            try:
                if name == "small":
                    connection.sendall(header(6) + b"small\n")
                    continue
                with open(os.path.join(files, name), "rb") as file:
                    length = os.fstat(file.fileno()).st_size
                    connection.sendall(header(length), socket.MSG_MORE)
                    connection.sendfile(file)
            except ConnectionError:
                return


def header(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    globals()[sys.argv[1]](int(sys.argv[2]))
