"""The servers of the command line: waitress, and cheroot for TLS, which waitress has not."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ssl import SSLError
from typing import TYPE_CHECKING, Any, Protocol

from ..log import one_line

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["CertificateError", "Serving", "over_tls", "over_waitress", "woken_by_signals"]

#: Number of bytes of a response that is not a file which a client may leave unread before the
#: thread waits. They are in a temporary file, so this bounds the disk space of a connection.
_WATERMARK = 64 << 20
#: Number of bytes of a request's header, as in waitress.
_HEADER = 256 << 10
#: The largest number of bytes of a request's body. An application may take uploads, and gets what
#: waitress allows. Files need none: waitress would keep it on the disk, and cheroot in memory.
_BODY_FOR_APPLICATION, _BODY_FOR_FILES = 1 << 30, 64 << 10
#: Number of threads where a slow download has one to itself: over TLS, because cheroot encrypts
#: in it, and of a zip archive, which is made in it.
_MANY_THREADS = 32
#: Number of connections. An idle one is kept for two minutes.
_CONNECTIONS = 500


class CertificateError(Exception):
    """The certificate or its key cannot be used."""


class Serving(Protocol):
    """A server that listens."""

    #: Each host and port.
    addresses: list[tuple[str, int]]

    def run(self, stopped: Callable[[], bool], woken: socket.socket) -> None:
        """Serve until stopped() is true, and end what is under way.

        :param woken: can be read when stopped() may have changed.
        """
        ...


@contextmanager
def woken_by_signals() -> Iterator[socket.socket]:
    """A socket that has something to read when a signal has come.

    Python writes to it also just before a wait begins. A handler would then run after the wait.
    """
    read, write = socket.socketpair()
    with read, write:
        write.setblocking(False)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        try:
            yield read
        finally:
            signal.set_wakeup_fd(-1)


def over_waitress(
    app: WSGIApplication, args: argparse.Namespace, port: int, *, files: bool
) -> Serving:
    """waitress, listening.

    :param files: whether the application is one of ours for files.
    :raises OSError: if it cannot listen; ValueError: if there is no such address.
    """
    from waitress.server import create_server

    from ..servers.waitress import Channel

    sockets: dict[int, Any] = {}
    server = create_server(
        app,
        sockets,
        host=args.host,
        port=port,
        threads=args.threads or (_MANY_THREADS if args.zip else 4),
        outbuf_high_watermark=_WATERMARK,
        max_request_body_size=_largest_body(files) + 1,  # It refuses this number, too.
        connection_limit=_CONNECTIONS,
    )
    # From the first request on, not only once a file is sent.
    for each in sockets.values():
        each.channel_class = Channel
    return _Waitress(server, sockets)


def _largest_body(files: bool) -> int:
    return _BODY_FOR_FILES if files else _BODY_FOR_APPLICATION


class _Waitress:
    def __init__(self, server: Any, sockets: dict[int, Any]) -> None:
        self._server, self._sockets = server, sockets
        self.addresses = getattr(server, "effective_listen", None) or [
            (server.effective_host, server.effective_port)
        ]

    def run(self, stopped: Callable[[], bool], woken: socket.socket) -> None:
        _drain(woken, self._sockets)
        # As server.run() does it, but step by step. And by poll(), because select() fails with a
        # descriptor above 1023. Clients can have so many files opened.
        loop = self._server.asyncore.loop
        with suppress(KeyboardInterrupt, SystemExit):
            while not stopped():
                loop(timeout=1.0, use_poll=True, map=self._sockets, count=1)
        self._server.task_dispatcher.shutdown()
        self._server.close()


def _drain(sock: socket.socket, sockets: dict[int, Any]) -> None:
    """Have waitress's main loop wake up when this socket has something to read, and read it."""
    from waitress.wasyncore import dispatcher

    class Drain(dispatcher):  # type: ignore[misc]
        def handle_read(self) -> None:
            self.recv(1000)

        def writable(self) -> bool:
            return False

    Drain(sock, sockets)


def over_tls(app: WSGIApplication, args: argparse.Namespace, port: int, *, files: bool) -> Serving:
    """cheroot with TLS, listening.

    :param files: whether the application is one of ours for files.
    :raises OSError: if it cannot listen; CertificateError: if it has no valid certificate.
    """
    adapter, cheroot = _classes()
    server = cheroot((args.host, port), app, numthreads=args.threads or _MANY_THREADS)
    server.max_request_header_size = _HEADER
    server.max_request_body_size = _largest_body(files)
    server.requests._force_close = _cut_off
    try:
        server.ssl_adapter = adapter(args.cert, args.key or args.cert)
    except SSLError as error:
        raise CertificateError("they are not a certificate and its key, as PEM") from error
    except OSError as error:
        raise CertificateError(error.strerror) from error
    try:
        server.prepare()
    except OSError as error:
        raise server.refused or error from None
    return _Cheroot(server)


def _classes() -> tuple[Any, Any]:
    """cheroot's adapter for TLS and its server, with changes."""
    from cheroot.ssl.builtin import BuiltinSSLAdapter
    from cheroot.wsgi import Server

    class Adapter(BuiltinSSLAdapter):
        """The handshake is a part of the first read, so it has the thread of the request.

        cheroot's own is done in the thread that accepts: a client that connects and sends
        nothing would stop the server for ten seconds.
        """

        def wrap(self, sock: Any) -> tuple[Any, dict[str, Any]]:
            wrapped = self.context.wrap_socket(
                sock, server_side=True, do_handshake_on_connect=False
            )
            return wrapped, {"wsgi.url_scheme": "https", "HTTPS": "on"}

    class Patient(Server):
        """A connection gets a thread when its client has sent something, not before.

        As in cheroot's own, a client that sends nothing is cut off after ten seconds.
        """

        #: What prepare() knows, but raises as a text only.
        refused: OSError | None = None

        def bind(self, *args: Any) -> Any:
            try:
                return super().bind(*args)
            except OSError as error:
                self.refused = error
                raise

        def process_conn(self, conn: Any) -> None:
            if getattr(conn, "has_begun", False):
                super().process_conn(conn)
            else:
                conn.has_begun = True
                self.put_conn(conn)

        def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:
            # Clients that leave, or speak no TLS, are no news.
            if not isinstance(sys.exc_info()[1], OSError):
                super().error_log(one_line(msg), level, traceback)

    return Adapter, Patient


def _cut_off(conn: Any) -> None:
    """End a connection on which a response is under way five seconds after Ctrl-C.

    cheroot's own calls SSLSocket.shutdown(), which ends the encryption before anything else: the
    rest of the response would leave in the clear. It also ends reading only, so a slow client
    would keep the process alive.
    """
    if conn is not None:
        with suppress(OSError):  # The client has left.
            socket.socket.shutdown(conn.socket, socket.SHUT_RDWR)


class _Cheroot:
    def __init__(self, server: Any) -> None:
        self._server = server
        self.addresses = [tuple(server.bind_addr[:2])]

    def run(self, stopped: Callable[[], bool], woken: socket.socket) -> None:
        threading.Thread(target=self._server.serve, daemon=True).start()
        while not stopped():
            woken.recv(1000)
        self._server.stop()
