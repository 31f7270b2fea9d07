"""The arguments of the command line, and running the server."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import signal
import socket
import sys
import threading
import webbrowser
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NoReturn

from .. import FileWrapperMiddleware, __version__
from ..blocks import DEFAULT_BLOCK_SIZE
from ..log import one_line
from .load import LoadError, load, need

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["main"]


#: Number of bytes of a response that is not a file which a client may leave unread before the
#: thread waits. They are in a temporary file, so this bounds the disk space of a connection.
_WATERMARK = 64 << 20


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


_EXAMPLES = """\
examples:
  wsgifile                          this directory, on http://127.0.0.1:8080/
  wsgifile --open ~/Videos          a directory, and open it in the browser
  wsgifile film.mp4                 a film; players can seek in it
  wsgifile --host 0.0.0.0 share     a directory, for the whole network to read
  wsgifile package.module:app       a WSGI application from this directory
  wsgifile --explain . /film.mp4 -H 'Range: bytes=0-99'

environment:
  PORT      the port, if --port is not given
  BROWSER   the browser for --open

exit status:
  0 after Ctrl-C or SIGTERM
  2 if it cannot start; one line on stderr says why
"""


def _parser() -> _Parser:
    parser = _Parser(
        prog="wsgifile",
        usage="wsgifile [options] [TARGET]\n"
        "       wsgifile [options] --explain [-H 'NAME: VALUE'] TARGET [PATH]",
        description="Serve a directory, a file or a WSGI application with waitress, through\n"
        "FileWrapperMiddleware. Press Ctrl-C to stop.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target",
        nargs="?",
        default=".",
        metavar="TARGET",
        help="a directory, a file, or package.module:callable (default: this directory)",
    )
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="what --explain asks for (default: /)"
    )
    parser.add_argument("--version", action="version", version=f"wsgifile {__version__}")
    group = parser.add_argument_group("where to listen")
    group.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    group.add_argument(
        "--port",
        type=_int_between(0, 65535),
        help="TCP port; 0: any free port (default: $PORT, or 8080)",
    )
    group.add_argument("--open", action="store_true", help="open the page in the browser")
    group = parser.add_argument_group("a directory", "Listed and served only with these options:")
    group.add_argument(
        "--hidden",
        action="store_true",
        help="names that begin with a dot (.git, .env), and all below them",
    )
    group.add_argument(
        "--follow-symlinks",
        action="store_true",
        help="targets of symbolic links that are outside the directory",
    )
    group = parser.add_argument_group("serving")
    group.add_argument("--quiet", action="store_true", help="do not log each request to stderr")
    group.add_argument(
        "--threads",
        type=_int_between(1, 1024),
        default=4,
        help="threads that run the application (default: %(default)s)",
    )
    group.add_argument(
        "--block-size",
        type=_int_between(1, 2**30),
        default=DEFAULT_BLOCK_SIZE,
        metavar="BYTES",
        help="bytes to read at once if a file has to be read (default: %(default)s)",
    )
    group = parser.add_argument_group("to see how a response is sent, and why")
    group.add_argument(
        "--explain",
        action="store_true",
        help="make one request for PATH, show what happened and why, and exit",
    )
    group.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        help="a header field of that request, such as 'Range: bytes=0-99'",
    )
    return parser


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    # RFC 9110, section 5.6.2: a name is a token.
    token = re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
    if not (colon and token) or not re.fullmatch(r"[\t -~\x80-\xff]*", value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 'Name: value'")
    return name, value.strip()


def _int_between(least: int, most: int) -> Any:
    def number(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not (digits and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return number


def main(argv: list[str] | None = None) -> int:
    """Run the command line until Ctrl-C, and return the exit status."""
    parser = _parser()
    args = parser.parse_intermixed_args(argv)
    # At WARNING this logger reports each request that waits for a thread. With browsers that
    # happens all the time.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # This one logs the path of a request as it is, with the line ends that a client sent.
    logging.getLogger("waitress").addFilter(_in_one_line)
    try:
        need("waitress")
        app, path = load(args.target, hidden=args.hidden, follow_symlinks=args.follow_symlinks)
    except LoadError as error:
        parser.error(str(error))
    if args.explain:
        return _explain(parser, app, args.path or "/", args.header)
    if args.path is not None or args.header:
        parser.error("PATH and --header are for --explain")
    return _serve(parser, args, app, path)


def _serve(parser: _Parser, args: argparse.Namespace, app: WSGIApplication, path: str) -> int:
    from waitress.server import create_server

    from ..servers.waitress import Channel
    from .access_log import AccessLog

    through = FileWrapperMiddleware if args.quiet else AccessLog
    app = through(app, block_size=args.block_size)
    port = _port(parser) if args.port is None else args.port
    sockets: dict[int, Any] = {}
    try:
        server = create_server(
            app,
            sockets,
            host=args.host,
            port=port,
            threads=args.threads,
            outbuf_high_watermark=_WATERMARK,
        )
    except (OSError, ValueError) as error:
        parser.error(f"cannot listen on {args.host} port {port}: {_reason(error)}")

    # From the first request on, not only once a file is sent.
    for each in sockets.values():
        each.channel_class = Channel

    wakes, woken = socket.socketpair()
    wakes.setblocking(False)
    # Python writes to it when a signal comes, also just before the loop begins to wait. A handler
    # would then run after the wait.
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    _drain(woken, sockets)
    signals = (signal.SIGINT, signal.SIGTERM)
    stopped = False

    def stop(*_: object) -> None:
        # An exception would come anywhere: where a lock is held, or where an application catches
        # it.
        nonlocal stopped
        stopped = True
        for number in signals:
            signal.signal(number, signal.SIG_DFL)  # A second Ctrl-C ends the process at once.

    # SIGTERM needs a handler: without one, it does not end the first process of a container.
    for number in signals:
        signal.signal(number, stop)
    addresses = getattr(server, "effective_listen", None) or [
        (server.effective_host, server.effective_port)
    ]
    _announce(addresses, one_line(args.target), path, open_it=args.open)
    # As server.run() does it, but step by step.
    with suppress(KeyboardInterrupt, SystemExit):
        while not stopped:
            server.asyncore.loop(timeout=1.0, map=sockets, count=1)
    signal.set_wakeup_fd(-1)
    server.task_dispatcher.shutdown()
    server.close()
    wakes.close()
    woken.close()
    return 0


def _drain(sock: socket.socket, sockets: dict[int, Any]) -> None:
    """Have waitress's main loop wake up when this socket has something to read, and read it."""
    from waitress.wasyncore import dispatcher

    class Drain(dispatcher):  # type: ignore[misc]
        def handle_read(self) -> None:
            self.recv(1000)

        def writable(self) -> bool:
            return False

    Drain(sock, sockets)


