"""The WSGI call: inject, call, recognise, plan, send, close."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from . import servers
from .body import Body
from .log import logger
from .offload import Offload, Proxies
from .plan import Headers, make_plan
from .recognise import NO_FILES, FileRegion, KernelFile, recognise
from .send import Send, Watch, watching
from .senders import open_body
from .transfer import Declined, Transfer
from .wrapper import DEFAULT_BLOCK_SIZE, FileWrapper, check_int, close_app_iter

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["FileWrapperMiddleware"]

_KEY = "wsgi.file_wrapper"
_MISSING = object()


class FileWrapperMiddleware:
    """WSGI middleware that sends files fast, exactly, and closes them.

    Put it outermost, next to the server::

        app = FileWrapperMiddleware(app)

    The application finds our :class:`FileWrapper` as
    ``environ["wsgi.file_wrapper"]``. If it returns that, or any object with a
    ``read`` method, the file is sent by the server's own wrapper, else by
    os.sendfile, else by a loop of ``read(block_size)``, the first of them that
    is safe. Everything else passes through untouched. See PEP 3333, "Optional
    Platform-Specific File Handling".

    :param app: the WSGI application.
    :param block_size: bytes to read at once where a file has to be read.
    :param ranges: whether to answer Range requests for files of known length
        (RFC 9110, section 14), where the application leaves that to us.
    :param validators: whether to add ETag, and Last-Modified beside the application's
        Cache-Control or Expires, for files that were opened by their path, where the
        application set neither, and to answer conditional requests by them (RFC 9110,
        section 13).
    :param read_ahead: blocks to read ahead of the client, in another thread, of a
        file-like object whose ``read()`` may wait: for an object store, a pipe, a
        decompressor. 0: none, as there are file-likes that only the thread may use
        which has made them. Files on disk have the kernel for that.
    :param offload: :class:`~wsgifile.XAccelRedirect` or :class:`~wsgifile.XSendfile`,
        by which a proxy in front sends whole files below some directories.
    :param trusted_proxies: networks that the proxy's requests come from, by
        ``REMOTE_ADDR``: ``["127.0.0.1", "10.0.0.0/8", "unix"]``. Files for others are not
        left to it. None: all requests come through the proxy.
    :param on_sent: called with a :class:`~wsgifile.Transfer` at the end of each response
        that is a file, in the thread that closes it. What it raises is logged.
    :raises TypeError: for what is of another type than this says.
    :raises ValueError: if block_size is less than 1, or read_ahead less than 0, or for a
        network that is none.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        block_size: int = DEFAULT_BLOCK_SIZE,
        ranges: bool = True,
        validators: bool = True,
        read_ahead: int = 0,
        offload: Offload | None = None,
        trusted_proxies: Iterable[str] | None = None,
        on_sent: Callable[[Transfer], object] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"app must be a WSGI application, a callable, not {app!r}")
        check_int("block_size", block_size, 1)
        check_int("read_ahead", read_ahead, 0)
        for name, value in (("ranges", ranges), ("validators", validators)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        if offload is not None and not isinstance(offload, Offload):
            raise TypeError(f"offload must be XAccelRedirect or XSendfile, not {offload!r}")
        if on_sent is not None and not callable(on_sent):
            raise TypeError(f"on_sent must be callable, not {on_sent!r}")
        self.app = app
        self.block_size = block_size
        self.ranges = ranges
        self.validators = validators
        self.read_ahead = read_ahead
        self.offload = offload
        self.trusted_proxies: Proxies | None = None
        if trusted_proxies is not None:
            self.trusted_proxies = Proxies(trusted_proxies)
        self.on_sent = on_sent

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        response = _Response()
        response.server_start_response = start_response
        # Now: what is inside of us may overwrite it by what a client says.
        response.method = environ.get("REQUEST_METHOD", "GET")
        servers_own = environ.get(_KEY, _MISSING)
        environ[_KEY] = FileWrapper
        if self.offload is not None:
            response.peer = environ.get("REMOTE_ADDR", "")  # As the method is.
        try:
            app_iter = self.app(environ, response.start_response)
        finally:
            # In place, and before the server looks: gunicorn asks its environ
            # whether it got a file.
            if servers_own is _MISSING:
                environ.pop(_KEY, None)
            else:
                environ[_KEY] = servers_own
        try:
            region = None
            if type(app_iter) not in NO_FILES and response.started:
                region = recognise(app_iter)
            if region is None:
                response.commit()
                return app_iter
            return self._send(environ, response, app_iter, region)
        except BaseException:
            # The server never gets to see app_iter, so it cannot close it.
            close_app_iter(app_iter)
            raise

    def _send(
        self,
        environ: WSGIEnvironment,
        response: _Response,
        app_iter: Iterable[bytes],
        region: FileRegion,
    ) -> Iterable[bytes]:
        watch = None
        if self.on_sent is not None or watching or logger.isEnabledFor(logging.DEBUG):
            watch = Watch(environ, self.on_sent, self.offload is not None)
        if type(app_iter) is Body:
            app_iter.sent = None  # Of another middleware of ours, in whose place we send.
        plan = make_plan(
            environ,
            response.status,
            response.headers,
            region,
            method=response.method,
            written=response.written if response.committed else None,
            ranges=self.ranges,
            validators=self.validators,
            offload=None if self.offload is None else partial(self._field, response.peer, watch),
        )
        response.status, response.headers = plan.status, plan.headers
        response.commit()
        send = Send(
            app_iter,
            region,
            plan,
            max(self.block_size, region.block_size),
            self.read_ahead,
            watch,
        )
        server = servers.find(environ, response.server_start_response)
        server.write = response.server_write
        return open_body(send, server)

    def _field(self, peer: str, watch: Watch | None, file: KernelFile) -> tuple[str, str] | None:
        """The header by which the proxy at peer sends this file; None: it does not."""
        assert self.offload is not None
        if self.trusted_proxies is None or self.trusted_proxies.include(peer):
            field = self.offload.field(file)
        else:
            field = Declined("the request has not come through the proxy")
        if not isinstance(field, Declined):
            return field
        if watch is not None:
            watch.declined.append(("offload", field))
        return None


class _Response:
    """The start_response that the application gets, which only remembers.

    The server hears of it by commit(): when the application has returned, or at
    its first write(). From then on calls are passed on, as those of an
    application that calls start_response only when it is iterated.
    """

    # Without an __init__, which would be a tenth of the time that a request costs
    # here which is none for a file.
    server_start_response: StartResponse
    status: str
    headers: Headers
    server_write: Callable[[bytes], object]
    method: str
    started = committed = False
    written = 0
    peer: str

    def start_response(
        self, status: str, headers: Headers, exc_info: OptExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """PEP 3333's, which takes exc_info by keyword as well, as servers do."""
        if self.started and not exc_info:
            raise AssertionError("start_response called a second time without exc_info")
        self.started = True
        self.status, self.headers = status, headers
        if not self.committed:
            return self.write
        # Of what was forgotten before it was told the server hears nothing, not
        # even exc_info: uWSGI fails on that.
        more = () if exc_info is None else (exc_info,)
        self.server_write = self.server_start_response(status, headers, *more)
        return self.server_write

    def write(self, data: bytes) -> None:
        """PEP 3333's write(): the header has to be with the server before these bytes."""
        self.commit()
        self.server_write(data)
        self.written += len(data)

    def commit(self) -> None:
        """Stop remembering: tell the server what is known, and pass on what comes."""
        if not self.committed:
            self.committed = True
            if self.started:
                self.server_write = self.server_start_response(self.status, self.headers)
