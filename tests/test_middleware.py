"""PEP 3333 through the middleware, in this process."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import demo_app
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st
from sources import ENDINGS, Scripted, ScriptedBuffer

from wsgifile import FileWrapper, FileWrapperMiddleware, Transfer
from wsgifile.blocks import DEFAULT_BLOCK_SIZE, ShortFileError

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

pytestmark = pytest.mark.quick

DATA = bytes(range(256)) * 4096


class Server:
    """Acts as a server: remembers the calls, and joins the data of write() and the blocks."""

    def __init__(self, **environ: str) -> None:
        self.environ: dict[str, Any] = {"QUERY_STRING": "", **environ}
        setup_testing_defaults(self.environ)
        self.calls: list[tuple[str, list[tuple[str, str]]]] = []
        self.out = b""

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None
    ) -> Callable[[bytes], object]:
        if exc_info and self.out:
            assert exc_info[1] is not None
            raise exc_info[1]
        assert exc_info or not self.calls
        self.calls.append((status, headers))
        return self.write

    def write(self, data: bytes) -> None:
        assert self.calls, "write() before start_response()"
        self.out += data

    def run(self, app: WSGIApplication) -> bytes:
        self.result = app(self.environ, self.start_response)
        try:
            for block in self.result:
                self.write(block)
        finally:
            if hasattr(self.result, "close"):
                self.result.close()
        return self.out

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.calls[-1][1])


class File(io.RawIOBase):
    """Counts how often it is closed, and remembers the sizes of the reads.

    Iterating it would read single bytes.
    """

    def __init__(self, data: bytes = DATA) -> None:
        self._inner = io.BytesIO(data)
        self.closes = 0
        self.sizes: list[int | None] = []

    def read(self, size: int | None = -1) -> bytes:
        self.sizes.append(size)
        return self._inner.read(size)

    def seekable(self) -> bool:
        return True

    def seek(self, position: int, whence: int = 0) -> int:
        return self._inner.seek(position, whence)

    def tell(self) -> int:
        return self._inner.tell()

    def close(self) -> None:
        self.closes += 1
        super().close()


def returning(
    app_iter: Any, headers: Iterable[tuple[str, str]] = (), status: str = "200 OK"
) -> FileWrapperMiddleware:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response(status, list(headers))
        return app_iter

    return FileWrapperMiddleware(app)


def test_file_is_read_in_blocks() -> None:
    """Never by lines."""
    file = File()
    assert Server().run(returning(file)) == DATA
    assert set(file.sizes) == {DEFAULT_BLOCK_SIZE}
    assert file.closes == 1


def test_block_size() -> None:
    file = File()
    assert Server().run(FileWrapperMiddleware(returning(file).app, block_size=1000)) == DATA
    assert set(file.sizes) == {1000}


def test_block_size_that_the_application_asks_for_is_a_minimum() -> None:
    file = File()
    app = returning(FileWrapper(file, 4096)).app
    assert Server().run(FileWrapperMiddleware(app, block_size=1000)) == DATA
    assert set(file.sizes) == {4096}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ranges": "yes"}, TypeError),
        ({"validators": None}, TypeError),
        ({"block_size": 0}, ValueError),
        ({"send_timeout": "60"}, TypeError),
        ({"send_timeout": True}, TypeError),
        ({"send_timeout": 0}, ValueError),
        ({"send_timeout": float("inf")}, ValueError),
        ({"background": -1}, ValueError),
        ({"block_size": "1"}, TypeError),
        ({"block_size": True}, TypeError),
    ],
)
def test_options_are_checked(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        FileWrapperMiddleware(lambda environ, start_response: [], **options)


def test_app_is_checked() -> None:
    with pytest.raises(TypeError, match="app must be a WSGI application"):
        FileWrapperMiddleware(None)  # type: ignore[arg-type]


class AsyncApplication:
    async def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


@pytest.mark.parametrize("app", [AsyncApplication(), AsyncApplication().__call__])
def test_async_app(app: Any) -> None:
    """The mistake would otherwise show at the first request, as a coroutine never awaited."""
    with pytest.raises(TypeError, match="is an async function"):
        FileWrapperMiddleware(app)


def test_async_on_sent() -> None:
    """It would never be awaited, either."""

    async def on_sent(transfer: Transfer) -> None: ...

    with pytest.raises(TypeError, match="on_sent must be a function, but .* is an async function"):
        FileWrapperMiddleware(demo_app, on_sent=on_sent)


@pytest.mark.parametrize("app_iter", [[b"x"], (b"x",), {b"x": 1}, b"", iter([b"x"])])
def test_everything_else_is_untouched(app_iter: Any) -> None:
    """The server gets the same object and the same list of headers."""
    headers = [("X-Y", "z")]

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", headers)
        return app_iter

    server = Server()
    assert FileWrapperMiddleware(app)(server.environ, server.start_response) is app_iter
    assert server.calls[0][1] is headers


@pytest.mark.parametrize("before", [None, object(), FileWrapper])
def test_environ_is_restored_in_place(before: object) -> None:
    """gunicorn and outer middleware look at the environ after the call."""
    seen = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ)
        wrapper = environ["wsgi.file_wrapper"]
        assert wrapper is FileWrapper
        environ["app.says"] = "hello"
        del environ["wsgi.file_wrapper"]
        start_response("200 OK", [])
        return []

    server = Server()
    if before is not None:
        server.environ["wsgi.file_wrapper"] = before
    server.run(FileWrapperMiddleware(app))
    assert seen[0] is server.environ
    assert server.environ["app.says"] == "hello"
    assert server.environ.get("wsgi.file_wrapper") is before


def test_environ_is_restored_after_an_error() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise KeyError("of the application")

    server = Server()
    with pytest.raises(KeyError):
        server.run(FileWrapperMiddleware(app))
    assert "wsgi.file_wrapper" not in server.environ


def test_late_start_response() -> None:
    """An application may call it as late as its first block."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Created", [("X-Late", "yes")])
        yield b"body"

    server = Server()
    assert server.run(FileWrapperMiddleware(app)) == b"body"
    assert server.calls == [("201 Created", [("X-Late", "yes")])]