def _in_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), ()
    return True


def _announce(addresses: list[tuple[str, int]], target: str, path: str, *, open_it: bool) -> None:
    for host, port in addresses:
        if not ip_address(host).is_loopback:
            _say(f"{target} is open to anyone who can reach {host} port {port}")
        print(f"Serving {target} on {_url(host, port)}{path}", flush=True)
    if open_it:
        host, port = addresses[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        url = _url(host, port) + path
        # In a thread: some wait until the browser ends, and the browser waits for the server.
        threading.Thread(target=_open, args=(url,), daemon=True).start()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _port(parser: _Parser) -> int:
    try:
        port: int = _int_between(0, 65535)(os.environ.get("PORT") or "8080")
    except argparse.ArgumentTypeError as error:
        parser.error(f"environment variable PORT: {error}")
    return port


def _open(url: str) -> None:
    with suppress(webbrowser.Error):
        if webbrowser.open(url):
            return
    _say(f"no browser has opened {url}")


def _say(message: str) -> None:
    print(f"wsgifile: {message}", file=sys.stderr, flush=True)


def _explain(
    parser: _Parser, app: WSGIApplication, path: str, headers: list[tuple[str, str]]
) -> int:
    from .explain import explain

    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        parser.error(f"{path!r} is not the path of a URL: that begins with / and is quoted")
    for line in explain(app, path, headers):
        print(line)
    return 0


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the port is in use"
    return getattr(error, "strerror", None) or str(error)
