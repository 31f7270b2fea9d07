"""The WSGI call: inject, call, recognise, plan, send, close."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING

from . import servers
from .agents import span_iterable
from .background import default_limit
from .blocks import DEFAULT_BLOCK_SIZE, check_function, close_app_iter
from .body import CloseOnce, OneBlock
from .hidden import tell_if_hidden
from .log import logger, warn_first
from .offload import Offload, Proxies
from .options import Options
from .plan import Headers, ends_connection, make_plan, never_has_body
from .recognise import NOT_FILES, FileRegion, recognise
from .send import Send, Watch, watchers
from .senders import open_body
from .transfer import Declined, Transfer
from .wrapper import MADE, FileWrapper, SizedFileWrapper

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["FileWrapperMiddleware"]

_KEY = "wsgi.file_wrapper"
_MISSING = object()


class FileWrapperMiddleware:
    """WSGI middleware that sends files fast and byte-exact, and closes them.

    Put it outermost, next to the server::

        app = FileWrapperMiddleware(app)

    The application finds our :class:`FileWrapper` as ``environ["wsgi.file_wrapper"]``. If it
    returns that, or any object with a ``read`` method, the file is sent by the first of these
    that is safe: the server's own wrapper, os.sendfile, a loop of ``read(block_size)``.
    Everything else passes through untouched. See PEP 3333, "Optional Platform-Specific File
    Handling".

    :param app: the WSGI application.
    :param block_size: number of bytes to read at once, where a file has to be read.
    :param ranges: whether to answer Range requests (RFC 9110, section 14) for files of known
        length, unless the application does so itself.
    :param validators: whether to add an ETag to files that were opened by their path, and
        Last-Modified if the application set Cache-Control or Expires, and to answer conditional
        requests by them (RFC 9110, section 13). Skipped if the application set ETag or
        Last-Modified.
    :param read_ahead: number of blocks to read ahead of the client, in another thread. This is
        for file-like objects whose ``read()`` may wait: of an object store, a pipe, a
        decompressor. None: two blocks for files of fsspec, boto3 and urllib3, which any thread
        may use, and none for others, because some may be used only by the thread that made
        them. 0: never. Files on disk do not need it: the kernel reads ahead.
    :param offload: :class:`~wsgifile.XAccelRedirect` or :class:`~wsgifile.XSendfile`, by which
        a proxy in front sends whole files below some directories; or
        :class:`~wsgifile.Redirect`, by which an object store sends its own files.
    :param trusted_proxies: the networks from which the proxy's requests come, by
        ``REMOTE_ADDR``: ``["127.0.0.1", "10.0.0.0/8", "unix"]``. Files for other clients are not
        left to the proxy. None: all requests come through the proxy. Not with Redirect.
    :param on_sent: called with a :class:`~wsgifile.Transfer` at the end of each response that
        is a file, in the thread that closes it, or that sends it in the background. What it
        raises is logged.
    :param send_timeout: a client that takes nothing for this many seconds loses its connection.
    :param background: the largest number of responses in one process that are sent in the
        background. A response goes there when its client falls behind, so that a slow client
        keeps no worker. 0: none. None: a quarter of the limit of file descriptors.
    :param sendfile: whether the kernel may send files by itself, by os.sendfile or by a server's
        wrapper. False: files are read, for file systems on which the kernel sends old bytes.
    :raises TypeError: if an argument has another type than this says.
    :raises ValueError: if block_size is less than 1, read_ahead or background less than 0, or
        send_timeout not more than 0; if trusted_proxies has an entry that is no network, or is
        given without a proxy in offload.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        block_size: int = DEFAULT_BLOCK_SIZE,
        ranges: bool = True,
        validators: bool = True,
        read_ahead: int | None = None,
        offload: Offload | None = None,
        trusted_proxies: Iterable[str] | None = None,
        on_sent: Callable[[Transfer], object] | None = None,
        send_timeout: float = 60.0,
        background: int | None = None,
        sendfile: bool = True,
    ) -> None:
        check_function("app", app, "a WSGI application, a callable")
        servers.preload()
        self.app = app
        self.options: Options = Options(
            block_size=block_size,
            ranges=ranges,
            validators=validators,
            read_ahead=read_ahead,
            offload=offload,
            trusted_proxies=None if trusted_proxies is None else Proxies(trusted_proxies),
            on_sent=on_sent,
            send_timeout=send_timeout,
            background=background,
            sendfile=sendfile,
        )
        self._background = default_limit() if background is None else background

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        response = _Response()
        response.server_start_response = start_response
        response.started = response.committed = False
        # Read now, because code inside may overwrite these with what the client says.
        response.method = environ.get("REQUEST_METHOD", "GET")
        if self.options.offload is not None:
            response.peer = environ.get("REMOTE_ADDR", "")
        servers_own = environ.get(_KEY, _MISSING)
        # Our wrapper has a length if the server's own has.
        environ[_KEY] = SizedFileWrapper if hasattr(servers_own, "__len__") else FileWrapper
        made_before = MADE[0]
        try:
            app_iter = self.app(environ, response.start_response)
        finally:
            # Restored in place, and before the server looks: gunicorn looks into its environ
            # to see whether it got a file.
            if servers_own is _MISSING:
                environ.pop(_KEY, None)
            else:
                environ[_KEY] = servers_own
        made, body, region = MADE[0] != made_before, app_iter, None
        try:
            if made and type(app_iter) is GeneratorType:
                body = span_iterable(app_iter)
            if type(body) not in NOT_FILES and response.started:
                region = recognise(body)
            if region is not None:
                body = self._open(environ, response, body, region)
            elif made:
                body = app_iter
                if response.may_have_body():
                    tell_if_hidden(app_iter)
            # This comes last: an error of ours after it would leave a header without a body.
            response.commit()
        except BaseException as error:
            if isinstance(body, CloseOnce):
                body.report(error)
            # The server never gets it, so it cannot close it.
            close_app_iter(body)
            raise
        return body

    def _open(
        self,
        environ: WSGIEnvironment,
        response: _Response,
        app_iter: Iterable[bytes],
        region: FileRegion,
    ) -> Iterable[bytes]:
        options, watch = self.options, None
        if options.on_sent is not None or watchers or logger.isEnabledFor(logging.DEBUG):
            watch = Watch(environ, options.on_sent, options.offload is not None)
        if isinstance(app_iter, CloseOnce):
            app_iter.sent = None  # The body of another middleware of ours, which we replace.
        server = servers.find(environ, response.server_start_response)
        server.write = response.write
        plan = make_plan(
            environ,
            response.status,
            response.headers,
            region,
            method=response.method,
            options=options,
            written=response.written if response.committed else None,
            altered=server.alters_body,
            offload=(
                None
                if options.offload is None or response.committed
                else partial(self._leave, response, watch)
            ),
        )
        # By position: with keywords, Python takes three times as long to make the object.
        send = Send(
            app_iter,
            region,
            plan,
            max(options.block_size, region.block_size),
            options.read_ahead,
            watch,
            options.send_timeout,
            self._background,
            options.sendfile,
        )
        body = open_body(send, server)
        response.status, response.headers = plan.status, plan.headers
        may_fail = plan.count != 0 and type(body) is not OneBlock
        if may_fail and server.keeps_connection(sized=plan.sized):
            response.headers = ends_connection(plan.headers)
        return body

    def _leave(
        self,
        response: _Response,
        watch: Watch | None,
        region: FileRegion,
        fields: Mapping[str, str],
    ) -> tuple[str, str] | None:
        """The header that leaves this file to the proxy or to a store; None: we send it."""
        offload, trusted = self.options.offload, self.options.trusted_proxies
        assert offload is not None
        field = offload.leave(region, response.method, fields)
        if isinstance(field, tuple) and trusted is not None and not trusted.include(response.peer):
            field = Declined(f"the request came from {response.peer!r}, not from a trusted proxy")
            warn_first(
                "not left to the proxy: the request came from %r, which trusted_proxies does not"
                ' have ("unix" stands for a unix socket)',
                response.peer,
            )
        if isinstance(field, tuple):
            return field
        if watch is not None:
            watch.declined.append(("offload", field))
        return None


