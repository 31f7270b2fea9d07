"""What applications ask of their wsgi.file_wrapper, besides what PEP 3333 promises."""

from __future__ import annotations

import gzip
import http.client
import io
import os
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from ports import serving

from wsgifile import FileWrapper, FileWrapperMiddleware
from wsgifile.wrapper import SizedFileWrapper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DATA = b"A line of text, of which there are many.\n" * 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data.txt").write_bytes(DATA)
    return tmp_path / "data.txt"


def pipe() -> Any:
    read_end, write_end = os.pipe()
    os.close(write_end)
    return open(read_end, "rb")


@pytest.mark.parametrize("kind", [FileWrapper, SizedFileWrapper])
def test_fileno(path: Path, kind: type[FileWrapper]) -> None:
    """Where the descriptor holds the bytes, and of all of them."""
    with open(path, "rb") as file:
        wrapper = kind(file)
        assert wrapper.fileno() == file.fileno()
        assert not hasattr(wrapper.app_iter_range(0, 10), "fileno")
    assert not hasattr(wrapper, "fileno"), "it is closed"
    (path.parent / "gz").write_bytes(gzip.compress(DATA))
    others: list[Any] = [gzip.open(path.parent / "gz"), pipe(), open(path), io.BytesIO(DATA)]
    for other in others:
        with other:
            assert not hasattr(kind(other), "fileno")


@pytest.mark.parametrize("block_size", [1, 300_000, 10**7])
@pytest.mark.parametrize("position", [0, 1, len(DATA)])
def test_length(path: Path, block_size: int, position: int) -> None:
    """The number of blocks, though a buffer holds a part of the first one."""
    with open(path, "rb") as file:
        file.read(position)
        wrapper = SizedFileWrapper(file, block_size)
        for _ in range(2):
            before, blocks = len(wrapper), list(wrapper)
            assert (before, len(wrapper), bool(wrapper)) == (len(blocks), 0, True)
            assert b"".join(blocks) == DATA[position:]
            file.seek(position)


def test_no_length(path: Path) -> None:
    """Whoever asks is told, in one way or the other, and blocks come as they come."""
    (path.parent / "gz").write_bytes(gzip.compress(DATA))
    with gzip.open(path.parent / "gz") as file:
        wrapper = SizedFileWrapper(file)
        assert not hasattr(wrapper, "__len__")
        with pytest.raises(TypeError, match="not known"):
            len(wrapper)
        assert wrapper
        assert b"".join(wrapper) == DATA
    with open(path, "rb") as plain:
        assert not hasattr(FileWrapper(plain), "__len__")


def test_less_than_a_block(path: Path) -> None:
    os.truncate(path, 1000)
    with open(path, "rb", buffering=0) as file:
        assert [len(block) for block in SizedFileWrapper(file)] == [1000]


@contextmanager
def by_wsgiref(app: Any) -> Iterator[int]:
    """A server whose own wrapper has no length."""
    with wsgiref.simple_server.make_server("127.0.0.1", 0, app) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def get(port: int, **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/", headers={"Accept-Encoding": "identity", **headers})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, response.headers, data


@pytest.mark.parametrize("server", [serving, by_wsgiref])
def test_as_the_servers_own(path: Path, server: Callable[[Any], Any]) -> None:
    """Each server's wrapper has it, or ours has none either. Also if there are two of us."""
    seen = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        wrapper = environ["wsgi.file_wrapper"](open(path, "rb"))
        seen.append(hasattr(wrapper, "__len__"))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return wrapper

    once = FileWrapperMiddleware(app)
    for stack in (app, once, FileWrapperMiddleware(once)):
        with server(stack) as port:
            assert get(port)[2] == DATA
    assert seen == [server is serving] * 3


@pytest.mark.parametrize("server", [serving, by_wsgiref])
@pytest.mark.parametrize("accepted", ["gzip", "br", "identity"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # It does not close what it has compressed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_flask_compress(path: Path, server: Callable[[Any], Any], accepted: str) -> None:
    """It does what it does without us."""
    flask = pytest.importorskip("flask")
    compress = pytest.importorskip("flask_compress")
    answers = []
    for wrap in (lambda app: app, FileWrapperMiddleware):
        app = flask.Flask("app")
        compress.Compress(app)
        app.add_url_rule("/", "file", lambda: flask.send_file(path, mimetype="text/plain"))
        with server(wrap(app)) as port:
            status, headers, data = get(port, **{"Accept-Encoding": accepted})
        told = {name: headers[name] for name in ("Content-Encoding", "Content-Length", "ETag")}
        if accepted == "gzip":
            data = data[:4] + data[8:]  # Without the time, in a gzip header.
        answers.append((status, told, data))
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
