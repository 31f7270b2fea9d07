"""The application under test, with a path for each case, and the bytes that it must send.

It runs in the process of the server. The tests import it for the expected bytes. ``FILES`` is a
directory that both know from an environment variable.
"""

from __future__ import annotations

import bz2
import contextlib
import ctypes
import gc
import gzip
import io
import json
import lzma
import mmap
import os
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from _thread import start_new_thread
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

FILES = os.environ.get("WSGIFILE_TEST_FILES", "")
DATA = random.Random(1).randbytes(1_500_007)
OTHER = random.Random(2).randbytes(1_500_007)

#: Number of zeros before the last 7 bytes of a file that is larger than 4 GiB.
HUGE = 2**32 + 100_000

#: What happened in this process. The tests get it from ``/-/events``.
events: list[list[Any]] = []

#: Cases of unknown length, whose header has no Content-Length.
UNSIZED = {
    "gzip_file",
    "bz2_file",
    "lzma_file",
    "tar_member",
    "zip_stored",
    "zip_deflated",
    "mmap_",
    "fifo",
    "proc_file",
    "sys_file",
    "foreign_fileno",
    "only_read",
    "read_and_close",
    "pipe",
    "generator",
    "list_",
}

Case = Callable[[dict[str, Any]], tuple[str, list[tuple[str, str]], Any]]
CASES: dict[str, Case] = {}
#: The body of a GET for each case.
EXPECTED: dict[str, bytes] = {}


def case(expected: bytes) -> Callable[[Callable[[WSGIEnvironment], Any]], Callable[..., Any]]:
    """Register a case. It returns its body, or (status, headers, body)."""

    def register(function: Callable[[WSGIEnvironment], Any]) -> Callable[..., Any]:
        def full(environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], Any]:
            result = function(environ)
            return result if isinstance(result, tuple) else ("200 OK", [], result)

        CASES[function.__name__] = full
        EXPECTED[function.__name__] = expected
        return function

    return register


def path(name: str) -> str:
    return os.path.join(FILES, name)


