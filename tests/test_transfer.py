"""The log, and on_sent: what became of a file. By a real waitress where a server matters.

That each server's sender is told rightly is in ``servers/``.
"""

from __future__ import annotations

import errno
import gc
import gzip
import io
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from client import Answer, Client
from ports import serving

from wsgifile import FileWrapper, FileWrapperMiddleware, Transfer
from wsgifile import log as wsgifile_log
from wsgifile.blocks import FileReadError, ShortFileError
from wsgifile.recognise import FileSlice
from wsgifile.sockets import sendfile

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DATA = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def as_if_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has logged nothing yet, nor has left bodies to the collector."""
    gc.collect()
    monkeypatch.setattr(wsgifile_log, "_logged", set())


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return str(path)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    caplog.set_level(logging.DEBUG, "wsgifile")
    return lambda level: [
        record.getMessage() for record in caplog.records if record.levelno == level
    ]


def sends(
    make: Callable[[], Any], *headers: tuple[str, str], status: str = "200 OK"
) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response(status, list(headers))
        return make()

    return app


def ask(
    app: WSGIApplication,
    *,
    path: str = "/",
    closes: int = 1,
    seen: Sequence[Transfer] = (),
    **options: Any,
) -> Answer:
    """Get it from waitress; wait until so many transfers are seen."""
    with serving(app) as port, Client(port) as client:
        answer = client.get(path, **options)
        deadline = time.monotonic() + 10
        while len(seen) < closes and seen != ():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return answer


def call(app: WSGIApplication, environ: Any = ()) -> bytes:
    """Without a server."""
    body = app({"REQUEST_METHOD": "GET", **dict(environ)}, lambda *args: lambda data: None)
    try:
        return b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def test_transfer(path: str) -> None:
    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    begun = time.perf_counter()
    assert ask(app, path="/x", seen=seen).body == DATA
    [told] = seen
    assert isinstance(told, Transfer)
    assert (told.sender, told.status) == ("wsgi.file_wrapper", "200 OK")
    assert (told.offset, told.count, told.sent) == (0, len(DATA), len(DATA))
    assert told.error is None
    assert 0 < told.seconds < time.perf_counter() - begun
    assert told.environ["PATH_INFO"] == "/x"
    with pytest.raises(AttributeError):
        told.sent = 0  # type: ignore[misc]


def test_one_line_a_response(path: str, log: Callable[[int], list[str]]) -> None:
    for make, headers, message in [
        (lambda: open(path, "rb"), (), "200 OK: 256000 bytes of '.*/data' by read in 0.0"),
        (lambda: open(path, "rb"), [("Content-Length", "100")], "200 OK: 100 bytes of '.*/data'"),
        (lambda: io.BytesIO(DATA), (), "200 OK: 256000 bytes of <_io.BytesIO .*> by read in"),
    ]:
        before = len(log(logging.DEBUG))
        call(FileWrapperMiddleware(sends(make, *headers)))
        [line] = log(logging.DEBUG)[before:]
        assert re.match(message, line), line


def test_a_file_that_cannot_be_read(log: Callable[[int], list[str]]) -> None:
    class File(io.RawIOBase):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("no")

    seen: list[Transfer] = []
    with pytest.raises(FileReadError) as caught:
        call(FileWrapperMiddleware(sends(File), on_sent=seen.append))
    assert log(logging.WARNING) == [f"{caught.value}: the response is cut off"]
    assert log(logging.DEBUG)[0].endswith(f", ended by {caught.value!r}")
    assert [(told.sent, told.error) for told in seen] == [(0, caught.value)]


def test_nothing_for_other_responses(log: Callable[[int], list[str]]) -> None:
    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: [b"x"]), on_sent=seen.append)
    assert call(app) == b"x"
    assert (seen, log(logging.DEBUG), log(logging.INFO)) == ([], [], [])


def test_info_once(path: str, log: Callable[[int], list[str]]) -> None:
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")))
    with serving(app) as port, Client(port) as client:
        for _ in range(3):
            assert client.get("/").body == DATA
            client.get("/", method="HEAD")
    assert log(logging.INFO) == ["waitress: files are sent by wsgi.file_wrapper"]


def test_warning_for_a_short_file(path: str, log: Callable[[int], list[str]]) -> None:
    seen: list[Transfer] = []
    part = [("Content-Range", "bytes 0-299999/300000"), ("Content-Length", "300000")]
    app = FileWrapperMiddleware(
        sends(lambda: open(path, "rb"), *part, status="206 Partial Content"), on_sent=seen.append
    )
    assert ask(app, seen=seen).short
    assert log(logging.WARNING) == [
        f"{path!r} ended after 256000 of the 300000 bytes promised: the response is cut off",
    ]
    assert (seen[0].sent, seen[0].count) == (256000, 300000)
    assert type(seen[0].error).__name__ == "ShortFileError"


@pytest.mark.parametrize(
    ("headers", "status", "warned"),
    [
        ([("Content-Length", "100")], "200 OK", True),
        ([("Content-Length", "256000")], "200 OK", False),
        ([("Content-Length", "9"), ("Content-Range", "bytes 0-8/256000")], "206 P", False),
        ([], "200 OK", False),
    ],
)
def test_warning_for_a_wrong_length(
    path: str,
    log: Callable[[int], list[str]],
    headers: list[tuple[str, str]],
    status: str,
    warned: bool,
) -> None:
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb"), *headers, status=status))
    call(app)
    call(app, {"REQUEST_METHOD": "HEAD"})
    message = f"Content-Length is 100, but {path!r} has 256000 bytes"
    assert log(logging.WARNING) == [message] * (2 * warned)


def test_warning_for_a_sender_that_gave_up(
    path: str, log: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; and the bytes are right."""

    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "not in this container")

    monkeypatch.setattr(os, "sendfile", refuse)
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")))
    with serving(app) as port, Client(port) as client:
        for _ in range(2):
            assert client.get("/").body == DATA
    [message] = log(logging.WARNING)
    assert (
        message == "os.sendfile gave up, files are read instead: [Errno 1] not in this container"
    )


