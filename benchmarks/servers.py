"""Start a server with one of the contenders: shared by all benchmarks.

``tests/servers/launch.py`` knows how to start each server.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "tests"))
sys.path.append(os.path.join(os.path.dirname(__file__), "..", "tests", "servers"))
import launch
import nginx
import slowfs
from measured import Measured, measured
from ports import Address, ServerError, connect, free_port

__all__ = ["Address", "Measured", "ServerError", "connect", "launch", "nginx", "slowfs"]

HERE = os.path.dirname(os.path.abspath(__file__))
HOST = "127.0.0.1"
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
#: What can listen on a unix socket here.
UNIX = ("waitress", "gunicorn_sync", "gunicorn_gthread", "cheroot", "uwsgi", *REFERENCES)

#: Besides the applications, nginx has the files for X-Accel-Redirect.
NGINX = """
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    uwsgi_param REQUEST_METHOD $request_method;
    uwsgi_param PATH_INFO $document_uri;
    uwsgi_param QUERY_STRING $query_string;
    uwsgi_param SERVER_NAME $host;
    uwsgi_param SERVER_PORT $server_port;
    uwsgi_param SERVER_PROTOCOL $server_protocol;
    server {{
        listen {listen};
        location / {{ {location} }}
        location /_files/ {{ internal; alias {files}/; }}
    }}
"""


@dataclass(frozen=True)
class Network:
    """Where the servers listen."""

    host: str = HOST
    #: What runs a command there.
    prefix: tuple[str, ...] = ()
    #: On unix sockets. Not all servers can.
    unix: bool = False
    #: With nginx in front of them, which has these directives; None: without.
    front: str | None = None

    def address(self, directory: str) -> Address:
        if self.unix:
            return os.path.join(directory, "socket")
        return (self.host, free_port()) if self.prefix else free_port()


LOOPBACK = Network()


@contextlib.contextmanager
def veth() -> Iterator[Network]:
    """A network namespace that ends with this process, and a pair of interfaces to it.

    Root alone may have one. The addresses are for benchmarks (RFC 2544).

    :raises ServerError: if there can be none.
    """
    # It ends when its input does, and the namespace and both interfaces with it.
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        name = f"wsgifile{holder.pid}"[:15]
        prefix = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        script = f"""
            ip link add {name} mtu 1500 type veth peer name eth0 mtu 1500 netns {holder.pid}
            ip address add 198.18.0.1/30 dev {name}
            ip link set {name} up
            {" ".join(prefix)} ip address add 198.18.0.2/30 dev eth0
            {" ".join(prefix)} ip link set eth0 up"""
        done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True)
        if done.returncode:
            raise ServerError(f"no veth pair, which needs root: {done.stderr.strip()}")
        yield Network("198.18.0.2", prefix)


@contextlib.contextmanager
def network(receiver: str) -> Iterator[Network]:
    """The network for one of the ways to receive, by its name."""
    if receiver == "veth":
        with veth() as one:
            yield one
    else:
        front = "" if receiver == "unix-nginx" else None
        if front is not None and not installed("nginx"):
            raise ServerError("nginx is not installed")
        yield Network(unix=receiver.startswith("unix"), front=front)


def module(server: str) -> str:
    """The module that has to be installed for a server."""
    return launch.SERVERS[SERVERS.get(server, (server,))[0]].module


def installed(name: str) -> bool:
    """Whether a server or a reference can be started."""
    if name in REFERENCES:
        return name != "nginx" or nginx.NGINX is not None
    return launch.SERVERS[SERVERS.get(name, (name,))[0]].installed()


@contextlib.contextmanager
def running(
    server: str, contender: str, files: str, net: Network = LOOPBACK, **options: Any
) -> Iterator[Measured]:
    """A server with one contender for its application, or a reference.

    The server is one of SERVERS, or has the name in launch.py. The contender "ours, 65536" is
    ours with calls of that size.
    """
    name, _, call_size = contender.partition(", ")
    environ = {
        "LAUNCH_HOST": net.host,
        "BENCHMARK_SERVER": server,
        "BENCHMARK_CONTENDER": name,
        "BENCHMARK_FILES": files,
        "BENCHMARK_CALL_SIZE": call_size,
    }
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        address = net.address(directory)
        command = [*net.prefix, *command_of(server, address, files, directory, net, options)]
        log = Path(directory, "log")
        one = stack.enter_context(measured(command, address, log, environ))
        if net.front is not None:
            kind = "uwsgi_pass unix://{}" if server == "uwsgi" else "proxy_pass http://unix:{}:"
            location = f"{net.front} {kind.format(address)};"
            port, root = free_port(), stack.enter_context(scratch())
            command = nginx_command(location, port, files, root)
            front = stack.enter_context(measured(command, port, Path(root, "log"), {}))
            one = replace(one, address=port, front=front)
        yield one


def command_of(
    server: str, address: Address, files: str, directory: str, net: Network, more: dict[str, Any]
) -> list[str]:
    if server == "nginx":
        return nginx_command(f"root {files};", address, files, directory)
    unix, port = (address, 0) if isinstance(address, str) else ("", address)
    port = port[1] if isinstance(port, tuple) else port
    if server == "floor":
        where = [unix] if unix else [net.host, str(port)]
        return [sys.executable, os.path.join(HERE, "floor.py"), files, *where]
    name, options = SERVERS.get(server, (server, {}))
    options = {**options, **more}
    if name.startswith("mod_wsgi"):
        options["root"] = directory
    if name == "uwsgi" and net.front is not None:
        options["socket"] = ["--socket"]
    app = os.path.join(HERE, "apps.py")
    return launch.command(name, app, port, access_log=False, unix=unix, **options)


def nginx_command(location: str, address: Address, files: str, root: str) -> list[str]:
    if isinstance(address, str):
        listen = f"unix:{address}"
    else:
        listen = "{}:{}".format(*(address if isinstance(address, tuple) else (HOST, address)))
    return nginx.command(Path(root), NGINX.format(listen=listen, location=location, files=files))


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        yield directory


@contextlib.contextmanager
def make_files(sizes: Iterable[int]) -> Iterator[str]:
    """A temporary directory with a file of each size, which is its name, in the page cache.

    They hold random bytes, with a line end every 256 bytes on average. Those above a GiB are
    sparse. There is a file "small" of 6 bytes, too, for what serves files alone.
    """
    with scratch() as directory:
        Path(directory, "small").write_bytes(b"small\n")
        block = random.Random(1).randbytes(MIB)
        buffer = bytearray(MIB)
        for size in set(sizes):
            with open(os.path.join(directory, str(size)), "w+b") as file:
                if size > GIB:
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
