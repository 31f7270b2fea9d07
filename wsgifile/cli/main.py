"""The command ``wsgifile``: run the server, or explain a response."""

from __future__ import annotations

import argparse
import errno
import logging
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .. import FileWrapperMiddleware
from ..log import one_line
from .announce import announce
from .arguments import Parser, parser, port_of_environment
from .load import LoadError, load, need

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["main"]


#: Number of bytes of a response that is not a file which a client may leave unread before the
#: thread waits. They are in a temporary file, so this bounds the disk space of a connection.
_WATERMARK = 64 << 20


def main(argv: list[str] | None = None) -> int:
    """Run the command line until Ctrl-C, and return the exit status."""
    line = parser()
    args = line.parse_intermixed_args(argv)
    # At WARNING this logger reports each request that waits for a thread. With browsers that
    # happens all the time.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # This one logs the path of a request as it is, with the line ends that a client sent.
    logging.getLogger("waitress").addFilter(_in_one_line)
    targets: list[str] = args.targets or ["."]
    targets, paths = (targets[:1], targets[1:]) if args.explain else (targets, [])
    if len(paths) > 1:
        line.error("--explain takes one TARGET and one PATH")
    if args.header and not args.explain:
        line.error("--header is for --explain")
    try:
        need("waitress")
        app, path = load(targets, hidden=args.hidden, follow_symlinks=args.follow_symlinks)
    except LoadError as error:
        line.error(str(error))
    if args.explain:
        return _explain(line, app, *paths, headers=args.header)
    return _serve(line, args, app, ", ".join(map(one_line, targets)), path)


def _serve(
    line: Parser, args: argparse.Namespace, app: WSGIApplication, target: str, path: str
) -> int:
    from waitress.server import create_server

    from ..servers.waitress import Channel
    from .access_log import AccessLog

    through = FileWrapperMiddleware if args.quiet else AccessLog
    app = through(app, block_size=args.block_size)
    port = port_of_environment(line) if args.port is None else args.port
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
        line.error(f"cannot listen on {args.host} port {port}: {_reason(error)}")

    # From the first request on, not only once a file is sent.
    for each in sockets.values():
        each.channel_class = Channel

    wake = next(each.pull_trigger for each in sockets.values() if hasattr(each, "pull_trigger"))
    signals = (signal.SIGINT, signal.SIGTERM)
    stopped = False

    def stop(*_: object) -> None:
        # An exception would come anywhere: where a lock is held, or where an application catches
        # it.
        nonlocal stopped
        stopped = True
        wake()
        for number in signals:
            signal.signal(number, signal.SIG_DFL)  # A second Ctrl-C ends the process at once.

    # SIGTERM needs a handler: without one, it does not end the first process of a container.
    for number in signals:
        signal.signal(number, stop)
    addresses = getattr(server, "effective_listen", None) or [
        (server.effective_host, server.effective_port)
    ]
    announce(addresses, target, path, scheme="http", open_it=args.open)
    # As server.run() does it, but step by step.
    with suppress(KeyboardInterrupt, SystemExit):
        while not stopped:
            server.asyncore.loop(timeout=1.0, map=sockets, count=1)
    server.task_dispatcher.shutdown()
    server.close()
    return 0


def _in_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), ()
    return True


def _explain(
    line: Parser, app: WSGIApplication, path: str = "/", *, headers: list[tuple[str, str]]
) -> int:
    from .explain import explain

    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        line.error(f"{path!r} is not the path of a URL: that begins with / and is quoted")
    for each in explain(app, path, headers):
        print(each)
    return 0


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the port is in use"
    return getattr(error, "strerror", None) or str(error)
