"""The applications that are compared.

``/SIZE`` is the file of that name, ``/small`` a response that is no file. The
environment says what to serve, how, and behind which server, because some servers
import this file in processes of their own: ``BENCHMARK_FILES``,
``BENCHMARK_CONTENDER``, ``BENCHMARK_SERVER``; ``BENCHMARK_CALL_SIZE`` if os.sendfile is to
be called with so many bytes each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

App = Callable[[dict[str, Any], Any], Iterable[bytes]]

FILES = os.environ["BENCHMARK_FILES"]
CONTENDER = os.environ["BENCHMARK_CONTENDER"]
#: The wrapper of wsgiref is a loop of 8 KiB reads. By hand one does better.
USE_WRAPPER = os.environ["BENCHMARK_SERVER"] != "wsgiref"
LOOP = 256 * 1024
CALL_SIZE = int(os.environ["BENCHMARK_CALL_SIZE"] or 0)


def small(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    # No body, because gevent sends it 40 ms after the header with every application.
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return []


def with_small(files: App) -> App:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        app = small if environ["PATH_INFO"] == "/small" else files
        return app(environ, start_response)

    return application


def open_file(environ: dict[str, Any]) -> BinaryIO:
    return open(os.path.join(FILES, os.path.basename(environ["PATH_INFO"])), "rb")


def start(file: BinaryIO, start_response: Any) -> None:
    length = str(os.fstat(file.fileno()).st_size)
    headers = [("Content-Type", "application/octet-stream"), ("Content-Length", length)]
    start_response("200 OK", headers)


def bare(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The usual code: the server iterates the file by lines."""
    file = open_file(environ)
    start(file, start_response)
    return file


def unsized(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The same, and the middleware finds out how long the file is."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return open_file(environ)


def read_loop(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(LOOP):
            yield block


def by_hand(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The best that can be written for this server: its wrapper, or a loop of large reads."""
    file = open_file(environ)
    start(file, start_response)
    if USE_WRAPPER and "wsgi.file_wrapper" in environ:
        return environ["wsgi.file_wrapper"](file, LOOP)
    return read_loop(file)


def ours(**options: Any) -> App:
    from wsgifile import FileWrapperMiddleware
    from wsgifile.call_size import CallSize

    if CALL_SIZE:  # It finds no other.
        CallSize.size = property(lambda self: CALL_SIZE, lambda self, value: None)  # type: ignore
    return FileWrapperMiddleware(with_small(unsized), **options)


#: Options of ours, for contenders that differ in these alone.
OPTIONS: dict[str, dict[str, Any]] = {
    "ours": {},
    # Without ranges, ETag and conditions, which nothing by hand has.
    "plain": {"ranges": False, "validators": False},
    # The worker itself sends everything.
    "worker": {"background": 0},
    # A client may take nothing for a second only.
    "impatient": {"send_timeout": 1},
}


def offload() -> App:
    """Ours, with the files left to nginx in front."""
    from wsgifile import XAccelRedirect

    return ours(offload=XAccelRedirect({FILES: "/_files"}))


def whitenoise() -> App:
    from whitenoise import WhiteNoise

    return WhiteNoise(small, root=FILES)


APPS: dict[str, Callable[[], App]] = {
    "bare": lambda: with_small(bare),
    "by_hand": lambda: with_small(by_hand),
    "offload": offload,
    "whitenoise": whitenoise,
}

app = ours(**OPTIONS[CONTENDER]) if CONTENDER in OPTIONS else APPS[CONTENDER]()