def test_a_client_that_leaves(path: str, tmp_path: Path) -> None:
    seen: list[Transfer] = []
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 28)
    app = FileWrapperMiddleware(sends(lambda: open(tmp_path / "large", "rb")), on_sent=seen.append)
    with serving(app) as port:
        with Client(port) as client:
            client.send("/")
            received = 0
            while received < 100_000:
                received += len(client.connect().recv(65536))
        deadline = time.monotonic() + 10
        while not seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert seen[0].sent is not None
    assert 0 < seen[0].sent < 1 << 28
    assert seen[0].count == 1 << 28


def test_what_on_sent_raises(path: str, log: Callable[[int], list[str]]) -> None:
    def on_sent(transfer: Transfer) -> None:
        raise RuntimeError("no")

    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=on_sent)
    assert call(app) == DATA
    assert log(logging.ERROR) == ["on_sent failed"]


def test_once(path: str) -> None:
    """However often it is closed, and if it never was."""
    seen: list[Transfer] = []
    for make in (lambda: open(path, "rb"), lambda: io.BytesIO(b"small")):
        app = FileWrapperMiddleware(sends(make), on_sent=seen.append)
        body: Any = app({"REQUEST_METHOD": "GET"}, lambda *args: lambda data: None)
        body.close()
        body.close()
        del body
        assert len(seen) == 1
        app({"REQUEST_METHOD": "GET"}, lambda *args: lambda data: None)
        assert len(seen) == 2
        seen.clear()


def test_told_after_close_also_if_that_fails() -> None:
    class File(io.BytesIO):
        def close(self) -> None:
            if not seen:
                raise RuntimeError("no")
            super().close()  # When it is dropped.

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: File(DATA)), on_sent=seen.append)
    with pytest.raises(RuntimeError):
        call(app)
    assert [told.sent for told in seen] == [len(DATA)]