def test_late_exc_info() -> None:
    """After an error in the middle of a generator, the server decides."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"some"
        try:
            raise KeyError("boom")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        yield b"never"

    server = Server()
    with pytest.raises(KeyError, match="boom"):
        server.run(FileWrapperMiddleware(app))
    assert server.out == b"some"


def test_exc_info_replaces() -> None:
    """Before anything is sent, an error page replaces the file."""
    file = File()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        try:
            raise KeyError("boom")
        except KeyError:
            start_response("500 Oops", [("X-Error", "yes")], sys.exc_info())
        return file

    server = Server()
    assert server.run(FileWrapperMiddleware(app)) == DATA
    assert server.calls == [("500 Oops", [("X-Error", "yes")])]


def test_start_response_twice() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])

    with pytest.raises(AssertionError, match="second time without exc_info"):
        Server().run(FileWrapperMiddleware(app))


def test_exc_info_by_keyword() -> None:
    """The start_response of every server takes it."""

    def app(environ: WSGIEnvironment, start_response: Any) -> Iterable[bytes]:
        try:
            raise KeyError("boom")
        except KeyError:
            start_response("500 Oops", [], exc_info=sys.exc_info())
        return [b"page"]

    server = Server()
    assert server.run(FileWrapperMiddleware(app)) == b"page"
    assert server.calls == [("500 Oops", [])]


def test_range_of_unknown_length() -> None:
    """The range limits what is sent. Nobody can promise a length."""
    server = Server()
    app = returning(FileWrapper(File()).app_iter_range(10, 30))
    assert server.run(app) == DATA[10:30]
    assert "Content-Length" not in server.headers
    for wrap in (lambda app: app, FileWrapperMiddleware):
        app = returning(FileWrapper(File()).app_iter_range(10, len(DATA) + 30))
        assert Server().run(wrap(app)) == DATA[10:]


def test_no_start_response() -> None:
    """This is not our error to report: the server gets what the application returned."""
    file = File()
    server = Server()
    app = FileWrapperMiddleware(lambda environ, start_response: file)
    assert app(server.environ, server.start_response) is file
    assert not server.calls


@pytest.mark.parametrize("headers", [[], [("Content-Length", str(len(DATA) + 4))]])
def test_write_then_file(headers: list[tuple[str, str]]) -> None:
    """First the bytes of write(), then the file, and no more than Content-Length of both."""
    file = File()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", headers)
        write(b"some")
        return file

    server = Server()
    assert server.run(FileWrapperMiddleware(app)) == b"some" + DATA
    assert server.calls == [("200 OK", headers)]
    assert file.closes == 1


def test_write_then_file_is_bounded() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "10")])(b"some")
        return File()

    assert Server().run(FileWrapperMiddleware(app)) == b"some" + DATA[:6]


def test_write_then_exc_info() -> None:
    """After write(), the server itself raises because it is too late."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [])(b"some")
        try:
            raise KeyError("boom")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())

    with pytest.raises(KeyError, match="boom"):
        Server().run(FileWrapperMiddleware(app))


