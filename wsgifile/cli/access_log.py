"""The access log: a line on stderr for each response of the application.

On a terminal, :class:`~.progress.Progress` shows what is under way.

One layer stands on both sides of the middleware. What the middleware passes on unchanged is
no file: it is counted on its way to the server, and has its line when the server closes it.
Anything else is a file, and has its line when the middleware calls ``on_sent``: waitress
sends it long after the application's thread has gone on to the next request.

The layer hands the server's own start_response to the middleware, and the middleware's body
to the server. Otherwise files would leave in a slower way. While that body is sent, it knows how
many bytes the server has taken.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from ssl import SSLError
from typing import TYPE_CHECKING, Any
from weakref import ref

from waitress.channel import ClientDisconnected

from .. import FileWrapperMiddleware, Transfer
from ..log import one_line
from .progress import Progress, as_row, write

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["AccessLog"]


class AccessLog:
    """The application through FileWrapperMiddleware with these options, for waitress."""

    def __init__(self, app: WSGIApplication, **options: Any) -> None:
        self._app = app
        self._middleware = FileWrapperMiddleware(
            self._call_app, on_sent=self._file_sent, **options
        )
        #: Requests whose response may be a file, by the id() of their environ. The line is
        #: not kept in environ itself, because the application may clear that.
        self._lines: dict[int, _Line] = {}
        #: All whose response is not over, the oldest first.
        self._under_way: dict[_Line, None] = {}
        self._write = Progress(self._under_way).write if Progress.is_possible() else write

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        line = self._lines[id(environ)] = _Line(environ, self._end)
        self._under_way[line] = None
        try:
            app_iter = self._middleware(environ, start_response)
        except BaseException as error:
            self._lines.pop(id(environ)).end(error)
            raise
        returned, line.returned = line.returned, None
        if app_iter is not returned:
            # Some servers drop it instead of closing it, so nothing else may hold it.
            line.body = ref(app_iter)
            return app_iter
        del self._lines[id(environ)]
        counted = _SizedBlocks if isinstance(app_iter, Sized) else _Blocks
        return counted(app_iter, line)

    def _call_app(
        self, environ: WSGIEnvironment, start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """What the middleware calls: the application, and notes on its response."""
        line = self._lines[id(environ)]

        def start(status: str, headers: Any, exc_info: OptExcInfo | None = None) -> Any:
            write = start_response(status, headers, exc_info)
            line.status, line.headers = status, headers

            def counting_write(data: bytes) -> None:
                line.begun = True
                write(data)
                line.sent += len(data)

            return counting_write

        app_iter = line.returned = self._app(environ, start)
        return app_iter

    def _file_sent(self, transfer: Transfer) -> None:
        self._lines.pop(id(transfer.environ)).end_file(transfer)

    def _end(self, line: _Line, text: str) -> None:
        self._under_way.pop(line, None)
        self._write(text)


class _Blocks:
    """A response that is no file, on its way to the server."""

    def __init__(self, app_iter: Iterable[bytes], line: _Line) -> None:
        self._app_iter: Any = app_iter
        self._line = line

    def __iter__(self) -> Iterator[bytes]:
        line = self._line
        for block in self._app_iter:
            count = len(block)
            line.begun = line.begun or count > 0
            yield block
            line.sent += count  # The server asks for the next block, so it has taken this one.

    def close(self) -> None:
        """Close what the application returned, and write the line."""
        try:
            if hasattr(self._app_iter, "close"):
                self._app_iter.close()
        finally:
            # The server closes us in a finally clause of its own, also if it has failed.
            self._line.end(sys.exc_info()[1])


class _SizedBlocks(_Blocks):
    """The same with a length. If that is 1, the server needs no Content-Length from us."""

    def __len__(self) -> int:
        return len(self._app_iter)


class _Line:
    """What is known of a request, and of its response so far."""

    #: As the application gave them to start_response; None: it has not called that.
    status: object = None
    headers: Any = ()
    #: Whether the server was given bytes to send, so that the header is out.
    begun = False
    #: Bytes that the server has taken, from write() and from the blocks of what is no file.
    sent = 0
    #: What the application returned, until the middleware has returned.
    returned: Any = None
    #: Returns the body that sends the file.
    body: Callable[[], Any] = staticmethod(lambda: None)
    #: The response until now, in one line; "" until the second look, as most are over soon.
    row = ""

    def __init__(self, environ: WSGIEnvironment, end: Callable[[_Line, str], object]) -> None:
        self._end = end
        self._client = environ["REMOTE_ADDR"]
        self._request = " ".join(
            environ[name] for name in ("REQUEST_METHOD", "REQUEST_URI", "SERVER_PROTOCOL")
        )
        self._began = time.time()
        #: When the last looks were, and the bytes sent until then. The speed is the average since
        #: the first of them, because a socket often takes megabytes at once and then nothing.
        self._looks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=5)

    def end(self, error: BaseException | None) -> None:
        """The response was no file, or there was no response."""
        if self.status is None or (error is not None and not self.begun):
            self._unanswered(error, "-")
        else:
            sent = _bytes_on_the_wire(str(self.status), self.headers, self.sent)
            self._write(self.status, sent, "-", _aborted(error))

    def end_file(self, transfer: Transfer) -> None:
        """The response was a file."""
        error, count = transfer.error, transfer.count
        sent = transfer.sent or 0  # waitress always tells how many.
        if error is None and transfer.sender != "wsgi.file_wrapper":
            # As above. By its own wrapper the server's main loop sends and closes the file.
            error = sys.exc_info()[1]
        if error is not None and transfer.sender == "read" and not (sent or self.begun):
            self._unanswered(error, "read")
            return
        missing = f" of {self.sent + count}" if count is not None and sent < count else ""
        self._write(transfer.status, self.sent + sent, transfer.sender, _aborted(error, missing))

    def _unanswered(self, error: BaseException | None, sender: str) -> None:
        """Nothing was sent. waitress now answers for the application, or closes."""
        status = "500" if error is None or isinstance(error, Exception) else "-"
        self._write(status, None, sender, _aborted(error))

    def _write(self, status: object, sent: int | None, sender: str, aborted: str) -> None:
        # As Apache does, so that no client can forge the rest of the line.
        request = self._request.replace("\\", "\\\\").replace('"', '\\"')
        date = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(self._began))
        line = (
            f'{self._client} - - [{date}] "{request}" {str(status)[:3]}'
            f" {'-' if sent is None else sent} {sender} {time.time() - self._began:.3f}s{aborted}"
        )
        self._end(self, f"{one_line(line)}\n")

    def look(self) -> None:
        """Update the row. This is called at regular intervals."""
        body, now, sent, count = self.body(), time.monotonic(), self.sent, None
        if body is not None:
            sent, count = sent + (body.sent or 0), body.send.plan.count
        elif self.status is not None:
            count = _content_length(self.headers)
        if len(self._looks) > 1:
            then, before = self._looks[0]
            speed = (sent - before) / (now - then)
            self.row = as_row(self._client, self._request, sent, count=count, speed=speed)
        self._looks.append((now, sent))


def _aborted(error: BaseException | None, missing: str = "") -> str:
    """Why the response ended early, for the end of the line."""
    if error is None and not missing:
        return ""
    gone = error is None or isinstance(error, (ClientDisconnected, ConnectionError, SSLError))
    return f" aborted{missing}: {'the connection was closed' if gone else repr(error)}"


def _bytes_on_the_wire(status: str, headers: Any, given: int) -> int:
    """How many of the given bytes waitress sends."""
    if status.startswith(("1", "204", "304")):
        return 0  # These have no body.
    length = _content_length(headers)
    return given if length is None else min(given, length)


def _content_length(headers: Any) -> int | None:
    for name, value in headers:
        if name.lower() == "content-length":
            with suppress(ValueError):
                return int(value)
    return None
