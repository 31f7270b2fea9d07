"""The application of ``soak.py``: every kind of file and source, behind the middleware.

``/KIND/SIZE`` is SIZE bytes of ``CONTENT`` from a source of that kind (``KINDS``), and
``/ahead/KIND/SIZE`` the same with ``read_ahead``. ``/counts`` tells how many sources were
opened and closed.
"""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import parse_qs

from wsgifile import FileWrapperMiddleware, Transfer

FILES = os.environ.get("SOAK_FILES", "")
BLOCK = 65536
#: Random, so that other bytes stand at each position. The same in each process.
CONTENT = random.Random(1).randbytes(24 << 20)

Environ = dict[str, Any]


def begins(size: int) -> int:
    """Where in CONTENT a file of this size begins. Files of other sizes have other bytes."""
    return size % 4093


def content(size: int) -> bytes:
    return CONTENT[begins(size) : begins(size) + size]


class ProvokedError(Exception):
    """The sources raise it on purpose."""


_lock = threading.Lock()
counts = Counter(begun=0, opened=0, closed=0, files=0, sent=0)


def count(name: str) -> None:
    """One more. Several threads count."""
    with _lock:
        counts[name] += 1


class Source:
    """Has read() and close() only. Raises an error at the given position."""

    def __init__(self, size: int, at: int, error: Exception) -> None:
        self._left = io.BytesIO(content(size)[:at])
        self._error = error if at < size else None
        count("opened")

    def read(self, size: int) -> bytes:
        block = self._left.read(min(size, BLOCK))
        if not block and self._error is not None:
            raise self._error
        return block

    def close(self) -> None:
        count("closed")


def path_of(environ: Environ, size: int) -> str:
    """The file of this size, or one that a client has made for itself."""
    return os.path.join(FILES, asked(environ, "name") or str(size))


def asked(environ: Environ, name: str) -> str | None:
    values = parse_qs(environ.get("QUERY_STRING", "")).get(name)
    return values[0] if values else None


def on_disk(environ: Environ, size: int) -> BinaryIO:
    return open(path_of(environ, size), "rb")


def unbuffered(environ: Environ, size: int) -> io.FileIO:
    return open(path_of(environ, size), "rb", buffering=0)


def wrapped(environ: Environ, size: int) -> Iterable[bytes]:
    wrapper: Iterable[bytes] = environ["wsgi.file_wrapper"](on_disk(environ, size), 4096)
    return wrapper


def standing(environ: Environ, size: int) -> BinaryIO:
    """A file of which some bytes were read: the rest has to be sent."""
    file = on_disk(environ, size)
    file.read(int(asked(environ, "from") or 0))
    return file


def in_memory(environ: Environ, size: int) -> BinaryIO:
    return io.BytesIO(content(size))


def zipped(environ: Environ, size: int) -> gzip.GzipFile:
    return gzip.open(path_of(environ, size) + ".gz")


def pipe(environ: Environ, size: int) -> BinaryIO:
    read_end, write_end = os.pipe()

    def write() -> None:
        with open(write_end, "wb", buffering=0) as file:
            try:
                for block in blocks(environ, size):
                    file.write(block)
            except BrokenPipeError:
                pass  # The client has left.

    threading.Thread(target=write, daemon=True).start()
    return open(read_end, "rb")


def temporary(environ: Environ, size: int) -> Any:
    """The three kinds of tempfile in turn."""
    kinds: list[Callable[[], Any]] = [
        tempfile.TemporaryFile,
        tempfile.NamedTemporaryFile,
        partial(tempfile.SpooledTemporaryFile, BLOCK),
    ]
    file = kinds[counts["begun"] % 3]()
    file.write(content(size))
    file.seek(0)
    return file


def raises(environ: Environ, size: int) -> Source:
    error = OSError("provoked") if asked(environ, "error") == "os" else ProvokedError()
    return Source(size, int(asked(environ, "at") or 0), error)


def blocks(environ: Environ, size: int) -> Iterator[bytes]:
    for at in range(begins(size), begins(size) + size, BLOCK):
        yield CONTENT[at : min(at + BLOCK, begins(size) + size)]


def fails(environ: Environ, size: int) -> Iterable[bytes]:
    raise ProvokedError


KINDS: dict[str, Callable[[Environ, int], Any]] = {
    "file": on_disk,
    "raw": unbuffered,
    "wrapped": wrapped,
    "standing": standing,
    "memory": in_memory,
    "gzip": zipped,
    "pipe": pipe,
    "temporary": temporary,
    "source": lambda environ, size: Source(size, size, ProvokedError()),
    "raises": raises,
    "blocks": blocks,
    "list": lambda environ, size: [content(size)],
    "fails": fails,
}

NO_FILES = ("list", "blocks")


def application(environ: Environ, start_response: Any) -> Any:
    *_, kind, size = environ["PATH_INFO"].split("/")
    count("begun")
    body = KINDS[kind](environ, int(size))
    if kind not in NO_FILES:
        count("files")
    headers = [("Content-Type", "application/octet-stream"), ("Cache-Control", "max-age=9")]
    if asked(environ, "length"):
        headers.append(("Content-Length", size))
    start_response("200 OK", headers)
    return body


def tell(start_response: Any) -> list[bytes]:
    """The counts, and the memory blocks of this process after a garbage collection."""
    gc.collect()
    body = json.dumps({**counts, "blocks": sys.getallocatedblocks()}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


def on_sent(transfer: Transfer) -> None:
    count("sent")


_plain = FileWrapperMiddleware(application, on_sent=on_sent)
_ahead = FileWrapperMiddleware(application, on_sent=on_sent, read_ahead=2)


def app(environ: Environ, start_response: Any) -> Any:
    if environ["PATH_INFO"] == "/counts":
        return tell(start_response)
    ahead = environ["PATH_INFO"].startswith("/ahead/")
    return (_ahead if ahead else _plain)(environ, start_response)