def test_write_alone() -> None:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])(b"some")
        return []

    assert Server().run(FileWrapperMiddleware(app)) == b"some"


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
def test_no_body(method: str, status: str) -> None:
    file = File()
    server = Server(REQUEST_METHOD=method)
    headers = [("Content-Length", str(len(DATA)))]
    assert server.run(returning(file, headers, status)) == b""
    assert file.closes == 1
    assert file.sizes == []
    assert ("Content-Length" in server.headers) == (method == "HEAD")


@pytest.mark.parametrize(("method", "body"), [("HEAD", b""), ("GET", DATA)])
def test_method_is_that_of_the_request(method: str, body: bytes) -> None:
    """The method that the server saw counts, even if the application changes it."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        environ["REQUEST_METHOD"] = "GET" if method == "HEAD" else "HEAD"
        start_response("200 OK", [])
        return io.BytesIO(DATA)

    server = Server(REQUEST_METHOD=method)
    assert server.run(FileWrapperMiddleware(app)) == body
    assert server.headers["Content-Length"] == str(len(DATA))


def test_close_without_iterating() -> None:
    """The client has left before the first block."""
    file = File()
    server = Server()
    result: Any = returning(file)(server.environ, server.start_response)
    result.close()
    result.close()
    assert file.closes == 1


def test_close_of_the_instance() -> None:
    """Django sets the close() of the response on the file, as an attribute of the instance."""
    closed = []
    file: Any
    with open(__file__, "rb") as file:
        original = file.close
        file.close = lambda: closed.append("response")
        Server().run(returning(FileWrapper(file)))
        assert closed == ["response"]
        original()


@pytest.mark.parametrize("range_", [None, "bytes=2-5", "bytes=0-0,900-909"])
def test_small_file(tmp_path: Path, range_: str | None) -> None:
    """It is read before the server asks. It is closed when the server closes or drops it."""
    (tmp_path / "small").write_bytes(DATA[:1000])
    with open(tmp_path / "small", "rb") as file:
        server = Server(**({"HTTP_RANGE": range_} if range_ else {}))
        body = returning(file)(server.environ, server.start_response)
        assert not file.closed
        assert isinstance(body, list)
        assert len(body[0]) == int(server.headers["Content-Length"])
        if range_ != "bytes=0-0,900-909":
            assert body == [DATA[2:6] if range_ else DATA[:1000]]
        del body
        assert file.closed


def test_close_of_a_small_file_raises(tmp_path: Path) -> None:
    """The server gets the error, and there is no second close()."""
    (tmp_path / "small").write_bytes(b"x")
    closes = []

    def close() -> None:
        closes.append(1)
        raise KeyError("of close()")

    file: Any = open(tmp_path / "small", "rb")
    original, file.close = file.close, close
    with pytest.raises(KeyError, match="of close"):
        Server().run(returning(file))
    assert closes == [1]
    original()


def test_text_mode() -> None:
    """The error is raised before any header is sent, so the server can still send a 500."""
    server = Server()
    with open(__file__, encoding="utf-8") as file:
        with pytest.raises(TypeError, match=r"test_middleware.py' is open in text mode.*\"rb\""):
            server.run(returning(file))
        assert file.closed
    assert not server.calls


def test_read_returns_str() -> None:
    class Text:
        name = "text.txt"

        def read(self, size: int) -> str:
            return "text"

    with pytest.raises(TypeError, match=r"text.txt.*\"rb\""):
        Server().run(returning(Text()))


def test_runs_short() -> None:
    """An error is raised, because only that makes every server end the connection."""
    file = File()
    server = Server()
    with pytest.raises(ShortFileError) as caught:
        server.run(returning(file, [("Content-Length", str(len(DATA) + 1))]))
    assert (caught.value.expected, caught.value.sent) == (len(DATA) + 1, len(DATA))
    assert server.out == DATA
    assert file.closes == 1


def test_bad_header_closes_the_file() -> None:
    """The start_response of the server raises, so the server never sees the file."""
    file = File()

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None
    ) -> Any:
        raise ValueError("a newline in a header")

    with pytest.raises(ValueError, match="newline"):
        returning(file)({}, start_response)
    assert file.closes == 1


def test_bad_length_closes_the_file() -> None:
    file = File()
    with pytest.raises(ValueError, match="Content-Length"):
        Server().run(returning(file, [("Content-Length", "many")]))
    assert file.closes == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("make", [File, lambda: open(__file__, "rb"), lambda: [b"x"]])
@pytest.mark.parametrize("length", [True, False])
def test_validator_outside(method: str, make: Callable[..., Any], length: bool) -> None:
    """wsgiref.validate finds no fault."""
    app_iter = make()
    size = len(b"".join(app_iter)) if isinstance(app_iter, list) else app_iter.seek(0, 2)
    if not isinstance(app_iter, list):
        app_iter.seek(0)
    headers = [("Content-Type", "text/plain")]
    if length:
        headers.append(("Content-Length", str(size)))
    server = Server(REQUEST_METHOD=method)
    if method == "HEAD" and isinstance(app_iter, list):
        app_iter = []
    server.run(validator(returning(app_iter, headers)))
    assert server.calls[0][0] == "200 OK"


def test_webtest_lint() -> None:
    """WebTest, which lints by default, finds no fault. Body and length agree."""
    webtest = pytest.importorskip("webtest")
    file = File()
    answer = webtest.TestApp(returning(file, [("Content-Type", "text/plain")])).get("/")
    assert answer.body == DATA
    assert answer.content_length == len(DATA)
    assert file.closes == 1


@pytest.mark.parametrize(
    ("range_", "status", "slice_"),
    [
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=100-", 206, slice(100, None)),
        (None, 200, slice(None)),
    ],
)
def test_webob_range(tmp_path: Path, range_: str | None, status: int, slice_: slice) -> None:
    """WebOb makes its own 206 with app_iter_range(), and gets the right bytes."""
    webtest = pytest.importorskip("webtest")
    static = pytest.importorskip("webob.static")
    path = tmp_path / "data"
    path.write_bytes(DATA)
    headers = {"Range": range_} if range_ else {}
    app = webtest.TestApp(FileWrapperMiddleware(static.FileApp(str(path))))
    answer = app.get("/", headers=headers)
    assert (answer.status_code, answer.body) == (status, DATA[slice_])


def test_webob_response_with_a_file() -> None:
    """Response(app_iter=open()) returns the file itself."""
    webob = pytest.importorskip("webob")
    file = File()
    response = webob.Response(app_iter=file, content_type="text/plain")
    assert Server().run(FileWrapperMiddleware(response)) == DATA
    assert file.closes == 1


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    ending=st.sampled_from(sorted(ENDINGS)),
    source=st.sampled_from([Scripted, ScriptedBuffer]),
    promised=st.none() | st.integers(0, 200),
    method=st.sampled_from(["GET", "GET", "HEAD", "POST"]),
    wrapped=st.booleans(),
    read_ahead=st.sampled_from([0, 0, 1, 3]),
    blocks=st.integers(0, 8),
    closes=st.integers(0, 3),
)
def test_any_source_is_closed_once(
    pieces: list[bytes],
    ending: str,
    source: type[Scripted],
    promised: int | None,
    method: str,
    wrapped: bool,
    read_ahead: int,
    blocks: int,
    closes: int,
) -> None:
    """Whatever the file does, however many blocks the server takes, and however often it calls
    close(), if at all."""
    file, server, failure = source(pieces, ending), Server(REQUEST_METHOD=method), None
    headers = [] if promised is None else [("Content-Length", str(promised))]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", headers)
        return environ["wsgi.file_wrapper"](file) if wrapped else file

    body: Any = FileWrapperMiddleware(app, read_ahead=read_ahead)(
        server.environ, server.start_response
    )
    ended = False
    try:
        for _ in range(blocks):
            server.write(next(body))
    except StopIteration:
        ended = True
    except Exception as error:
        failure = type(error)
    early = file.closes
    for _ in range(closes):
        body.close()
    del body
    end = time.monotonic() + 3
    while not file.closes and time.monotonic() < end:
        time.sleep(0.001)  # The thread that reads it closes it.
    assert (early, file.closes) == (0, 1)
    data = b"" if method == "HEAD" else b"".join(pieces)
    assert data.startswith(server.out)
    assert promised is None or len(server.out) <= promised
    if ended and method != "HEAD":
        assert len(server.out) == (len(data) if promised is None else promised)
    if failure is not None:
        assert method != "HEAD"
        assert promised is None or len(data) < promised
        assert failure is (ENDINGS[ending][1] or ShortFileError)
