"""uWSGI with options that change what it does with a body."""

from __future__ import annotations

import gzip
import os
import random
import re
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from client import Client
from ports import free_port, running, wait_until_full

pytest.importorskip("pyuwsgi")

DATA = random.Random(1).randbytes(700_001)
APP = """
import os
from wsgifile import FileWrapperMiddleware

def bare(environ, start_response):
    headers, file = [("Content-Type", "application/octet-stream")], open("data", "rb")
    if environ["QUERY_STRING"] != "length":
        start_response("200 OK", headers)
        return file
    size = os.fstat(file.fileno()).st_size
    start_response("200 OK", [*headers, ("Content-Length", str(size))])
    return environ["wsgi.file_wrapper"](file)

def on_sent(transfer):
    # In one write, as uWSGI's threads write to the same log.
    print(f"SENT {transfer.sender} {type(transfer.error).__name__}\\n", end="", flush=True)

ours = FileWrapperMiddleware(bare, on_sent=on_sent)
worker = FileWrapperMiddleware(bare, on_sent=on_sent, background=0)
stacks = {"/bare": bare, "/ours": ours, "/worker": worker}

def application(environ, start_response):
    if environ["PATH_INFO"] == "/coverage":
        import coverage

        coverage.Coverage.current().save()
    if environ["PATH_INFO"] in ("/small", "/coverage"):
        start_response("200 OK", [("Content-Length", "5")])
        return [b"small"]
    return stacks[environ["PATH_INFO"]](environ, start_response)
"""
SOCKETS = [["--http-socket"], ["--http11-socket"], ["--http-keepalive", "--http"]]


class Server:
    def __init__(self, port: int, path: Path, log: Path) -> None:
        self.port, self.path, self.log = port, path, log

    def logged(self, text: str, count: int = 1) -> str:
        """The log, once it has this number of such lines."""
        deadline = time.monotonic() + 10
        while (log := self.log.read_text()).count(text) < count:
            assert time.monotonic() < deadline, log
            time.sleep(0.02)
        return log


@contextmanager
def uwsgi(tmp_path: Path, *options: str) -> Iterator[Server]:
    path, port = tmp_path / "data", free_port()
    path.write_bytes(DATA)
    (tmp_path / "app.py").write_text(APP)
    script = os.path.join(os.path.dirname(sys.executable), "uwsgi")
    command = [script, *options, f"127.0.0.1:{port}", "--module", "app", "--need-app"]
    command += ["--die-on-term", "--enable-threads", "--log-master-bufsize", "65536"]
    log = tmp_path / "log"
    with running(command, port, log, cwd=tmp_path):
        yield Server(port, path, log)
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # uWSGI does not end as Python would.
            # A route may break the frame of this response, so nobody parses it. FastCGI has none.
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 20) as sock:
                sock.sendall(b"GET /coverage HTTP/1.0\r\n\r\n")
                sock.recv(1)


@pytest.mark.parametrize("socket_option", ["--http-socket", "--http11-socket"])
@pytest.mark.parametrize("routes", [["gzip:"], ["chunked:"], ["gzip:", "chunked:"]])
def test_transforming_routes(tmp_path: Path, routes: list[str], socket_option: str) -> None:
    """No length of the file stands beside what they make of it, and no range is cut out."""
    options = [option for route in routes for option in ("--route-run", route)]
    ends = routes == ["gzip:"] and socket_option == "--http11-socket"
    with uwsgi(tmp_path, *options, socket_option) as server, Client(server.port, 10) as client:
        for target in ("/bare", "/ours"):
            for headers in ((), (("Range", "bytes=5-99"),)):
                if ends:
                    # uWSGI keeps the connection, and nothing tells the length.
                    continue
                answer = client.get(target, headers=headers)
                assert (answer.status, answer.short) == (200, False)
                assert "content-length" not in answer.headers
                body = gzip.decompress(answer.body) if "gzip:" in routes else answer.body
                assert body == DATA
        head = client.get("/ours", method="HEAD")
        assert "content-length" not in head.headers


@pytest.mark.parametrize("socket_options", SOCKETS, ids=" ".join)
@pytest.mark.parametrize("route", ["gzip:", "chunked:"])
@pytest.mark.parametrize("size", [300, len(DATA), 20_000_000])
def test_transforming_routes_and_a_length(
    tmp_path: Path, size: int, route: str, socket_options: list[str]
) -> None:
    """A file with the application's length, as frameworks send it, goes past the routes."""
    with (
        uwsgi(tmp_path, "--route-run", route, *socket_options) as server,
        Client(server.port, 10) as client,
    ):
        with server.path.open("r+b") as file:
            file.truncate(size)
        for target in ("/bare?length", "/ours?length", "/ours?length"):
            answer = client.get(target)
            assert (answer.status, answer.short) == (200, False)
            assert answer.body == DATA[:size].ljust(size, b"\0")
            assert answer.headers["content-length"] == str(size)
            assert answer.headers.keys().isdisjoint({"content-encoding", "transfer-encoding"})