def write_files() -> None:
    """Make the files that the cases open. The tests call this once."""
    with open(path("data"), "wb") as file:
        file.write(DATA)
    with open(path("empty"), "wb"):
        pass
    # A directory of its own, for frameworks that look at all files in a directory.
    os.mkdir(path("only"))
    os.link(path("data"), path("only/data"))
    with open(path("only/small"), "wb") as file:
        file.write(DATA[:10])
    with open(path("medium"), "wb") as file:
        file.write(DATA[:100_000])
    with gzip.open(path("data.gz"), "wb", compresslevel=1) as gz:
        gz.write(DATA)
    with bz2.open(path("data.bz2"), "wb") as bz:
        bz.write(DATA)
    with lzma.open(path("data.xz"), "wb", preset=0) as xz:
        xz.write(DATA)
    with tarfile.open(path("data.tar"), "w") as tar:
        tar.add(path("data"), "data")
    with zipfile.ZipFile(path("data.zip"), "w") as archive:
        archive.write(path("data"), "stored")
        archive.write(path("data"), "deflated", zipfile.ZIP_DEFLATED)
    with open(path("sparse"), "wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    with open(path("huge"), "wb") as file:
        file.seek(HUGE)
        file.write(b"the end")


def counted(file: Any, archive: Any = None) -> Any:
    """Record calls of close(), with an attribute of the instance as in Django."""
    close = file.close

    def record() -> None:
        events.append(["close"])
        close()
        if archive is not None:
            archive.close()

    file.close = record
    return file


def opened(name: str = "data") -> Any:
    return counted(open(path(name), "rb"))


@case(DATA)
def plain(environ: WSGIEnvironment) -> Any:
    return opened()


@case(b"")
def empty(environ: WSGIEnvironment) -> Any:
    return opened("empty")


@case(DATA[:10])
def length_smaller(environ: WSGIEnvironment) -> Any:
    return "200 OK", [("Content-Length", "10")], opened()


@case(DATA)
def length_given(environ: WSGIEnvironment) -> Any:
    return "200 OK", [("Content-Length", str(len(DATA)))], opened()


@case(DATA[3:])
def read_a_little(environ: WSGIEnvironment) -> Any:
    file = opened()
    file.read(3)
    return file


@case(DATA[1_000_000:])
def seeked(environ: WSGIEnvironment) -> Any:
    file = opened()
    file.seek(1_000_000)
    return file


@case(DATA)
def unbuffered(environ: WSGIEnvironment) -> Any:
    return counted(open(path("data"), "rb", buffering=0))


@case(DATA[3:])
def unbuffered_read(environ: WSGIEnvironment) -> Any:
    file = counted(open(path("data"), "rb", buffering=0))
    file.read(3)
    return file


@case(DATA)
def wrapped(environ: WSGIEnvironment) -> Any:
    # Without the middleware, not every server has a wrapper.
    wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
    return wrapper(opened(), 4096)


@case(DATA[70_000:900_000])
def range_206(environ: WSGIEnvironment) -> Any:
    length = len(DATA[70_000:900_000])
    wrapper: Any = environ.get("wsgi.file_wrapper")
    if hasattr(wrapper, "app_iter_range"):
        body = wrapper(opened()).app_iter_range(70_000, 900_000)
    else:
        # This is what applications do without the middleware.
        body = opened()
        body.seek(70_000)
    headers = [("Content-Range", f"bytes 70000-899999/{len(DATA)}")]
    return "206 Partial Content", [*headers, ("Content-Length", str(length))], body


@case(b"")
def not_modified(environ: WSGIEnvironment) -> Any:
    return "304 Not Modified", [("Content-Length", str(len(DATA)))], opened()


@case(b"")
def no_content(environ: WSGIEnvironment) -> Any:
    return "204 No Content", [], opened()


@case(DATA)
def gzip_file(environ: WSGIEnvironment) -> Any:
    return counted(gzip.open(path("data.gz")))


@case(DATA)
def bz2_file(environ: WSGIEnvironment) -> Any:
    class File(bz2.BZ2File):  # a BZ2File cannot have attributes of its own
        def close(self) -> None:
            if not self.closed:
                events.append(["close"])
            super().close()

    return File(path("data.bz2"))


class ForeignDescriptor:
    """The bytes of its descriptor are not those of its read()."""

    def __init__(self) -> None:
        self.inner = io.BytesIO(OTHER)
        self.file = open(path("data"), "rb")

    def read(self, size: int = -1) -> bytes:
        return self.inner.read(size)

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


@case(OTHER)
def foreign_fileno(environ: WSGIEnvironment) -> Any:
    return counted(ForeignDescriptor())


class CountedBytesIO(io.BytesIO):
    def close(self) -> None:
        if not self.closed:
            events.append(["close"])
        super().close()


@case(DATA)
def bytes_io(environ: WSGIEnvironment) -> Any:
    return CountedBytesIO(DATA)


@case(DATA[3:])
def bytes_io_read(environ: WSGIEnvironment) -> Any:
    file = CountedBytesIO(DATA)
    file.read(3)
    return file


@case(DATA)
def lzma_file(environ: WSGIEnvironment) -> Any:
    return counted(lzma.open(path("data.xz")))


@case(DATA)
def tar_member(environ: WSGIEnvironment) -> Any:
    archive = tarfile.open(path("data.tar"))
    return counted(archive.extractfile("data"), archive)


def zip_member(name: str) -> Any:
    archive = zipfile.ZipFile(path("data.zip"))
    return counted(archive.open(name), archive)


@case(DATA)
def zip_stored(environ: WSGIEnvironment) -> Any:
    return zip_member("stored")


@case(DATA)
def zip_deflated(environ: WSGIEnvironment) -> Any:
    return zip_member("deflated")


@case(DATA)
def mmap_(environ: WSGIEnvironment) -> Any:
    class Mapped(mmap.mmap):
        def close(self) -> None:
            if not self.closed:
                events.append(["close"])
            super().close()

    with open(path("data"), "rb") as file:
        return Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)


@case(b"Linux\n")
def proc_file(environ: WSGIEnvironment) -> Any:
    return opened("/proc/sys/kernel/ostype")


@case(Path("/sys/devices/system/cpu/online").read_bytes())
def sys_file(environ: WSGIEnvironment) -> Any:
    return opened("/sys/devices/system/cpu/online")


@case(bytes(1_000_000) + b"end")
def sparse(environ: WSGIEnvironment) -> Any:
    return opened("sparse")


@case(bytes(100_000) + b"the end")
def huge_range(environ: WSGIEnvironment) -> Any:
    file = opened("huge")
    file.seek(2**32)
    return "206 Partial Content", [("Content-Range", f"bytes {2**32}-{HUGE + 6}/{HUGE + 7}")], file


@case(DATA)
def deleted(environ: WSGIEnvironment) -> Any:
    with tempfile.NamedTemporaryFile(dir=FILES, delete=False) as file:
        file.write(DATA)
    opened_first = opened(file.name)
    os.unlink(file.name)
    return opened_first


