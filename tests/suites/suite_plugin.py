"""run.py loads this into the process that runs the tests of a framework.

It is a plugin for pytest, and a launcher for runners that use unittest. It writes the outcome of
each test to a file, as one JSON array in each line. In a wrapped run, it also puts the middleware
around the application, where the tests call that. Then it also writes a line for each request
through the middleware, and for each file that the middleware sends.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import sys
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One descriptor, and one write() for each line, because tests fork servers and kill them.
_record = os.open(os.environ["WSGIFILE_SUITE_RECORD"], os.O_WRONLY | os.O_APPEND)


def note(*values: str) -> None:
    """Append a line to the record."""
    os.write(_record, json.dumps(values).encode() + b"\n")


# Where the applications are called.


def middleware(app: Any) -> Any:
    """The application in the middleware. Each request is noted."""
    import wsgifile

    class Noting(wsgifile.FileWrapperMiddleware):
        def __call__(self, environ: Any, start_response: Any) -> Any:
            note("request")
            return super().__call__(environ, start_response)

    return Noting(app)


def note_files() -> None:
    """Note each call of the function that opens the body of a file."""
    module: Any = importlib.import_module("wsgifile.middleware")
    open_body = module.open_body

    def noting(*args: Any, **kwargs: Any) -> Any:
        note("file")
        return open_body(*args, **kwargs)

    module.open_body = noting


def replace(target: str, make: Callable[[Any], Any]) -> None:
    """Replace module:name or module:class.name by the result of make() for it."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    old = getattr(owner, name)
    setattr(owner, name, functools.wraps(old)(make(old)))


def takes_app(index: int) -> Callable[[Any], Any]:
    """For a callable that takes the application as the argument of this index."""

    def make(old: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return old(*args[:index], middleware(args[index]), *args[index + 1 :], **kwargs)

        return call

    return make


def is_app(method: Any) -> Any:
    """For a method that makes the object itself the application."""

    def call(self: Any, environ: Any, start_response: Any) -> Any:
        return middleware(functools.partial(method, self))(environ, start_response)

    return call


def finds_wrapper(get_environ: Any) -> Any:
    """For a function that makes an environ for code which the tests call without WSGI."""

    def call(*args: Any, **kwargs: Any) -> Any:
        import wsgifile

        return {**get_environ(*args, **kwargs), "wsgi.file_wrapper": wsgifile.FileWrapper}

    return call


def through_wsgi(get_response: Any) -> Any:
    """For the handler of the test client of Django, which makes no WSGI call.

    A response with a file is turned into what a server gets, as the end of
    WSGIHandler.__call__() does it. The response of the client is made from that again.
    """

    def call(self: Any, request: Any) -> Any:
        from django.http.response import ResponseHeaders

        response = get_response(self, request)
        if getattr(response, "file_to_stream", None) is None:
            return response

        def app(environ: Any, start_response: Any) -> Any:
            status = f"{response.status_code} {response.reason_phrase}"
            start_response(status, list(response.items()))
            return environ["wsgi.file_wrapper"](response.file_to_stream, response.block_size)

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            code, _, reason = status.partition(" ")
            response.status_code, response.reason_phrase = int(code), reason
            response.headers = ResponseHeaders(dict(headers))

        response.streaming_content = middleware(app)(dict(request.environ), start_response)
        return response

    return call


#: For each framework, what to replace, and how.
PLACES: dict[str, dict[str, Callable[[Any], Any]]] = {
    "bottle": {"wsgiref.validate:validator": takes_app(0)},
    "cherrypy": {"cherrypy._cptree:Tree.__call__": is_app},
    "django": {
        "django.core.handlers.wsgi:WSGIHandler.__call__": is_app,
        "django.test.client:ClientHandler.get_response": through_wsgi,
    },
    "falcon": {"falcon:App.__call__": is_app},
    "flask": {"werkzeug.test:run_wsgi_app": takes_app(0)},
    "paste": {"paste.lint:middleware": takes_app(0)},
    "pyramid": {"pyramid.router:Router.__call__": is_app},
    "waitress": {"waitress.server:BaseWSGIServer.__init__": takes_app(1)},
    "webob": {"webob.request:BaseRequest.call_application": takes_app(1)},
    "werkzeug": {
        "werkzeug.test:run_wsgi_app": takes_app(0),
        "werkzeug.test:EnvironBuilder.get_environ": finds_wrapper,
    },
    "whitenoise": {"wsgiref.simple_server:WSGIServer.set_app": takes_app(1)},
}

if framework := os.environ.get("WSGIFILE_SUITE_WRAP"):
    note_files()
    for target, make in PLACES[framework].items():
        replace(target, make)


# The outcomes of the tests.


def note_test(test: str, outcome: str, message: object = "") -> None:
    """Write a line for a phase or a subtest of a test. The worst outcome counts."""
    first_line = next(iter(str(message).strip().splitlines()), "")
    note("test", test, outcome, first_line[:300])


def pytest_runtest_logreport(report: Any) -> None:
    """The hook of pytest for the end of a phase of a test."""
    crash = getattr(report.longrepr, "reprcrash", None)
    note_test(report.nodeid, report.outcome, crash.message if crash else report.longrepr or "")


class NotingResult(unittest.TextTestResult):
    """The same for runners that use unittest."""

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        super().addSuccess(test)
        note_test(test.id(), "passed")

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        note_test(test.id(), "skipped", reason)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        note_test(test.id(), "failed", repr(err[1]))

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        note_test(test.id(), "failed", repr(err[1]))

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            note_test(test.id(), "failed", repr(err[1]))


if __name__ == "__main__":
    # python suite_plugin.py SCRIPT [ARGUMENT ...] does what python SCRIPT ... does.
    unittest.TextTestRunner.resultclass = NotingResult  # type: ignore[assignment]
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