def test_offload_threads(tmp_path: Path) -> None:
    """uWSGI's thread sends whole files, so slow clients do not hold the only worker."""
    options = ["--offload-threads", "1", "--http-socket"]
    with uwsgi(tmp_path, *options) as server:
        with server.path.open("r+b") as file:
            file.truncate(32 << 20)
        size = server.path.stat().st_size
        slow = [Client(server.port, 10) for _ in range(4)]
        for client in slow:
            client.send("/ours")
            assert client.connect().recv(1, socket.MSG_PEEK)
        with Client(server.port, 10) as client:
            assert client.get("/small").body == b"small"
            # A thread would send more than a part of the file.
            answer = client.get("/ours", headers=(("Range", "bytes=70000-499999"),))
            assert (answer.status, answer.body) == (206, DATA[70_000:500_000])
        for client in slow:
            answer = client.receive(piece=1 << 20)
            assert (len(answer.body), answer.short) == (size, False)
            assert answer.body.startswith(DATA)
            client.close()
        log = server.logged("SENT ", 5)
        assert log.count("SENT wsgi.file_wrapper NoneType") == 4
        assert log.count("SENT read NoneType") == 1


def record(kind: int, content: bytes) -> bytes:
    """A record of FastCGI."""
    return struct.pack(">BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def test_fastcgi(tmp_path: Path) -> None:
    """A file that the client does not take at once is in records, too."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/ours", "REQUEST_URI": "/ours"}
    environ |= {"QUERY_STRING": "", "SERVER_NAME": "x", "SERVER_PORT": "80", "SCRIPT_NAME": ""}
    params = b"".join(
        bytes([len(name), len(value)]) + f"{name}{value}".encode()
        for name, value in environ.items()
    )
    with uwsgi(tmp_path, "--fastcgi-socket") as server:
        with server.path.open("r+b") as file:
            file.truncate(20_000_000)
        with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
            begin = record(1, struct.pack(">HB5x", 1, 0))
            sock.sendall(begin + record(4, params) + record(4, b"") + record(5, b""))
            received = b"".join(iter(lambda: sock.recv(1 << 20), b""))
        at, output = 0, bytearray()
        while at < len(received):
            version, kind, _, length, padding, _ = struct.unpack_from(">BBHHBB", received, at)
            assert version == 1
            if kind == 6:
                output += received[at + 8 : at + 8 + length]
            at += 8 + length + padding
        assert output.partition(b"\r\n\r\n")[2] == DATA.ljust(20_000_000, b"\0")
        server.logged("SENT wsgi.file_wrapper NoneType")


@pytest.mark.parametrize("stops", [False, True])
def test_log(tmp_path: Path, stops: bool) -> None:
    """It has all bytes of the body, whoever sends them: the worker or the background."""
    size = 20_000_000
    with uwsgi(tmp_path, "--http-socket") as server:
        with server.path.open("r+b") as file:
            file.truncate(size)
        with Client(server.port, 10) as client:
            client.send("/ours")
            if stops:
                # The worker has gone on before the client has read anything.
                assert client.connect().recv(1, socket.MSG_PEEK)
                assert f"generated {size} bytes" in server.logged("GET /ours => ")
            answer = client.receive(piece=1 << 20)
            assert (answer.body, answer.short) == (DATA.ljust(size, b"\0"), False)
        log = server.logged("SENT ")
        assert f"SENT {'background' if stops else 'wsgi.file_wrapper'} NoneType" in log
        assert f"GET /ours => generated {size} bytes" in server.logged("GET /ours => ")


@pytest.mark.parametrize(
    ("path", "sent", "errors"),
    [
        ("/bare", "", 1),
        ("/worker", "SENT wsgi.file_wrapper ConnectionError\n", 1),
        ("/ours", "SENT background (ConnectionReset|BrokenPipe)Error\n", 0),
    ],
    ids=["bare", "worker", "background"],
)
def test_client_leaves(tmp_path: Path, path: str, sent: str, errors: int) -> None:
    """uWSGI logs its error no more often than without us, and the worker reads no more."""
    with uwsgi(tmp_path, "--http-socket") as server:
        with server.path.open("r+b") as file:
            file.truncate(64 << 20)
        with Client(server.port, 10) as client:
            client.send(path)
            wait_until_full(client.connect())
            if not errors:
                server.logged(f"GET {path} => ")  # The worker is free.
        server.logged("SENT ", count=bool(sent))
        log = server.logged(f"GET {path} => ")
        assert re.fullmatch(sent, "".join(re.findall("SENT .*\n", log)))
        assert log.count("OSError: write error") == errors
        assert log.count("SIGPIPE") <= 1


def test_file_becomes_shorter(tmp_path: Path) -> None:
    """If others share the thread, one call of uwsgi.sendfile() sends all. read() has the error."""
    with uwsgi(tmp_path, "--async", "2", "--ugreen", "--http-socket") as server:
        with server.path.open("r+b") as file:
            file.truncate(64 << 20)
        with Client(server.port, 10) as client:
            client.send("/ours")
            wait_until_full(client.connect())
            os.truncate(server.path, 1000)
            assert client.receive(piece=1 << 20).short
        server.logged("SENT wsgi.file_wrapper ShortFileError")
