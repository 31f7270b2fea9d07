"""sendfile=False: in real servers, no sendfile(2) is called, and slow clients hold no worker.

A library that is loaded before libc counts the calls, and has them fail.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import launch
import pytest
from ports import connect, free_port, running
from regions import region_of

from wsgifile import FileWrapperMiddleware, page_cache, senders
from wsgifile.body import Body
from wsgifile.plan import Plan
from wsgifile.send import Send
from wsgifile.servers import find

APP = """
import ctypes, errno, json
from wsgifile import FileWrapperMiddleware

library = ctypes.CDLL(None)
library.fault_arm(b"sendfile", errno.EIO, 1, ctypes.c_ulong(0), ctypes.c_ulong(0))


def film(environ, start_response):
    start_response("200 OK", [("Content-Type", "video/mp4")])
    return open("film.mp4", "rb")


ways = {
    "/on": FileWrapperMiddleware(film),
    "/off": FileWrapperMiddleware(film, sendfile=False),
}


def app(environ, start_response):
    way = ways.get(environ["PATH_INFO"])
    if way is not None:
        return way(environ, start_response)
    start_response("200 OK", [("Content-Type", "application/json")])
    if environ["PATH_INFO"] == "/calls":
        said = library.fault_disarm()
    else:
        said = "small"
    return [json.dumps(said).encode()]
"""
#: More than all socket buffers take. No two parts are alike.
DATA = b"".join(number.to_bytes(4, "big") for number in range(3_000_000))
#: The servers on which the kernel sends files.
KERNEL = [
    "waitress",
    "gunicorn",
    "gunicorn_gthread",
    "gunicorn_gevent",
    "uwsgi",
    "cheroot",
    "gevent",
    "eventlet",
    "wsgiref",
    "werkzeug",
    "paste",
]
#: The others whose wrapper is used.
OTHERS = ["twisted"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults.library(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def server(request: Any, library: Path, tmp_path: Path) -> Iterator[int]:
    name = request.param
    pytest.importorskip(launch.SERVERS[name].module)
    (tmp_path / "calls.py").write_text(APP)
    (tmp_path / "film.mp4").write_bytes(DATA)
    environ = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    port = free_port()
    command = launch.command(name, str(tmp_path / "calls.py"), port, access_log=False)
    with running(command, port, tmp_path / "log", cwd=tmp_path, env=environ):
        yield port


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        body: bytes = answer.read()
    return body


def calls(port: int) -> int:
    """How many calls of sendfile(2) there were."""
    count: int = json.loads(get(port, "/calls"))
    return count


@pytest.mark.parametrize("server", [*KERNEL, *OTHERS], indirect=True)
def test_off(server: int) -> None:
    """A client that stops gets all bytes, others are served meanwhile, and nothing calls it."""
    with connect(server, 30, window=65536) as sock:
        sock.sendall(b"GET /off HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = sock.recv(100)
        assert get(server, "/") == b'"small"'
        while block := sock.recv(1 << 20):
            answer += block
    assert answer.partition(b"\r\n\r\n")[2] == DATA
    assert calls(server) == 0


@pytest.mark.parametrize("server", KERNEL, indirect=True)
def test_on(server: int, request: pytest.FixtureRequest) -> None:
    """Without the switch the same request does call it, so the test above would see a call."""
    if request.node.callspec.params["server"] == "uwsgi":  # It reads nothing after the error.
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            get(server, "/on")
    else:
        assert get(server, "/on") == DATA
    assert calls(server) > 0


class Wrapper:
    """A wrapper of a server that nobody knows, which may use sendfile(2)."""

    def __init__(self, file: Any, block_size: int) -> None:
        self.file = file


@pytest.mark.parametrize(("sendfile", "kind"), [(True, Wrapper), (False, Body)])
def test_wrapper_of_an_unknown_server(
    sendfile: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may use sendfile(2), so it is not used."""
    assert type(body_of(sendfile=sendfile, monkeypatch=monkeypatch)) is kind


@pytest.mark.skipif(sys.platform != "linux", reason="the type is known on Linux only")
def test_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system where the kernel sends old bytes, the switch is off by itself."""
    assert "vboxsf" in page_cache._STALE
    assert type(body_of(sendfile=True, monkeypatch=monkeypatch)) is Wrapper
    with open(__file__, "rb") as file:
        here = page_cache._file_system(file.fileno())
    assert here is not None
    monkeypatch.setattr(page_cache, "_STALE", {here})
    assert type(body_of(sendfile=True, monkeypatch=monkeypatch)) is Body


def body_of(*, sendfile: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a server that we do not know gets for a file of more than one block."""
    monkeypatch.setattr(senders, "SMALL", 0)
    with open(__file__, "rb") as file:
        region = region_of(file)
        assert region.end is not None
        plan = Plan("200 OK", [], ((0, region.end),), True)
        send = Send(file, region, plan, 1000, 0, sendfile=sendfile)
        server = find({"wsgi.file_wrapper": Wrapper}, print)
        server.write = lambda data: None
        return senders.open_body(send, server)


def test_type() -> None:
    with pytest.raises(TypeError, match="sendfile must be True or False"):
        FileWrapperMiddleware(lambda environ, start_response: [], sendfile=1)  # type: ignore[arg-type]