class _Response:
    """The start_response that the application gets. It only remembers its arguments.

    commit() passes them on to the server: when the application has returned, or at its first
    write(). Later calls go straight to the server, such as those of an application that calls
    start_response when it is iterated.
    """

    # No __init__: it would take a tenth of the time that this module spends on a response
    # that is not a file. No __dict__ either, for the same reason.
    __slots__ = (
        "committed",
        "headers",
        "method",
        "peer",
        "server_start_response",
        "server_write",
        "started",
        "status",
        "written",
    )

    server_start_response: StartResponse
    status: str
    headers: Headers
    server_write: Callable[[bytes], object]
    method: str
    peer: str
    #: Whether the application has called start_response, and the server has been told.
    started: bool
    committed: bool
    #: Number of bytes of the application's write(), after the server has been told.
    written: int

    def start_response(
        self, status: str, headers: Headers, exc_info: OptExcInfo | None = None
    ) -> Callable[[bytes], object]:
        """PEP 3333's, which also takes exc_info by keyword, as servers do."""
        if self.started and not exc_info:
            raise AssertionError("start_response called a second time without exc_info")
        self.started = True
        self.status = status
        self.headers = headers
        if not self.committed:
            # A call that this one replaces never reaches the server, nor does its exc_info:
            # uWSGI fails on exc_info in a first call.
            return self.write
        more = () if exc_info is None else (exc_info,)
        self.server_write = self.server_start_response(status, headers, *more)
        return self.server_write

    def write(self, data: bytes) -> None:
        """PEP 3333's write(). The server needs the header before these bytes."""
        self.commit()
        self.server_write(data)
        self.written += len(data)

    def may_have_body(self) -> bool:
        """Whether there may be a body. If not, frameworks drop the file and keep its wrapper."""
        return self.method != "HEAD" and not (self.started and never_has_body(self.status))

    def commit(self) -> None:
        """Stop remembering: pass on to the server what is known, and all later calls."""
        if not self.committed:
            self.committed = True
            self.written = 0
            if self.started:
                self.server_write = self.server_start_response(self.status, self.headers)
