"""A server iterates what it gets (PEP 3333). Reading it instead must give the same bytes.

Each object is what some library gives, returned by an application as it is, on a real server,
once without the middleware and once with it.
"""

from __future__ import annotations

import gzip
import http.client
import io
import mmap
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ports import serving

from wsgifile import FileWrapper, FileWrapperMiddleware, Transfer
from wsgifile.recognise import recognise

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: With lines, of which none is as long as a block.
DATA = b"".join(b"%d of some lines\n" % number * (number % 50) for number in range(500)) + b"end"

Make = Callable[[Path, int], Any]


@pytest.fixture(scope="module")
def origin() -> Iterator[int]:
    """Where a proxy gets its bytes: compressed for those who ask for that."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        body, headers = DATA, [("Content-Type", "text/plain")]
        if environ["PATH_INFO"] == "/gz":
            body, headers = gzip.compress(DATA, mtime=0), [*headers, ("Content-Encoding", "gzip")]
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        # waitress would send the body to HEAD too, and the next response would follow it.
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    with serving(app) as port:
        yield port


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.status == 200
    data = response.read()
    connection.close()
    return data


def answers(make: Callable[[], Any]) -> tuple[bytes, bytes, list[str]]:
    """The body without us, the body with us, and the senders that were told of."""
    senders: list[str] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        made = make()
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return made

    def note(transfer: Transfer) -> None:
        senders.append(transfer.sender)

    with serving(app) as port:
        bare = get(port)
    with serving(FileWrapperMiddleware(app, on_sent=note)) as port:
        ours = get(port)
        end = time.monotonic() + 5
        while not senders and time.monotonic() < end and made_is_file(make):
            time.sleep(0.01)
    return bare, ours, senders


def made_is_file(make: Callable[[], Any]) -> bool:
    made = make()
    try:
        return recognise(made) is not None
    finally:
        close = getattr(made, "close", None)
        if callable(close):
            close()


def requests_raw(path: Path, origin: int, **options: Any) -> Any:
    requests = pytest.importorskip("requests")
    raw = requests.get(f"http://127.0.0.1:{origin}/gz", stream=True, timeout=20).raw
    vars(raw).update(options)
    return raw


def pexpect_spawn(path: Path, origin: int) -> Any:
    pexpect = pytest.importorskip("pexpect")
    # Iterated it gives line by line. A read() would wait for a whole block.
    code = "for n in range(4): print('line', n, flush=True)"
    return pexpect.spawn(sys.executable, ["-c", code], timeout=30)


def streaming_body(path: Path, origin: int) -> Any:
    response = pytest.importorskip("botocore.response")
    return response.StreamingBody(io.BytesIO(DATA), len(DATA))


def sftp_file(path: Path, origin: int) -> Any:
    """As paramiko's SFTPFile: only where its bytes come from is another place."""
    file = pytest.importorskip("paramiko.file")

    class File(file.BufferedFile):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self._inner = io.BytesIO(DATA)
            self._set_mode("rb")

        def _read(self, size: int) -> bytes:
            return self._inner.read(size)

    return File()


def smart_open_file(path: Path, origin: int) -> Any:
    smart_open = pytest.importorskip("smart_open")
    # Its proxy says that it has a length and has none, so without us waitress answers 500.
    return smart_open.open(f"http://127.0.0.1:{origin}/data", "rb").__wrapped__


def url_of_a_file(path: Path, origin: int) -> Any:
    return urllib.request.urlopen(path.as_uri())


def url(path: Path, origin: int) -> Any:
    return urllib.request.urlopen(f"http://127.0.0.1:{origin}/data")


def local_fsspec(path: Path, origin: int) -> Any:
    return pytest.importorskip("fsspec").filesystem("file").open(str(path))


def http_fsspec(path: Path, origin: int) -> Any:
    return pytest.importorskip("fsspec").filesystem("http").open(f"http://127.0.0.1:{origin}/data")


def limited_stream(path: Path, origin: int) -> Any:
    return pytest.importorskip("werkzeug.wsgi").LimitedStream(io.BytesIO(DATA * 2), len(DATA))