@case(DATA)
def fifo(environ: WSGIEnvironment) -> Any:
    name = tempfile.mktemp(dir=FILES)
    os.mkfifo(name)

    def write() -> None:
        with open(name, "wb") as file:
            file.write(DATA)

    start_new_thread(write, ())
    file = opened(name)
    os.unlink(name)
    return file


class OnlyRead:
    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


class ReadAndClose(OnlyRead):
    def close(self) -> None:
        pass


@case(DATA)
def only_read(environ: WSGIEnvironment) -> Any:
    return OnlyRead(DATA)


@case(DATA)
def read_and_close(environ: WSGIEnvironment) -> Any:
    return counted(ReadAndClose(DATA))


@case(DATA)
def pipe(environ: WSGIEnvironment) -> Any:
    read_end, write_end = os.pipe()

    def write() -> None:
        with open(write_end, "wb") as file:
            file.write(DATA)

    # A real thread, even if gevent or eventlet have patched threading.
    start_new_thread(write, ())
    return counted(open(read_end, "rb"))


def filled(file: Any) -> Any:
    file.write(DATA)
    file.seek(0)
    return counted(file)


@case(DATA)
def temporary_file(environ: WSGIEnvironment) -> Any:
    return filled(tempfile.TemporaryFile())


@case(DATA)
def named_temporary_file(environ: WSGIEnvironment) -> Any:
    return filled(tempfile.NamedTemporaryFile())


@case(DATA)
def spooled_in_memory(environ: WSGIEnvironment) -> Any:
    return filled(tempfile.SpooledTemporaryFile(max_size=10_000_000))


@case(DATA)
def spooled_rolled_over(environ: WSGIEnvironment) -> Any:
    return filled(tempfile.SpooledTemporaryFile(max_size=10))


@case(DATA)
def generator(environ: WSGIEnvironment) -> Any:
    return (DATA[i : i + 100_000] for i in range(0, len(DATA), 100_000))


@case(DATA)
def list_(environ: WSGIEnvironment) -> Any:
    return [DATA]


# These have no EXPECTED, because the test expects an error.


def trouble(function: Callable[[WSGIEnvironment], Any]) -> Callable[..., Any]:
    case(b"")(function)
    del EXPECTED[function.__name__]
    return function


@trouble
def length_larger(environ: WSGIEnvironment) -> Any:
    # A part that the file does not have. A 200 would get the true length.
    stop = len(DATA) + 5
    headers = [("Content-Range", f"bytes 0-{stop - 1}/{stop}"), ("Content-Length", str(stop))]
    return "206 Partial Content", headers, opened()


@trouble
def small_length_larger(environ: WSGIEnvironment) -> Any:
    file = opened("only/small")
    headers = [("Content-Range", "bytes 0-14/15"), ("Content-Length", "15")]
    return "206 Partial Content", headers, file


@trouble
def length_too_large(environ: WSGIEnvironment) -> Any:
    wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
    return "200 OK", [("Content-Length", str(len(DATA) + 5))], wrapper(opened())


@trouble
def small_length_too_large(environ: WSGIEnvironment) -> Any:
    wrapper = environ.get("wsgi.file_wrapper", FileWrapper)
    return "200 OK", [("Content-Length", "15")], wrapper(opened("only/small"))


@trouble
def spaced_name(environ: WSGIEnvironment) -> Any:
    return "200 OK", [("Content-Length ", str(len(DATA)))], opened()


@trouble
def transfer_encoding(environ: WSGIEnvironment) -> Any:
    return "200 OK", [("Transfer-Encoding", "chunked")], opened()


@trouble
def medium_length_larger(environ: WSGIEnvironment) -> Any:
    """Shorter than one block, longer than what is small."""
    headers = [("Content-Range", "bytes 0-100004/100005"), ("Content-Length", "100005")]
    return "206 Partial Content", headers, opened("medium")


@trouble
def overridden(environ: WSGIEnvironment) -> Any:
    """Changes the method like HTTPMethodOverrideMiddleware in the documentation of Flask."""
    environ["REQUEST_METHOD"] = environ["HTTP_X_HTTP_METHOD_OVERRIDE"]
    return opened()


@trouble
def huge(environ: WSGIEnvironment) -> Any:
    return opened("huge")


@trouble
def directory(environ: WSGIEnvironment) -> Any:
    return opened(".")


@trouble
def close_raises(environ: WSGIEnvironment) -> Any:
    file = opened()
    close = file.close

    def raising() -> None:
        close()
        raise ValueError("the disk has gone")

    file.close = raising
    return file


