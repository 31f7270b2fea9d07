"""Start a server with the application under test: ``serve.py SERVER PORT``.

``launch.py`` knows how to start each server. Calls of the senders are recorded, so that tests
can tell which sender was used.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

import cases
import frameworks
import launch

import wsgifile.blocks

#: Whether .ci/run is measuring coverage.
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ


def record(owner: Any, name: str, kind: str, what: Any) -> None:
    """Have each call of owner.name record [kind, what(*args)], unless what() returns None."""
    original = getattr(owner, name)

    def recording(*args: Any, **kwargs: Any) -> Any:
        told = what(*args)
        if told is not None:
            cases.events.append([kind, told])
        return original(*args, **kwargs)

    setattr(owner, name, recording)


def first_read(reader: Any, size: int) -> int | None:
    told, reader.told = getattr(reader, "told", False), True
    return None if told or reader.remaining == 0 else size


record(os, "sendfile", "sendfile", lambda out, in_, offset, count: offset)
if "uwsgi" in sys.modules:
    record(sys.modules["uwsgi"], "sendfile", "wrapper", lambda *args: "uwsgi")
record(wsgifile.blocks.BlockReader, "next_block", "read", first_read)


class UpperIter:
    def __init__(self, app_iter: Any) -> None:
        self.blocks = map(bytes.upper, app_iter)
        self.close = app_iter.close

    def __iter__(self) -> Iterator[bytes]:
        return self.blocks


class Upper:
    """A filter that passes start_response on, but changes the body."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return UpperIter(self.app(environ, start_response))


class Hidden:
    """A filter that has its own start_response, and passes the body on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        def hidden(status: str, headers: Any, *exc_info: Any) -> Any:
            return start_response(status, [*headers, ("X-Filter", "yes")], *exc_info)

        return self.app(environ, hidden)


class PlainWrapper:
    """A wsgi.file_wrapper that nobody knows."""

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike, self.block_size = filelike, block_size
        self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.filelike.read(self.block_size), b"")


class OtherWrapper(Hidden):
    """The same, with a wrapper of its own."""

    def __call__(self, environ: Any, start_response: Any) -> Any:
        environ["wsgi.file_wrapper"] = PlainWrapper
        return super().__call__(environ, start_response)


class Strings:
    """Turns numbers in environ, which some servers set, into strings, as validator() wants."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        for key, value in list(environ.items()):
            if "." not in key and not isinstance(value, str):
                environ[key] = str(value)
        return self.app(environ, start_response)


def mounted(environ: Any, start_response: Any) -> Any:
    """An application that hands the request to one mounted at /sub, by changing environ."""
    environ["SCRIPT_NAME"] += "/sub"
    return cases.application(environ, start_response)


def note(transfer: wsgifile.Transfer) -> None:
    cases.events.append(
        [
            "transfer",
            transfer.sender,
            transfer.status,
            transfer.offset,
            transfer.count,
            transfer.sent,
            type(transfer.error).__name__,
            transfer.environ["PATH_INFO"],
        ]
    )
    assert transfer.seconds > 0


middleware = wsgifile.FileWrapperMiddleware(cases.application)
STACKS: dict[str, Any] = {
    "ours": middleware,
    # The same under another name, which --bare does not replace.
    "middleware": middleware,
    "bare": cases.application,
    "upper": Upper(middleware),
    "mounted": wsgifile.FileWrapperMiddleware(mounted),
    "validator": Strings(validator(wsgifile.FileWrapperMiddleware(validator(cases.application)))),
    "ahead": wsgifile.FileWrapperMiddleware(cases.application, read_ahead=3),
    "watched": wsgifile.FileWrapperMiddleware(cases.application, on_sent=note),
    "impatient": wsgifile.FileWrapperMiddleware(cases.application, on_sent=note, send_timeout=0.5),
    "worker": wsgifile.FileWrapperMiddleware(
        cases.application, on_sent=note, send_timeout=0.5, background=0
    ),
    "hidden": Hidden(middleware),
    "faulty": (faulty := wsgifile.FileWrapperMiddleware(cases.faulty, on_sent=note)),
    "faulty_ahead": wsgifile.FileWrapperMiddleware(cases.faulty, read_ahead=3, on_sent=note),
    "faulty_hidden": Hidden(faulty),
    "faulty_wrapper": OtherWrapper(faulty),
    "upper_watched": Upper(wsgifile.FileWrapperMiddleware(cases.application, on_sent=note)),
    "twice": wsgifile.FileWrapperMiddleware(middleware),
    "filter_between": wsgifile.FileWrapperMiddleware(Hidden(middleware)),
}


def coverage_saved(environ: Any, start_response: Any) -> Any:
    """See Running.save_coverage()."""
    import coverage

    measured = coverage.Coverage.current()
    if measured is not None:
        measured.save()
    start_response("204 No Content", [])
    return []


def app(environ: Any, start_response: Any) -> Any:
    """Serve ``/STACK/CASE``, or ``/FRAMEWORK/PATH``, loading the framework when first asked.

    It is no filter: it passes on start_response and the body.
    """
    if MEASURED and sys.gettrace() is None:
        sys.settrace(threading.gettrace())  # A thread made in C is not traced otherwise.
    stack, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + "/" + stack
    environ["PATH_INFO"] = "/" + rest
    if stack == "coverage":
        return coverage_saved(environ, start_response)
    if stack not in STACKS:
        STACKS[stack] = wsgifile.FileWrapperMiddleware(getattr(frameworks, stack)())
    return STACKS[stack](environ, start_response)


def recorded(name: str) -> None:
    """Record the calls of this server's own wrapper, if that is Python."""
    if name == "waitress":
        from waitress.buffers import ReadOnlyFileBasedBuffer
        from waitress.channel import HTTPChannel

        from wsgifile.servers.waitress import MemoryBuffer

        record(
            HTTPChannel,
            "write_soon",
            "wrapper",
            lambda channel, data: (
                type(data).__module__
                if isinstance(data, ReadOnlyFileBasedBuffer)
                and getattr(data, "sender", None) != "read"
                else None
            ),
        )
        # What is in memory has no reader.
        record(MemoryBuffer, "prepare", "read", lambda body, size: body._count)
    elif name.startswith("gunicorn"):
        from gunicorn.http.wsgi import Response

        record(Response, "sendfile", "wrapper", lambda resp, respiter: type(respiter).__module__)


def main(name: str, port: int) -> None:
    recorded(name)
    # A server that imports this module must get this one, in which calls are recorded.
    sys.modules["serve"] = sys.modules[__name__]
    options: dict[str, Any] = {"root": cases.FILES} if name.startswith("mod_wsgi") else {}
    launch.start(name, __file__, port, **options)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
