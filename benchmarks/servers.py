"""Start a server with one of the contenders: shared by all benchmarks.

``tests/servers/launch.py`` knows how to start each server.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "tests"))
sys.path.append(os.path.join(os.path.dirname(__file__), "..", "tests", "servers"))
import launch
from launch import HOST
from measured import Measured, measured
from ports import ServerError, free_port

__all__ = ["HOST", "Measured", "ServerError", "free_port", "launch", "measured"]

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
KIB, MIB, GIB, GB = 2**10, 2**20, 2**30, 10**9

#: The servers that take a WSGI application: the name in launch.py, and options.
SERVERS: dict[str, tuple[str, dict[str, Any]]] = {
    # By default it accepts 100 connections, and select() fails above descriptor 1023:
    # too little for the slow clients, each with an open file.
    "waitress": (
        "waitress",
        {"threads": 4, "connection_limit": 2000, "asyncore_use_poll": True},
    ),
    "gunicorn_sync": ("gunicorn", {}),
    "gunicorn_gthread": ("gunicorn_gthread", {"threads": 4}),
    "cheroot": ("cheroot", {"threads": 10}),
    "gevent": ("gevent", {}),
    "eventlet": ("eventlet", {}),
    "werkzeug": ("werkzeug_threaded", {}),
    "wsgiref": ("wsgiref", {}),
    # It closes each connection, but does not say so.
    "uwsgi": ("uwsgi", {"threads": 4, "more": ["--add-header", "Connection: close"]}),
    "granian": ("granian", {}),
}
#: What stands beside them for comparison, without an application.
REFERENCES = ("nginx", "floor")
CONTENDERS = ("bare", "by_hand", "loop64", "ours", "plain", "whitenoise", *REFERENCES)
#: Not among the defaults: ours without the background, by apps.py.
WORKER = "worker"

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
        location / {{ {location} }}
        location = /small {{ return 200 "small\\n"; }}
    }}
}}
"""


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def module(server: str) -> str:
    """The module that has to be installed for a server."""
    return launch.SERVERS[SERVERS[server][0]].module


def installed(name: str) -> bool:
    """Whether a server or a reference can be started."""
    if name in SERVERS:
        return launch.SERVERS[SERVERS[name][0]].installed()
    return name != "nginx" or find_nginx() is not None


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        yield directory


@contextlib.contextmanager
def running(server: str, contender: str, files: str, **options: Any) -> Iterator[Measured]:
    """A server with one contender for its application, or a reference."""
    if server == "nginx":
        with nginx(f"root {files};") as one:
            yield one
    elif server == "floor":
        port = free_port()
        command = [sys.executable, os.path.join(HERE, "floor.py"), files, HOST, str(port)]
        with scratch() as directory, measured(command, port, Path(directory, "log"), {}) as one:
            yield one
    else:
        name, own = SERVERS[server]
        with launched(name, contender, files, **{**own, **options}) as one:
            yield one


@contextlib.contextmanager
def launched(name: str, contender: str, files: str, **options: Any) -> Iterator[Measured]:
    """A server of launch.py, with options of its own."""
    environ = {
        "BENCHMARK_SERVER": name,
        "BENCHMARK_CONTENDER": contender,
        "BENCHMARK_FILES": files,
    }
    app, port = os.path.join(HERE, "apps.py"), free_port()
    with scratch() as directory:
        if name.startswith("mod_wsgi"):
            options["root"] = directory
        command = launch.command(name, app, port, access_log=False, **options)
        with measured(command, port, Path(directory, "log"), environ) as one:
            yield one


@contextlib.contextmanager
def nginx(location: str) -> Iterator[Measured]:
    """nginx, with this configuration for all but /small."""
    port = free_port()
    with scratch() as directory:
        conf = os.path.join(directory, "nginx.conf")
        with open(conf, "w") as file:
            file.write(NGINX.format(scratch=directory, location=location, host=HOST, port=port))
        command = [find_nginx() or "nginx", "-p", directory, "-c", conf, "-e", "stderr"]
        with measured(command, port, Path(directory, "log"), {}) as one:
            yield one


@contextlib.contextmanager
def make_files(sizes: list[int], *, sparse: bool = False) -> Iterator[str]:
    """A temporary directory with a file of each size, which is its name, in the page cache.

    They hold random bytes, with a line end every 256 bytes on average, or are sparse.
    """
    with scratch() as directory:
        block = random.Random(1).randbytes(MIB)
        buffer = bytearray(MIB)
        for size in sizes:
            with open(os.path.join(directory, str(size)), "w+b") as file:
                if sparse:
                    file.truncate(size)
                else:
                    for at in range(0, size, MIB):
                        file.write(block[: size - at])
                    file.flush()
                    os.fsync(file.fileno())
                file.seek(0)
                while file.readinto(buffer):
                    pass
        yield directory
