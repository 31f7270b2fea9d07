"""What the header says of the connection on mod_wsgi, which real servers show end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wsgifile import FileWrapperMiddleware, Transfer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def headers_of(app: WSGIApplication, **environ: Any) -> list[tuple[str, str]]:
    """Of the response to a GET, by a daemon unless environ says otherwise."""
    seen: list[tuple[str, str]] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "mod_wsgi.version": (6, 1, 1),
        "mod_wsgi.process_group": "daemons",
        "wsgi.url_scheme": "https",
        **environ,
    }
    body: Any = app(environ, lambda status, headers, *more: seen.extend(headers) or print)  # type: ignore[func-returns-value]
    b"".join(body)
    body.close()
    return seen


class NoFile:
    """It tells no length."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.read, self.close = self._file.read, self._file.close


@pytest.mark.parametrize(
    ("size", "environ", "ends"),
    [
        (262_144, {}, False),  # One block, which has been read before the header is sent.
        (262_145, {}, True),
        (262_145, {"REQUEST_METHOD": "HEAD"}, False),
    ],
)
def test_file(tmp_path: Path, size: int, environ: dict[str, str], ends: bool) -> None:
    """The connection ends after what may run short, whatever the application said of it."""
    path = tmp_path / "data"
    path.write_bytes(bytes(size))

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Connection", "Keep-Alive"), ("Keep-Alive", "timeout=5")])
        return path.open("rb")

    connection = [
        (name, value)
        for name, value in headers_of(FileWrapperMiddleware(app), **environ)
        if name in ("Connection", "Keep-Alive")
    ]
    own = [("Connection", "Keep-Alive"), ("Keep-Alive", "timeout=5")]
    assert connection == ([("Connection", "close")] if ends else own)


@pytest.mark.parametrize(("process_group", "ends"), [("daemons", False), ("", True)])
def test_unsized(tmp_path: Path, process_group: str, ends: bool) -> None:
    """In a daemon the field would not help, because the client gets the last chunk anyway."""
    (tmp_path / "data").write_bytes(bytes(10))

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return NoFile(tmp_path / "data")

    headers = headers_of(FileWrapperMiddleware(app), **{"mod_wsgi.process_group": process_group})
    assert (("Connection", "close") in headers) == ends


def test_header_refused(tmp_path: Path) -> None:
    """The server gets no body. The file is closed once, and on_sent has the error."""
    (tmp_path / "data").write_bytes(bytes(10))
    files: list[Any] = []
    transfers: list[Transfer] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        files.append((tmp_path / "data").open("rb"))
        return files[0]

    def refuse(*args: Any) -> Any:
        raise AssertionError("not this header")

    middleware = FileWrapperMiddleware(app, on_sent=transfers.append)
    with pytest.raises(AssertionError) as caught:
        middleware({"REQUEST_METHOD": "GET"}, refuse)
    assert [transfer.error for transfer in transfers] == [caught.value]
    assert files[0].closed
