"""Two of our middlewares around one application, as in a pipeline beside a mounted one."""

from __future__ import annotations

import gzip
import http.client
import io
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ports import serving

from wsgifile import FileWrapperMiddleware, Transfer, XSendfile

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DATA = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def files(directory: Path) -> dict[str, Callable[[], Any]]:
    """By name, what opens one more of them."""
    for name, data in (("large", DATA), ("small", DATA[:1000]), ("gz", gzip.compress(DATA))):
        (directory / name).write_bytes(data)
        os.utime(directory / name, (10**9, 10**9))
    return {
        "large": lambda: open(directory / "large", "rb"),
        "small": lambda: open(directory / "small", "rb"),
        "gz": lambda: gzip.open(directory / "gz"),
        "memory": lambda: io.BytesIO(DATA),
        "small memory": lambda: io.BytesIO(DATA[:1000]),
    }


def header(port: int, method: str, headers: dict[str, str]) -> tuple[int, list[tuple[str, str]]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, "/", headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    # How the body is framed, if nobody knows its length, is of GET alone.
    framing = {"date", "transfer-encoding", "connection"}
    fields = [(name.lower(), value) for name, value in response.getheaders()]
    return response.status, [field for field in fields if field[0] not in framing]


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "validators": [{}, {"validators": False}],
    "ranges": [{}, {"ranges": False}],
    "read_ahead": [{}, {"read_ahead": 2}],
    "offload": [{}, {"offload": True}],
}


@pytest.mark.parametrize("name", ["large", "small", "gz", "memory", "small memory"])
@pytest.mark.parametrize("given", [(), ("Content-Length",), ("Content-Length", "Cache-Control")])
def test_head_is_as_get(
    files: dict[str, Callable[[], Any]], name: str, given: tuple[str, ...], directory: Path
) -> None:
    """Whatever the options of the two: HEAD gets the header of GET."""
    size = 1000 if "small" in name else len(DATA)
    said = {"Content-Length": str(size), "Cache-Control": "max-age=9"}

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        headers = [("Content-Type", "text/plain"), *((field, said[field]) for field in given)]
        start_response("200 OK", headers)
        return files[name]()

    each = [
        {key: value for part in parts for key, value in part.items()}
        for parts in itertools.product(*OPTIONS.values())
    ]
    for one in each:
        if "offload" in one:
            one["offload"] = XSendfile([str(directory)])
    current: Any = None

    def switched(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        return current(environ, start_response)

    tags = set()
    with serving(switched) as port:
        for inner, outer in itertools.product(each, each):
            if (inner.get("offload") or outer.get("offload")) and ("read_ahead" in inner):
                continue  # One more of these shows nothing.
            current = FileWrapperMiddleware(FileWrapperMiddleware(app, **inner), **outer)
            status, headers = header(port, "GET", {})
            assert header(port, "HEAD", {}) == (status, headers), (inner, outer)
            tag = dict(headers).get("etag")
            if not (inner.get("offload") or outer.get("offload")):
                # Either of them adds what it would by itself.
                both = inner.get("validators", True) or outer.get("validators", True)
                assert (tag is not None) == (both and name in ("large", "small"))
            tags.add(tag)
            if tag is not None:
                asked = {"If-None-Match": tag}
                assert header(port, "HEAD", asked) == header(port, "GET", asked)
    assert len(tags - {None}) == (name in ("large", "small"))


def test_each_is_told(files: dict[str, Callable[[], Any]]) -> None:
    """on_sent of both; only the outer one knows how many bytes."""
    seen: list[tuple[str, int | None, int | None]] = []

    def noted(whose: str) -> Callable[[Transfer], object]:
        return lambda transfer: seen.append((whose, transfer.count, transfer.sent))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return files["small"]()

    inner = FileWrapperMiddleware(app, on_sent=noted("inner"))
    with serving(FileWrapperMiddleware(inner, on_sent=noted("outer"))) as port:
        header(port, "GET", {})
    assert sorted(seen) == [("inner", 1000, None), ("outer", 1000, 1000)]


def test_a_small_body_that_somebody_changed(files: dict[str, Callable[[], Any]]) -> None:
    """It is a list, in which a filter between the two may put another block."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        return files["small"]()

    def changing(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        body: Any = FileWrapperMiddleware(app)(environ, start_response)
        body[0] = body[0].replace(b"\0", b"x")
        return body

    with serving(FileWrapperMiddleware(changing)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().read() == DATA[:1000].replace(b"\0", b"x")
        connection.close()


def test_a_file_that_close_deletes(tmp_path: Path) -> None:
    """The outer one does not leave it to the proxy, which would not find it any more."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        file = tempfile.NamedTemporaryFile(dir=tmp_path)
        file.write(DATA)
        file.seek(0)
        return file

    twice = FileWrapperMiddleware(FileWrapperMiddleware(app), offload=XSendfile([tmp_path]))
    with serving(twice) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert (response.read(), response.headers["X-Sendfile"]) == (DATA, None)
        connection.close()


def test_closed_in_the_applications_thread(tmp_path: Path) -> None:
    """By waitress, whose main loop closes what it sends, as with one of them."""
    werkzeug = pytest.importorskip("werkzeug")
    # More than the application's thread would send before it leaves the rest to the main loop.
    (tmp_path / "data").write_bytes(DATA * 64)
    threads: list[tuple[int, int]] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        response = werkzeug.Response(open(tmp_path / "data", "rb"))
        called = threading.get_ident()
        response.call_on_close(lambda: threads.append((called, threading.get_ident())))
        return response(environ, start_response)

    with serving(FileWrapperMiddleware(FileWrapperMiddleware(app))) as port:
        header(port, "GET", {})
        deadline = time.monotonic() + 10
        while not threads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    [(called, closed)] = threads
    assert called == closed