def test_no_secrets(
    path: str, log: Callable[[int], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a request are not in what is logged, or shown of what is told."""
    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    call(app, {"HTTP_AUTHORIZATION": "SECRET"})
    assert seen[0].environ["HTTP_AUTHORIZATION"] == "SECRET"
    assert "SECRET" not in repr(seen[0])
    assert caplog.records
    for record in caplog.records:
        assert b"SECRET" not in pickle.dumps(record.__dict__)
    assert {seen[0]}


def test_a_file_that_cannot_be_named(log: Callable[[int], list[str]]) -> None:
    class File(io.BytesIO):
        @property
        def name(self) -> None:
            raise RuntimeError("no")

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: File(DATA)), on_sent=seen.append)
    assert call(app) == DATA
    assert log(logging.ERROR) == ["a file cannot be named"]
    assert len(seen) == 1


def test_one_line(log: Callable[[int], list[str]]) -> None:
    """What a remote says does not forge lines of the log."""

    class File(io.RawIOBase):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone\nINFO forged \x1b[2J")

    with pytest.raises(FileReadError):
        call(FileWrapperMiddleware(sends(File)))
    for message in log(logging.WARNING) + log(logging.DEBUG):
        assert message.isprintable()
        assert "forged" in message


@pytest.mark.parametrize("size", [len(DATA), 100])
def test_wrapper_of_an_unknown_server(
    path: str, log: Callable[[int], list[str]], size: int
) -> None:
    """Which reads: it is counted, and told of an error."""

    class Wrapper:
        def __init__(self, filelike: Any, block_size: int) -> None:
            self.filelike = filelike
            self.close = filelike.close

        def __iter__(self) -> Iterator[bytes]:
            os.truncate(path, size)
            return iter(lambda: self.filelike.read(8192), b"")

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb", 0)), on_sent=seen.append)
    if size == len(DATA):
        assert call(app, {"wsgi.file_wrapper": Wrapper}) == DATA
    else:
        with pytest.raises(ShortFileError):
            call(app, {"wsgi.file_wrapper": Wrapper})
        assert len(log(logging.WARNING)) == 1
    [told] = seen
    assert (told.sender, told.sent) == ("wsgi.file_wrapper", size)
    assert isinstance(told.error, ShortFileError) == (size == 100)


def test_wrapper_of_an_unknown_server_that_asks_for_the_descriptor(path: str) -> None:
    class Wrapper:
        def __init__(self, filelike: Any, block_size: int) -> None:
            self.blocks = [os.pread(filelike.fileno(), len(DATA), 0)]
            self.close = filelike.close

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.blocks)

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    assert call(app, {"wsgi.file_wrapper": Wrapper}) == DATA
    assert [told.sent for told in seen] == [None]


def test_wrapper_of_an_unknown_server_that_raises(path: str) -> None:
    closes = []

    def make() -> Any:
        file: Any = open(path, "rb")
        wrapper: Any = FileWrapper(file)
        wrapper.close = lambda: closes.append(file.close())
        return wrapper

    def wrapper(filelike: object, block_size: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        call(FileWrapperMiddleware(sends(make)), {"wsgi.file_wrapper": wrapper})
    assert closes == [None]


def test_disk_that_fails(
    path: str, log: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error that is not taken for the client's, and told as one of the file."""

    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    seen: list[Transfer] = []
    app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=seen.append)
    monkeypatch.setattr(os, "sendfile", fail)
    monkeypatch.setattr(os, "pread", fail)
    assert ask(app, seen=seen).short
    message = f"reading {path!r} failed: [Errno 5] Input/output error"
    assert log(logging.WARNING) == [f"{message}: the response is cut off"]
    assert (seen[0].sent, str(seen[0].error)) == (0, message)


def test_disk_that_fails_of_sendfile(
    path: str, log: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    ours, theirs = socket.socketpair()
    with open(path, "rb") as file, ours, theirs:
        monkeypatch.setattr(os, "sendfile", fail)
        assert list(sendfile(ours, FileSlice(file, 0, 10))) == []
    assert log(logging.WARNING) == []


def test_inside_of_another(path: str) -> None:
    """The inner one cannot know; both leave a HEAD its length."""
    inside: list[Transfer] = []
    outside: list[Transfer] = []
    inner = FileWrapperMiddleware(sends(lambda: open(path, "rb")), on_sent=inside.append)
    app = FileWrapperMiddleware(inner, on_sent=outside.append)
    assert call(app) == DATA
    assert [told.sent for told in outside] == [len(DATA)]
    assert [told.sent for told in inside] == [None]
    headers: list[tuple[str, str]] = []

    def start_response(status: str, fields: Any, exc_info: Any = None) -> Any:
        headers.extend(fields)

    body: Any = app({"REQUEST_METHOD": "HEAD"}, start_response)
    body.close()
    assert ("Content-Length", str(len(DATA))) in headers


# The command line's --explain.

APPS = """
import gzip, io, os, time, zlib
from wsgifile import FileWrapperMiddleware, XAccelRedirect
HERE = os.path.dirname(os.path.abspath(__file__))

def sends(make, *headers):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain"), *headers])
        return make()
    return app

class Gzip:
    def __init__(self, app):
        self.app = app
    def __call__(self, environ, start_response):
        def start(status, headers, exc_info=None):
            headers = [(n, v) for n, v in headers if n.lower() != "content-length"]
            return start_response(status, [*headers, ("Content-Encoding", "gzip")])
        return self.compress(self.app(environ, start))
    def compress(self, blocks):
        compressor = zlib.compressobj(wbits=31)
        for block in blocks:
            yield compressor.compress(block)
        yield compressor.flush()

def raises(environ, start_response):
    raise RuntimeError("no")

def opened():
    return open(HERE + "/data", "rb")

def closes_late():
    file = opened()
    close = file.close
    def late():
        time.sleep(0.1)
        close()
    file.close = late
    return file

plain = sends(opened)
late = sends(closes_late)
mended = sends(opened, ("Content-Length", "300000"))
short = sends(opened, ("Content-Length", "300000"), ("Content-Range", "bytes 0-299999/300000"))
gz = sends(lambda: gzip.open(HERE + "/data.gz"))
listed = sends(lambda: [b"x"])
generated = sends(lambda: (block for block in [b"x"]))
small = sends(lambda: open(HERE + "/small", "rb"))
filtered = Gzip(FileWrapperMiddleware(plain))
offloaded = FileWrapperMiddleware(plain, offload=XAccelRedirect({HERE: "/_files"}))
elsewhere = FileWrapperMiddleware(plain, offload=XAccelRedirect({"/nowhere": "/_files"}))

small_elsewhere = FileWrapperMiddleware(small, offload=XAccelRedirect({"/nowhere": "/_files"}))

class Filter:
    def __init__(self, app, wrap):
        self.app, self.wrap = app, wrap
    def __call__(self, environ, start_response):
        self.start_response = start_response
        return self.app(environ, self.wrap(self))
    def start(self, *args):
        return self.start_response(*args)

class Start:
    def __init__(self, filter):
        self.start = filter.start
    def __call__(self, *args):
        return self.start(*args)

by_method = Filter(FileWrapperMiddleware(plain), lambda filter: filter.start)
by_object = Filter(FileWrapperMiddleware(plain), Start)

def slow():
    class Slow:
        inner = io.BytesIO(bytes(300_000))
        def read(self, size):
            time.sleep(0.2)
            return self.inner.read(40_000)
    return Slow()

slow = sends(slow)

text = sends(lambda: open(HERE + "/data", encoding="latin-1"))

def breaks():
    yield b"x"
    raise RuntimeError

breaks = sends(breaks)

def missing(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return opened()

missing = FileWrapperMiddleware(missing, offload=XAccelRedirect({HERE: "/_files"}))

def configures(environ, start_response):
    import logging.config
    logging.config.dictConfig({"version": 1})
    return plain(environ, start_response)

def django(environ, start_response):
    from django.conf import settings
    settings.configure(ROOT_URLCONF="empty", ALLOWED_HOSTS=["*"])
    from django.http import FileResponse
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import path
    import sys, types
    sys.modules["empty"] = types.ModuleType("empty")
    sys.modules["empty"].urlpatterns = [path("", lambda request: FileResponse(opened()))]
    import django
    django.setup()
    return WSGIHandler()(environ, start_response)
"""


@pytest.mark.parametrize(
    ("app", "options", "expected"),
    [
        (
            "plain",
            (),
            [
                "the application: 200 OK, returned _io.BufferedReader",
                "recognised: a file on disk, _io.BufferedReader '.*/data', 256000 bytes from 0",
                "plan: 200 OK, 256000 bytes; by wsgifile: Content-Length, ETag, Accept-Ranges",
                "sent: 256000 bytes by wsgi.file_wrapper in 0",
                "elsewhere: wsgi.file_wrapper on uwsgi$",
                "elsewhere: os.sendfile on cheroot, eventlet, gevent, gunicorn, paste, werk",
                "the client: 200 OK, 256000 bytes$",
            ],
        ),
        (
            "plain",
            ("-H", "Range: bytes=0-69999"),
            [
                "plan: 206 Partial Content, 70000 bytes; by wsgifile: .*Content-Range",
                "the client: 206 Partial Content, 70000 bytes$",
            ],
        ),
        (
            "plain",
            ("-H", "Range: bytes=0-1,9000-9001"),
            ["plan: 206 Partial Content, [0-9]+ bytes in 5 parts", "the client: 206 "],
        ),
        ("late", (), ["sent: 256000 bytes by wsgi.file_wrapper", "the client: 200 OK, 256000 "]),
        (
            "gz",
            (),
            [
                "recognised: to be read, gzip.GzipFile '.*/data.gz', size not known",
                "plan: 200 OK, all there is$",
                "the server's wrapper: declined: its descriptor, if it has one, may hold other",
                "os.sendfile: declined: its descriptor, if it has one, may hold other bytes",
                "sent: 256000 bytes by read",
            ],
        ),
        ("small", (), ["read: up to 65536 bytes are read at once", "sent: 5 bytes by read"]),
        (
            "listed",
            (),
            ["the application: 200 OK, returned list, which is no file", "wsgifile: no file"],
        ),
        (
            "generated",
            (),
            ["the application: 200 OK, returned a generator, <genexpr> of .*apps_to_explain.py:"],
        ),
        (
            "raises",
            (),
            [
                r"the application: no status, returned an exception: RuntimeError\('no'\)",
                "the client: 500 Internal Server Error",
            ],
        ),
        (
            "mended",
            (),
            [
                "warning: Content-Length is 300000, but '.*/data' has 256000 bytes",
                "the client: 200 OK, 256000 bytes$",
            ],
        ),
        (
            "short",
            (),
            [
                "sent: 256000 bytes by wsgi.file_wrapper in .*, ended by ShortFileError",
                "the client: 200 OK, 256000 bytes, and 44000 less than promised",
            ],
        ),
        (
            "filtered",
            (),
            [
                "the application: 200 OK, returned a generator, compress of .*, which is no file",
                "wsgifile: no file, passed on as it is",
                "inside of that: another FileWrapperMiddleware",
                "server: not seen, start_response is Gzip.__call__.<locals>.start of apps_to_",
                "the server's wrapper: declined: .* right only next to the server",
                "os.sendfile: declined: the socket is not to be had: .* behind a filter",
                "sent: 256000 bytes by read",
            ],
        ),
        ("text", (), ["wsgifile: refused: TypeError.* is open in text mode", "the client: 500 "]),
        ("plain", (), ["wsgifile: put around it here", "elsewhere: wsgi.file_wrapper on uwsgi$"]),
        ("by_method", (), ["server: not seen, start_response is a method of apps_to_.*Filter$"]),
        ("by_object", (), ["server: not seen, start_response is a apps_to_explain.Start$"]),
        ("breaks", (), ["the client: got no complete answer: IncompleteRead"]),
        (
            "offloaded",
            (),
            [
                "offload: X-Accel-Redirect: /_files/data$",
                "sent: 0 bytes by X-Accel-Redirect",
                "the client: 200 OK, 0 bytes",
            ],
        ),
        ("elsewhere", (), ["offload: declined: the file is below none of the directories"]),
        (
            "elsewhere",
            ("-H", "Range: bytes=0-9"),
            ["plan: 206 ", "offload: declined: the file is below none of the directories"],
        ),
        (
            "small_elsewhere",
            (),
            ["offload: declined: the file is below none", "read: up to 65536 bytes are read"],
        ),
        ("missing", (), ["plan: 404 ", "offload: declined: no whole file on disk, to stay, in"]),
        ("configures", (), ["recognised: a file on disk", "sent: 256000 bytes by wsgi.file_"]),
        (
            "django",
            (),
            [
                "the application: 200 OK, returned wsgifile.wrapper.SizedFileWrapper around _io.B",
                "recognised: a file on disk, _io.BufferedReader",
                "sent: 256000 bytes by wsgi.file_wrapper",
            ],
        ),
    ],
)
def test_explain(
    tmp_path: Path, path: str, app: str, options: tuple[str, ...], expected: list[str]
) -> None:
    (tmp_path / "apps_to_explain.py").write_text(APPS)
    (tmp_path / "data.gz").write_bytes(gzip.compress(DATA))
    (tmp_path / "small").write_bytes(b"small")
    done = explain(tmp_path, f"apps_to_explain:{app}", "/", *options)
    assert done.returncode == 0
    lines = [re.sub(r": +", ": ", line.strip()) for line in done.stdout.splitlines()]
    assert lines.pop(0) == "GET /, from waitress"
    found = iter(lines)
    for pattern in expected:
        assert any(re.match(pattern, line) for line in found), (pattern, lines)


def explain(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsgifile", "--explain", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((".", "x"), "'x' is no path of a URL"),
        ((".", "/a b"), "'/a b' is no path of a URL"),
        ((".", "/", "-H", "Range"), "'Range' is not of the form 'Name: value'"),
        ((".", "-H", "A b: c", "/"), "'A b: c' is not of the form 'Name: value'"),
        ((".", "/", "-H", "A: €"), "'A: €' is not of the form 'Name: value'"),
        (("nothing:here",), "cannot import nothing"),
    ],
)
def test_explain_of_nonsense(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    done = explain(tmp_path, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_explain_takes_options_anywhere(tmp_path: Path, path: str) -> None:
    done = explain(tmp_path, ".", "-H", "Range: bytes=0-9", "/data")
    assert done.stderr == ""
    assert "206 Partial Content, 10 bytes" in done.stdout


def test_path_without_explain(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsgifile", ".", "/x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "wsgifile: PATH and --header are for --explain\n"


def test_explain_on_a_terminal(tmp_path: Path, path: str) -> None:
    """How much there is yet of what takes more than a second."""
    (tmp_path / "apps_to_explain.py").write_text(APPS)
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "wsgifile", "--explain", "apps_to_explain:slow", "/"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        timeout=60,
    )
    os.close(slave)
    shown = os.read(master, 1000)
    os.close(master)
    assert shown.startswith(b"\r0 MiB\r")
    assert "200 OK, 300000 bytes" in done.stdout