def file_storage(path: Path, origin: int) -> Any:
    datastructures = pytest.importorskip("werkzeug.datastructures")
    return datastructures.FileStorage(open(path, "rb"))


def django_file(path: Path, origin: int) -> Any:
    base = pytest.importorskip("django.core.files.base")

    class File(base.File):  # type: ignore[misc, name-defined]
        """As those of django-storages: it checks its mode."""

        def read(self, *args: Any) -> Any:
            return super().read(*args)

        def seekable(self) -> bool:
            return True

    return File(open(path, "rb"))


def output_of_a_process(path: Path, origin: int) -> Any:
    process = subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.wait = lambda timeout=None: 0  # type: ignore[method-assign]
    return process.stdout


def socket_file(path: Path, origin: int) -> Any:
    a, b = socket.socketpair()
    with a:
        a.sendall(DATA[:10_000])
    file = b.makefile("rb")
    b.close()
    return file


def mapped(path: Path, origin: int) -> Any:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 5000, access=mmap.ACCESS_READ)


class Raw(io.RawIOBase):
    """Has no lines of its own: io makes them by read()."""

    def __init__(self) -> None:
        self._inner = io.BytesIO(DATA[:10_000])

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._inner.readinto(buffer)


class Upper(io.BytesIO):
    """Its lines are other bytes than its read()."""

    def __next__(self) -> bytes:
        return super().__next__().upper()


class UpperRead(io.BytesIO):
    """The other way round."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size).upper()


class Unreadable:
    """Is only iterated without us, so nobody asks for its read()."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([DATA])

    @property
    def read(self) -> Any:
        raise RuntimeError


class Stream:
    """Has a way to iterate, and a read() that knows nothing of sizes."""

    def __init__(self) -> None:
        self._data = [DATA]

    def read(self) -> bytes:
        return self._data.pop() if self._data else b""

    def __iter__(self) -> Iterator[bytes]:
        yield b"by iterating"


@pytest.mark.parametrize(
    ("make", "expected", "is_read"),
    [
        (requests_raw, DATA, False),
        (lambda path, origin: requests_raw(path, origin, decode_content=True), DATA, False),
        (pexpect_spawn, b"line 0\r\nline 1\r\nline 2\r\nline 3\r\n", False),
        (streaming_body, DATA, True),
        (sftp_file, DATA, True),
        (smart_open_file, DATA, True),
        (url_of_a_file, DATA, True),
        (url, DATA, True),
        (local_fsspec, DATA, True),
        (http_fsspec, DATA, True),
        (limited_stream, DATA, True),
        (file_storage, DATA, True),
        (django_file, DATA, True),
        (output_of_a_process, DATA, True),
        (socket_file, DATA[:10_000], True),
        (mapped, DATA[:5000], True),
        (lambda path, origin: Raw(), DATA[:10_000], True),
        (lambda path, origin: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(DATA))), DATA, True),
        (lambda path, origin: Upper(DATA), DATA.upper(), False),
        (lambda path, origin: UpperRead(DATA), DATA, False),
        (lambda path, origin: Stream(), b"by iterating", False),
        (lambda path, origin: Unreadable(), DATA, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Of what some libraries leave open.
# pexpect forks. eventlet, which other tests import, warns of that, and newer Pythons do as well.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_same_as_without_us(
    tmp_path: Path, origin: int, make: Make, expected: bytes, is_read: bool
) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    bare, ours, senders = answers(lambda: make(path, origin))
    assert bare == ours == expected
    assert bool(senders) == is_read


def mapped_and_written(path: Path) -> Any:
    memory = mmap.mmap(-1, 5000)
    memory.write(DATA[:5000])
    return memory


def django_file_begun(path: Path) -> Any:
    return begun(pytest.importorskip("django.core.files.base").File(open(path, "rb")))


def django_content_written(path: Path) -> Any:
    file = pytest.importorskip("django.core.files.base").ContentFile(b"")
    file.write(DATA)
    return file