@trouble
def large(environ: WSGIEnvironment) -> Any:
    return opened("large")


@trouble
def in_memory(environ: WSGIEnvironment) -> Any:
    return counted(io.BytesIO(Path(path("large")).read_bytes()))


class Zeros:
    """What has to be read, and is larger than all buffers."""

    def __init__(self) -> None:
        self.left = 64 << 20

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)

    def close(self) -> None:
        pass


@trouble
def zeros(environ: WSGIEnvironment) -> Any:
    return counted(Zeros())


class ReadRaises(OnlyRead):
    def __init__(self, good_reads: int, error: type[Exception]) -> None:
        self.error = error
        self.good_reads = good_reads

    def read(self, size: int | None = -1, /) -> bytes:
        if self.good_reads == 0:
            raise self.error("the disk has gone")
        self.good_reads -= 1
        return DATA[:size]

    def close(self) -> None:
        pass


@trouble
def read_raises_first(environ: WSGIEnvironment) -> Any:
    return "200 OK", [("Content-Length", "1000000")], counted(ReadRaises(0, ValueError))


@trouble
def read_raises_later(environ: WSGIEnvironment) -> Any:
    return "200 OK", [("Content-Length", "1000000")], counted(ReadRaises(2, OSError))


@trouble
def unsized_read_raises_later(environ: WSGIEnvironment) -> Any:
    return counted(ReadRaises(2, OSError))


class Slow:
    """Returns one piece for each read(), slowly."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = iter(pieces)

    def read(self, size: int) -> bytes:
        time.sleep(0.3)
        return next(self.pieces, b"")

    def close(self) -> None:
        pass


class Trickle(Slow):
    """Has its second piece once the file "go" says that the client has the first."""

    def read(self, size: int) -> bytes:
        data = super().read(size)
        deadline = time.monotonic() + 10
        while data == b"two" and not os.path.exists(path("go")) and time.monotonic() < deadline:
            time.sleep(0.01)
        return data


@trouble
def trickles(environ: WSGIEnvironment) -> Any:
    return counted(Trickle([b"one" * 3000, b"two"]))


@trouble
def slow(environ: WSGIEnvironment) -> Any:
    return counted(Slow([b"x" * 10_000] * 10))


@trouble
def read_raises_much_later(environ: WSGIEnvironment) -> Any:
    return "200 OK", [("Content-Length", "1000000")], counted(ReadRaises(6, OSError))


@trouble
def text_mode(environ: WSGIEnvironment) -> Any:
    file = open(path("data"), encoding="latin-1")
    return counted(file)


def taken_events() -> list[list[Any]]:
    """What has happened since the last call. Other threads may add to it meanwhile."""
    taken = events[:]
    del events[: len(taken)]
    return taken


QUESTIONS: dict[str, Callable[[], object]] = {
    "-/collect": gc.collect,
    "-/events": taken_events,
    "-/open": lambda: open_files(),
    "-/disarm": lambda: ctypes.CDLL(None).fault_disarm(),
}


def open_files() -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # The descriptor of the directory itself.
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [name for name in names if name.startswith(FILES)]


@trouble
def small(environ: WSGIEnvironment) -> Any:
    return opened("only/small")


def faulty(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """``/CASE/CALL/ERRNO/NUMBER``: that case, whose file then meets the fault. See faults.c."""
    name, call, code, number = environ["PATH_INFO"].strip("/").split("/")
    environ["PATH_INFO"] = "/" + name
    app_iter = application(environ, start_response)
    status = os.fstat(app_iter.fileno())
    arguments = [int(code), int(number), status.st_dev, status.st_ino]
    ctypes.CDLL(None).fault_arm(call.encode(), *map(ctypes.c_long, arguments))
    return app_iter


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """``/CASE`` answers with that case.

    ``/-/events`` returns the events and forgets them. ``/-/open`` returns the names of the open
    files. ``/-/collect`` collects garbage.
    """
    name = environ["PATH_INFO"].strip("/")
    if name.startswith("-/"):
        body = json.dumps(QUESTIONS[name]()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    if name == "restarted":
        # The error page of a framework, after the view has begun to answer.
        try:
            start_response("200 OK", [("Content-Length", "1")])
            raise ValueError("an error of the application")
        except ValueError:
            start_response("500 Internal Server Error", [], sys.exc_info())
            return opened()
    status, headers, body = CASES[name](environ)
    start_response(status, [("Content-Type", "application/octet-stream"), *headers])
    return body
