"""The command line's access log: a line for each response of waitress.

A file may be on its way long after the application's thread has gone on to others, so
its line waits for ``on_sent``; that of any other response is written when waitress is
done with the request, and has the bytes that it has taken. Nothing of it stands between
the server and the middleware: files would leave in slower ways then.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.task import ErrorTask, Task, WSGITask

from .body import Closing
from .log import one_line
from .middleware import FileWrapperMiddleware
from .server import closed_over
from .transfer import Transfer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["logged"]

_DONE = object()


def logged(app: WSGIApplication, **options: Any) -> WSGIApplication:
    """The application through FileWrapperMiddleware with these options, for a waitress that logs.

    Any waitress of this process does then: its channels must be of the type that they are.
    """
    HTTPChannel.task_class, HTTPChannel.error_task_class = _Task, _ErrorTask

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        line = closed_over(start_response, "self").line
        app_iter = FileWrapperMiddleware(app, on_sent=line, **options)(environ, start_response)
        # Not that of another middleware within, which ours has passed on as no file.
        watch = app_iter.send.watch if isinstance(app_iter, Closing) else None
        line.is_file = watch is not None and watch.on_sent is line
        return app_iter

    return application


class _Line:
    """What is known of a request, which does not keep it."""

    is_file = False
    status = "-"
    #: Bytes of the body; None: not known.
    sent: int | None = None
    error: BaseException | None = None

    def __init__(self, task: Task) -> None:
        self.client = task.channel.addr[0]
        self.request = getattr(task.request, "first_line", b"-").decode("latin-1")
        self.began = time.time()
        #: The Transfer, if the file ends before the task, or that the task is done. It is
        #: set by setdefault(), which is atomic: one of the two writes the line.
        self.end: dict[str, Any] = {}

    def __call__(self, transfer: Transfer) -> None:
        """A file's response is over: what the middleware is to call."""
        if self.end.setdefault("is", transfer) is not transfer:
            self.write(transfer)

    def write(self, transfer: Transfer | None = None) -> None:
        """To stderr; that it is closed is no reason for a response to fail."""
        sent, error, sender, missing = self.sent, self.error, "-", ""
        if transfer is not None:
            sender, error = transfer.sender, error or transfer.error
            if sent is not None and sender != "read":  # Else waitress has seen all of it.
                sent = transfer.sent
            if sent is not None and transfer.count is not None and sent < transfer.count:
                missing = f" of {transfer.count}"
        ended = ""
        if error is not None or missing:
            gone = error is None or isinstance(error, ClientDisconnected)
            ended = f" aborted{missing}: {'the connection was closed' if gone else repr(error)}"
        # As Apache does, so that nobody forges the rest of the line.
        request = self.request.replace("\\", "\\\\").replace('"', '\\"')
        date = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(self.began))
        line = (
            f'{self.client} - - [{date}] "{request}" {self.status}'
            f" {'-' if sent is None else sent} {sender} {time.time() - self.began:.3f}s{ended}"
        )
        with suppress(OSError, ValueError, AttributeError):
            # By one write, so that no other line comes between; and of what nobody reads
            # nothing stays behind to fail at the end.
            os.write(sys.stderr.fileno(), f"{one_line(line)}\n".encode(errors="replace"))


class _Task(WSGITask):  # type: ignore[misc]
    """A request that is for the application."""

    #: Bytes that it took, of which it sends no more than Content-Length.
    written = 0

    def service(self) -> None:
        line = self.line = _Line(self)
        try:
            super().service()
        except BaseException as error:
            line.error = error
            raise
        finally:
            line.status = self.status[:3]
            line.sent = self.written
            if self.content_length is not None:
                line.sent = min(self.written, self.content_length)
            unanswered = line.error is not None and not self.wrote_header
            if unanswered and not isinstance(line.error, ClientDisconnected):
                # By waitress itself, which answers what is no Exception by nothing.
                line.status = "500" if isinstance(line.error, Exception) else "-"
                line.sent = None
            end = line.end.setdefault("is", _DONE)
            if end is not _DONE:
                line.write(end)
            elif not line.is_file:
                line.write()
            # Their environ keeps us, and by its traceback an error keeps a lot.
            line.end["is"], line.error = _DONE, None

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.has_body:
            self.written += len(data)


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """A request that waitress refuses, or one of which the application made an error."""

    def service(self) -> None:
        line = _Line(self)
        super().service()
        code = self.request.error.code
        if code == 431:  # It was not read to its end, and has become another.
            line.request = "-"
        if code != 500:  # After an error of the application there is a line already.
            line.status, line.sent = self.status[:3], self.content_bytes_written
            line.write()
