"""Start a server with the application under test: ``serve.py SERVER PORT``.

``launch.py`` knows how. What the senders do is recorded, so that tests can tell which
one it was.
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

#: Whether coverage is, by .ci/run.
MEASURED = "COVERAGE_PROCESS_CONFIG" in os.environ


def record(owner: Any, name: str, kind: str, what: Any) -> None:
    """Have calls of owner.name add [kind, what(*arguments)], unless that is None."""
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
    """A filter that lets start_response pass and changes the body all the same."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return UpperIter(self.app(environ, start_response))


class Hidden:
    """A filter with a start_response of its own, and a body that is passed on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        def hidden(status: str, headers: Any, *exc_info: Any) -> Any:
            return start_response(status, [*headers, ("X-Filter", "yes")], *exc_info)

        return self.app(environ, hidden)


class Strings:
    """No filter, but for the validator: some servers give it numbers."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        for key, value in list(environ.items()):
            if "." not in key and not isinstance(value, str):
                environ[key] = str(value)
        return self.app(environ, start_response)


def mounted(environ: Any, start_response: Any) -> Any:
    """An application with another one below a part of its path."""
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
    # The same, for what is no test of its own: --bare leaves that alone.
    "middleware": middleware,
    "bare": cases.application,
    "upper": Upper(middleware),
    "mounted": wsgifile.FileWrapperMiddleware(mounted),
    "validator": Strings(validator(wsgifile.FileWrapperMiddleware(validator(cases.application)))),
    "ahead": wsgifile.FileWrapperMiddleware(cases.application, read_ahead=3),
    "watched": wsgifile.FileWrapperMiddleware(cases.application, on_sent=note),
    "hidden": Hidden(middleware),
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
    """``/STACK/CASE``: not a filter, it hands on what it got, both ways.

    Or ``/FRAMEWORK/PATH``, which is loaded with the first such request.
    """
    if MEASURED and sys.gettrace() is None:
        sys.settrace(threading.gettrace())  # A thread that C has made.
    stack, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + "/" + stack
    environ["PATH_INFO"] = "/" + rest
    if stack == "coverage":
        return coverage_saved(environ, start_response)
    if stack not in STACKS:
        STACKS[stack] = wsgifile.FileWrapperMiddleware(getattr(frameworks, stack)())
    return STACKS[stack](environ, start_response)


def recorded(name: str) -> None:
    """Record what the senders of this server do, where it is Python."""
    if name == "waitress":
        from waitress.buffers import ReadOnlyFileBasedBuffer
        from waitress.channel import HTTPChannel

        record(
            HTTPChannel,
            "write_soon",
            "wrapper",
            lambda channel, data: (
                type(data).__module__ if isinstance(data, ReadOnlyFileBasedBuffer) else None
            ),
        )
    elif name.startswith("gunicorn"):
        from gunicorn.http.wsgi import Response

        record(Response, "sendfile", "wrapper", lambda resp, respiter: type(respiter).__module__)


def main(name: str, port: int) -> None:
    recorded(name)
    # For servers that import it in this process, and have to get what is recorded here.
    sys.modules["serve"] = sys.modules[__name__]
    options: dict[str, Any] = {"root": cases.FILES} if name.startswith("mod_wsgi") else {}
    launch.start(name, __file__, port, **options)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
