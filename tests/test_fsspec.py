"""Files in object stores, opened by fsspec, on a real server, with read_ahead and without."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fsspec")
pytest.importorskip("webob")

import fsspec
from ports import serving

from wsgifile import FileWrapperMiddleware
from wsgifile.cli.directory import directory_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DATA = random.Random(4).randbytes(3_000_017)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """A function that opens the file on this kind of file system."""
    if request.param == "http":
        pytest.importorskip("aiohttp")
    files = fsspec.filesystem(request.param)
    if request.param == "http":
        (tmp_path / "data").write_bytes(DATA)
        with serving(FileWrapperMiddleware(directory_app(str(tmp_path)))) as port:
            # In pieces, as for a large file. Each piece is a request for a range.
            yield lambda: files.open(f"http://127.0.0.1:{port}/data", block_size=500_000)
    else:
        files.pipe("/wsgifile/data", DATA)
        yield lambda: files.open("/wsgifile/data")
        files.rm("/wsgifile", recursive=True)


@pytest.mark.parametrize("store", ["http", "memory"], indirect=True)
@pytest.mark.parametrize("read_ahead", [0, 4])
def test_download(store: Callable[[], Any], read_ahead: int) -> None:
    closed = threading.Semaphore(0)
    files = []  # Keeps them, because a file that is dropped is closed, too.

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        file = store()
        file.close = closed.release
        files.append(file)
        return file

    with serving(FileWrapperMiddleware(app, read_ahead=read_ahead)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(2):
            connection.request("GET", "/")
            assert connection.getresponse().read() == DATA
            assert closed.acquire(timeout=10)
        connection.close()
        assert not closed.acquire(timeout=0.05)
    for file in files:
        vars(file).pop("close", None)  # In memory, all of them are the same object.
