"""Start a server with one of the contenders: shared by all benchmarks.

``tests/servers/launch.py`` knows how to start each server.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "tests"))
sys.path.append(os.path.join(os.path.dirname(__file__), "..", "tests", "servers"))
import launch
from measured import Measured, measured
from ports import Address, ServerError, connect, free_port

__all__ = ["Address", "Measured", "ServerError", "connect", "launch"]

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
    uwsgi_param REQUEST_METHOD $request_method;
    uwsgi_param PATH_INFO $document_uri;
    uwsgi_param QUERY_STRING $query_string;
    uwsgi_param SERVER_NAME $host;
    uwsgi_param SERVER_PORT $server_port;
    uwsgi_param SERVER_PROTOCOL $server_protocol;
    server {{
        listen {address};
        location / {{ {location} }}
        location /_files/ {{ internal; alias {files}/; }}
    }}
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
        commands = f"""
            ip link add {name} mtu 1500 type veth peer name eth0 mtu 1500 netns {holder.pid}
            ip address add 198.18.0.1/30 dev {name}
            ip link set {name} up
            {" ".join(prefix)} ip address add 198.18.0.2/30 dev eth0
            {" ".join(prefix)} ip link set eth0 up"""
        for command in commands.strip().splitlines():
            done = subprocess.run(command.split(), capture_output=True, text=True)
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
        yield Network(unix=receiver.startswith("unix"), front=front)


def find_nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def launched(server: str) -> launch.Server:
    return launch.SERVERS[SERVERS[server][0] if server in SERVERS else server]


def module(server: str) -> str:
    """The module that has to be installed for a server."""
    return launched(server).module


def installed(name: str) -> bool:
    """Whether a server or a reference can be started."""
    if name in REFERENCES:
        return name != "nginx" or find_nginx() is not None
    return launched(name).installed()


@contextlib.contextmanager
def running(
    server: str, contender: str, files: str, net: Network = LOOPBACK, **options: Any
) -> Iterator[Measured]:
    """A server with one contender for its application, or a reference.

    The server is one of SERVERS, or has the name in launch.py.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        address = net.address(directory)
        if server == "nginx":
            command = nginx(f"root {files};", files, address, directory)
        elif server == "floor":
            where = [address] if isinstance(address, str) else [net.host, port_of(address)]
            command = [sys.executable, os.path.join(HERE, "floor.py"), files, *map(str, where)]
        else:
            name, own = SERVERS.get(server, (server, {}))
            command = launch_command(name, address, directory, net, {**own, **options})
        one = stack.enter_context(
            measured(
                [*net.prefix, *command],
                address,
                Path(directory, "log"),
                environment(server, contender, files, net),
            )
        )
        yield one if net.front is None else stack.enter_context(fronted(one, server, files, net))


def launch_command(
    name: str, address: Address, directory: str, net: Network, options: dict[str, Any]
) -> list[str]:
    if name.startswith("mod_wsgi"):
        options["root"] = directory
    if name == "uwsgi" and net.front is not None:
        options["socket"] = ["--socket"]
    unix = address if isinstance(address, str) else ""
    app, port = os.path.join(HERE, "apps.py"), port_of(address)
    return launch.command(name, app, port, access_log=False, unix=unix, **options)


def port_of(address: Address) -> int:
    """The port of a TCP address; 0: it has none."""
    if isinstance(address, str):
        return 0
    return address if isinstance(address, int) else address[1]


def environment(server: str, contender: str, files: str, net: Network) -> dict[str, str]:
    """For apps.py. Ours may be given the size of a call: ``ours, 65536``."""
    name, _, call_size = contender.partition(", ")
    return {
        "LAUNCH_HOST": net.host,
        "BENCHMARK_SERVER": server,
        "BENCHMARK_CONTENDER": name,
        "BENCHMARK_FILES": files,
        "BENCHMARK_CALL_SIZE": call_size,
    }


@contextlib.contextmanager
def fronted(server: Measured, name: str, files: str, net: Network) -> Iterator[Measured]:
    """A server on a unix socket with nginx in front."""
    if name == "uwsgi":
        location = f"{net.front} uwsgi_pass unix://{server.address};"
    else:
        location = f"{net.front} proxy_pass http://unix:{server.address}:;"
    port = free_port()
    with scratch() as directory:
        command = nginx(location, files, port, directory)
        with measured(command, port, Path(directory, "log"), {}) as front:
            yield replace(server, address=port, front=front)


def nginx(location: str, files: str, address: Address, directory: str) -> list[str]:
    """The command for nginx with this location."""
    if isinstance(address, str):
        listen = f"unix:{address}"
    else:
        listen = "{}:{}".format(*(address if isinstance(address, tuple) else (HOST, address)))
    conf = os.path.join(directory, "nginx.conf")
    with open(conf, "w") as file:
        file.write(NGINX.format(scratch=directory, location=location, files=files, address=listen))
    return [find_nginx() or "nginx", "-p", directory, "-c", conf, "-e", "stderr"]


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as directory:
        yield directory


@contextlib.contextmanager
def make_files(sizes: list[int], *, sparse: bool = False) -> Iterator[str]:
    """A temporary directory with a file of each size, which is its name, in the page cache.

    They hold random bytes, with a line end every 256 bytes on average, or are sparse.
    There is a file "small" of 6 bytes, too, for what serves files alone.
    """
    with scratch() as directory:
        Path(directory, "small").write_bytes(b"small\n")
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
