"""``wsgifile --explain``: make a request, and show how the response was sent, and why.

Then the same is asked by HEAD, and for a part. The requests go to waitress on the loopback
interface, because the way of a file depends on the server.
"""

from __future__ import annotations

import copy
import http.client
import inspect
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import GeneratorType, MethodType
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.server import create_server

from .. import FileWrapperMiddleware, Transfer
from ..agents import SpanIterable, span_iterable
from ..blocks import name_of
from ..hidden import hides_file
from ..layers import unwrap
from ..log import logger
from ..offload import Proxies, XAccelRedirect, XSendfile
from ..plan import Headers, Plan, never_has_body
from ..recognise import NOT_FILES, FileRegion, FileSlice
from ..registry import SERVERS
from ..send import Send, Watch, watchers
from ..senders import SMALL
from ..server import Server
from ..servers.unknown import Server as Unknown
from ..wrapper import FileWrapper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["explain", "senders_of"]

#: Seconds to wait for a byte of the response.
_PATIENCE = 60.0
#: The part that is asked for, too.
_PART = "bytes=0-99"


class _Spy:
    """The application, with notes on what it did."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app
        self.status: str | None = None
        self.headers: Headers = []
        self.app_iter: object = None
        self.returned = "nothing"
        self.is_file = self.hides_file = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Headers, *exc_info: Any) -> Callable[[bytes], object]:
            self.status, self.headers = status, list(headers)
            return start_response(status, headers, *exc_info)

        try:
            self.app_iter = app_iter = self.app(environ, start)
        except Exception as error:
            self.returned = f"an exception: {error!r}"
            raise
        self.returned, self.is_file = _describe(app_iter), _is_file(app_iter)
        self.hides_file = hides_file(app_iter)
        return app_iter


class _Refusals:
    """The middleware, with the exception by which it refused to send a file."""

    def __init__(self, middleware: WSGIApplication, spy: _Spy) -> None:
        self.middleware = middleware
        self.spy = spy
        self.refused: Exception | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self.middleware(environ, start_response)
        except Exception as error:
            if self.spy.is_file:
                self.refused = error
            raise


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings that the middleware logs, unless the application turns its logger off."""
    handler, propagate = _Warnings(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def explain(app: WSGIApplication, path: str, headers: list[tuple[str, str]]) -> Iterator[str]:
    """Lines that tell how a GET of this path with these header fields is answered."""
    app = _without_flask(app)
    # The application's own middleware has options that matter.
    outer = (
        copy.copy(app) if isinstance(app, FileWrapperMiddleware) else FileWrapperMiddleware(app)
    )
    spy = outer.app = _Spy(outer.app)
    served = _Refusals(outer, spy)
    ends: list[tuple[Send, Watch, Transfer]] = []
    with _warnings() as warnings, _serving(served) as port:
        watchers.append(lambda *end: ends.append(end))
        with _opened() as opened:
            got = _ask(port, "GET", path, headers)
        _wait(lambda: not spy.is_file or ends or served.refused)
        watchers.pop()
        yield f"GET {path}, from waitress"
        yield _line("the application", f"{spy.status or 'no status'}, returned {spy.returned}")
        if not isinstance(app, FileWrapperMiddleware):
            yield _line(
                "wsgifile", "added here, because the application does not have it outermost"
            )
        yield from _outcome(spy, served.refused, ends)
        if not (ends or spy.hides_file):
            yield from _read_by_application(opened, got.count)
        if outer.options.trusted_proxies is not None:
            yield _line("trusted_proxies", _trusts(outer.options.trusted_proxies))
        for message in warnings:
            yield _line("warning", message)
        yield _line("the client", got.told())
        if got.status == 200:
            yield from _asked_otherwise(port, path, headers)


def _trusts(proxies: Proxies) -> str:
    """Whether a request as the one here, or one by a unix socket, comes from a proxy."""
    tcp, unix = (f"is{'' if proxies.include(peer) else ' not'} one" for peer in ("127.0.0.1", ""))
    return f"127.0.0.1, which asked here, {tcp}; a unix socket {unix}"


def _without_flask(app: WSGIApplication) -> WSGIApplication:
    """The middleware in ``app.wsgi_app``, to which Flask's own ``__call__`` only passes on.

    An agent may have replaced ``Flask.__call__``. Then it stands outside of the middleware.
    """
    inside = getattr(app, "wsgi_app", None)
    flasks_own = getattr(type(app).__call__, "__module__", None) == "flask.app"
    return inside if flasks_own and isinstance(inside, FileWrapperMiddleware) else app


def _outcome(
    spy: _Spy, refused: Exception | None, ends: list[tuple[Send, Watch, Transfer]]
) -> Iterator[str]:
    """What became of the response, by the outermost middleware and by others inside of it."""
    outermost = [end for end in ends if _returned(end[0].app_iter) is spy.app_iter]
    if refused is not None:
        yield _line("wsgifile", f"refused: {refused!r}")
    elif not outermost:
        hidden = spy.hides_file and not (ends or never_has_body(spy.status or ""))
        yield from _passed_on(hidden)
    for end in ends:
        if end not in outermost:
            yield _line("inside of that", "another FileWrapperMiddleware")
        yield from _lines(*end, spy.headers if end in outermost else None)


def _returned(app_iter: object) -> object:
    """What the application returned, when the middleware has this to close."""
    return app_iter.generator if type(app_iter) is SpanIterable else app_iter


def _passed_on(hides_file: bool) -> Iterator[str]:
    """Why the response was passed on, and what to do if that is a pity."""
    if not hides_file:
        yield _line("wsgifile", "no file, passed on as it is")
        return
    yield _line("wsgifile", "passed on as it is, but there is a file inside")
    yield _line(
        "advice", "move FileWrapperMiddleware inside of the WSGI middleware that did this;"
    )
    yield _line("", "in a view, return the file: FileResponse (Django), send_file (Flask)")


def _read_by_application(opened: list[object], count: int) -> Iterator[str]:
    """Which file the application has read by itself, and what to return in its place."""
    for path in opened:
        with suppress(OSError):
            if count and isinstance(path, str | bytes) and os.stat(path).st_size == count:
                yield _line("advice", f"the application has opened {path!r} and read all of it;")
                yield _line("", "return the file: FileResponse (Django), send_file (Flask)")
                return


def _asked_otherwise(port: int, path: str, headers: list[tuple[str, str]]) -> Iterator[str]:
    """How the same is answered to HEAD, and to a request for a part."""
    got = _ask(port, "HEAD", path, headers)
    yield _line("HEAD", got.told(f"Content-Length: {got.fields.get('content-length', 'none')}"))
    if not any(name.lower() == "range" for name, _ in headers):
        got = _ask(port, "GET", path, [*headers, ("Range", _PART)], only=206)
        whole = "the whole, because it has no ranges"
        if any(each.header.lower() in got.fields for each in (XAccelRedirect, XSendfile)):
            whole = "the proxy then answers the range"
        part = got.fields.get("content-range", whole)
        yield _line(f"Range: {_PART}", got.told(part))


def _line(label: str, text: str) -> str:
    return f"  {label and label + ':':<22}{text}"


def _lines(send: Send, watch: Watch, transfer: Transfer, before: Headers | None) -> Iterator[str]:
    """What the middleware did with a file.

    :param before: the application's header; None: not known.
    """
    yield _line("recognised", _recognised(send.region))
    yield _line("plan", _planned(send.plan, before))
    if type(watch.server) is Unknown:
        origin = _origin(watch.server.start_response)
        yield _line("server", f"not seen, start_response is {origin}")
    yield from _asked(send.plan, watch, transfer)
    sent = "bytes" if transfer.sent is None else f"{transfer.sent} bytes"
    error = "" if transfer.error is None else f", ended by {transfer.error!r}"
    yield _line("sent", f"{sent} by {transfer.sender} in {transfer.seconds:.3f} s{error}")
    if isinstance(send.file_slice(), FileSlice) and (send.plan.count or 0) > SMALL:
        yield from _elsewhere(type(watch.server))


def _recognised(region: FileRegion) -> str:
    what = f"{_kind(region.filelike)} {name_of(region.filelike)}"
    if region.kernel is not None:
        return f"a file on disk, {what}, {_length(region)} from {region.start}"
    return f"to be read, {what}, {_length(region)}"


def _length(region: FileRegion) -> str:
    return "size not known" if region.stop is None else f"{region.stop - region.start} bytes"


def _planned(plan: Plan, before: Headers | None) -> str:
    count = "all there is" if plan.count is None else f"{plan.count} bytes"
    parts = f" in {len(plan.parts)} parts" if len(plan.parts) > 1 else ""
    known = plan.headers if before is None else before
    ours = [name for name, value in plan.headers if (name, value) not in known]
    by_us = f"; by wsgifile: {', '.join(ours)}" if ours else ""
    return f"{plan.status}, {count}{parts}{by_us}"


def _asked(plan: Plan, watch: Watch, transfer: Transfer) -> Iterator[str]:
    """What the proxy in front and the senders answered: why they declined, if they did."""
    asked = {name for name, _ in watch.declined}
    if plan.offload is not None:
        yield _line("offload", f"{plan.offload}: {dict(plan.headers)[plan.offload]}")
    elif watch.offload and "offload" not in asked:
        yield _line("offload", "declined: not a whole, permanent file in a 200 to GET or HEAD")
    for name, declined in watch.declined:
        yield _line(name, f"declined: {declined.reason}")
    if transfer.sender == "read" and asked <= {"offload"}:
        yield _line("read", f"up to {SMALL} bytes are read at once, one block for the server")


def _elsewhere(here: type[Server]) -> Iterator[str]:
    """The fast senders, and the other servers on which they would send the file."""
    if here is Unknown:
        return
    name = here.__module__.rpartition(".")[2]
    for sender, names in senders_of().items():
        others = ", ".join(other for other in names if other != name)
        yield _line("elsewhere", f"{sender} on {others}")


def senders_of() -> dict[str, list[str]]:
    """Each fast sender, and the servers that it works on, as ``wsgifile.servers`` has them."""
    found: dict[str, list[str]] = {"wsgi.file_wrapper": [], "os.sendfile": []}
    for name in sorted(set(SERVERS.values())):
        own = import_module(f"wsgifile.servers.{name}").Server
        if own.wrap not in (Server.wrap, Unknown.wrap) and own.wrapped in found:
            found[own.wrapped].append(name)
        elif own.socket is not Server.socket:
            found["os.sendfile"].append(name)
    return found


def _is_file(app_iter: object) -> bool:
    if isinstance(app_iter, GeneratorType):
        app_iter = span_iterable(app_iter)
    inside = unwrap(app_iter)
    return callable(getattr(app_iter if inside is None else inside.file, "read", None))


def _describe(app_iter: object) -> str:
    """Its type, and why it is no file if it is none."""
    inside = unwrap(app_iter)
    what = _kind(app_iter)
    if isinstance(app_iter, FileWrapper):
        what = f"{_framework(app_iter.filelike)}wsgi.file_wrapper"
    if isinstance(app_iter, GeneratorType):
        code = app_iter.gi_code
        what = f"a generator, {code.co_name} of {code.co_filename}:{code.co_firstlineno}"
    if inside is not None and inside.file is not app_iter:
        return f"{what} around {_kind(inside.file)}"
    if _is_file(app_iter):
        return what
    return f"{what}, which {'is no file' if type(app_iter) in NOT_FILES else 'has no read()'}"


def _framework(file: object) -> str:
    """The response of Django that handed the file to wsgi.file_wrapper: close() is its own."""
    response = getattr(getattr(file, "close", None), "__self__", file)
    return "" if response is file else f"{_kind(response)} by "


def _kind(thing: object) -> str:
    kind = type(thing)
    return (
        kind.__name__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _origin(function: Any) -> str:
    """Where a start_response comes from."""
    if isinstance(function, MethodType):
        return f"a method of {_kind(function.__self__)}"
    if inspect.isfunction(function):
        return f"{function.__qualname__} of {function.__module__}"
    return f"a {_kind(function)}"


@contextmanager
def _opened() -> Iterator[list[object]]:
    """What is opened meanwhile, by whatever the process runs: names of files, or descriptors."""
    opened: list[object] = []
    active = True
    # The hook stays until the process ends.
    sys.addaudithook(
        lambda event, args: opened.append(args[0]) if active and event == "open" else None
    )
    try:
        yield opened
    finally:
        active = False


@contextmanager
def _serving(app: WSGIApplication) -> Iterator[int]:
    server = create_server(app, host="127.0.0.1", port=0, threads=1)
    loop = threading.Thread(target=server.run, daemon=True)
    loop.start()
    try:
        yield int(server.effective_port)
    finally:
        server.task_dispatcher.shutdown(timeout=1)
        # The loop itself must close the sockets, because it fails if another thread does.
        server.trigger.pull_trigger(partial(_close_all, server))
        loop.join(5)
        server.trigger.close()


def _close_all(server: Any) -> None:
    """Close all but the trigger: the thread that asks for this may still have to write to it."""
    server.trigger.del_channel()
    wasyncore.dispatcher.close(server)  # Its own close() also closes the trigger.
    wasyncore.close_all(server._map)


@dataclass
class _Got:
    """What the client got."""

    status: int = 0
    reason: str = ""
    #: The header, by lower-case names.
    fields: dict[str, str] = field(default_factory=dict)
    #: Number of bytes of the body.
    count: int = 0
    #: Number of bytes that were promised and did not come.
    missing: int = 0
    error: Exception | None = None

    def told(self, what: str = "") -> str:
        """The status, and what came: by default, the number of bytes."""
        if self.error is not None:
            return f"got no complete answer: {self.error!r}"
        missing = f", and {self.missing} less than promised" if self.missing else ""
        return f"{self.status} {self.reason}, {what or f'{self.count} bytes{missing}'}"


def _ask(port: int, method: str, path: str, headers: list[tuple[str, str]], only: int = 0) -> _Got:
    """Make a request.

    :param only: the body is read only with this status; 0: with any.
    """
    got = _Got()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        skip_host = any(name.lower() == "host" for name, _ in headers)
        connection.putrequest(method, path, skip_host=skip_host, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        got.status, got.reason = response.status, response.reason
        got.fields = {name.lower(): value for name, value in response.getheaders()}
        if only in (0, got.status):
            _read(response, got)
    except (OSError, http.client.HTTPException) as error:
        got.error = error
    finally:
        connection.close()
    return got


def _read(response: http.client.HTTPResponse, got: _Got) -> None:
    """Count the bytes of the body, and show the number on a terminal."""
    told = time.monotonic()
    while data := response.read1(1 << 20):
        got.count += len(data)
        if sys.stderr.isatty() and time.monotonic() - told > 1:
            told = time.monotonic()
            print(f"\r{got.count >> 20} MiB\r", end="", file=sys.stderr, flush=True)
    got.missing = response.length or 0


def _wait(done: Callable[[], object]) -> None:
    """Wait until done(), two seconds at most: the server closes a file after it has sent it."""
    deadline = time.monotonic() + 2
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)