def django_upload(path: Path) -> Any:
    uploaded = pytest.importorskip("django.core.files.uploadedfile")
    return begun(uploaded.SimpleUploadedFile("name", DATA))


def begun(file: Any) -> Any:
    assert file.read(100)
    return file


@pytest.mark.parametrize(
    "make", [mapped_and_written, django_file_begun, django_content_written, django_upload]
)
@pytest.mark.parametrize("layer", ["none", "werkzeug.wrappers", "wsgifile"])
def test_iterating_goes_back_to_the_beginning(tmp_path: Path, make: Any, layer: str) -> None:
    """Unlike read(): what the application has read or written before is sent too."""
    path = tmp_path / "data"
    path.write_bytes(DATA)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        file = make(path)
        if layer.startswith("werkzeug"):
            return pytest.importorskip(layer).Response(file)(environ, start_response)
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return file if layer == "none" else FileWrapper(file)

    with serving(app) as port:
        bare = get(port)
    with serving(FileWrapperMiddleware(app)) as port:
        assert get(port) == bare
    assert (bare in (DATA, DATA[:5000])) == (layer != "wsgifile")


@pytest.mark.parametrize("make", [requests_raw, lambda path, origin: Upper(DATA)])
def test_read_where_the_application_says_so(tmp_path: Path, origin: int, make: Make) -> None:
    """What it hands to wsgi.file_wrapper is to be read."""
    made = make(tmp_path, origin)
    expected = make(tmp_path, origin).read()
    assert recognise(made) is None
    assert recognise(FileWrapper(made)) is not None
    assert b"".join(FileWrapper(made)) == expected


def test_proxy_of_smart_open(tmp_path: Path) -> None:
    """It iterates the file inside, and closes what that has been opened on."""
    (tmp_path / "data").write_bytes(DATA)
    file = pytest.importorskip("smart_open").open(str(tmp_path / "data"), "rb")
    with file:
        region = recognise(file)
        assert region is not None
        assert region.kernel is not None
        assert region.kernel.name == str(tmp_path / "data")


class Generous:
    """read() gives more than it is asked for: as much as there is, or blocks of its own."""

    def __init__(self, block: int) -> None:
        self._inner = io.BytesIO(DATA)
        self._block = block

    def read(self, size: int) -> bytes:
        return self._inner.read(max(size, self._block))


@pytest.mark.parametrize("block", [300_000, 10**9])
@pytest.mark.parametrize("wrapped", [True, False])
def test_more_than_it_was_asked_for(block: int, wrapped: bool) -> None:
    """The rest is for the next block. Without us it would go out under a smaller length."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        file = Generous(block)
        return environ["wsgi.file_wrapper"](file) if wrapped else file

    def limited(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Length", "1000")])
        return environ["wsgi.file_wrapper"](Generous(block))

    with serving(FileWrapperMiddleware(app, block_size=1000)) as port:
        assert get(port) == DATA
    with serving(FileWrapperMiddleware(limited)) as port:
        assert get(port) == DATA[:1000]


class WithoutSize:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> bytes:
        return self._data


@pytest.mark.parametrize("size", [len(DATA), 0])
def test_read_that_takes_no_size(size: int) -> None:
    """It gives all there is, even if it would give that again."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](WithoutSize(DATA[:size]))

    with serving(FileWrapperMiddleware(app, block_size=1000)) as port:
        assert get(port) == DATA[:size]


@pytest.mark.parametrize("read", [lambda size: len(size), max])
def test_type_error_of_a_read(read: Any) -> None:
    """Not for want of a size: it is the application's."""

    class File:
        def __init__(self) -> None:
            self.read = read

    with pytest.raises(TypeError, match="has no len|not iterable"):
        next(FileWrapper(File()))


def test_wrapper_that_has_begun() -> None:
    """A filter has taken the first block; the rest of what was read is still to come."""
    wrapper = FileWrapper(Generous(10**9), 100)
    wrapper.reader.next_block(10)
    assert recognise(wrapper) is None
    assert b"".join(wrapper) == DATA[10:]
