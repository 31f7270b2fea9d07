"""The command ``wsgifile``: run the server, or explain a response."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from .. import FileWrapperMiddleware
from ..log import one_line
from .access import Cors, Local, Password
from .announce import announce, say, tell
from .arguments import Parser, check, go_to, make_parser, port_of_environment, with_dashes
from .load import LoadError, load, need
from .serving import CertificateError, over_tls, over_waitress, woken_by_signals

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line until Ctrl-C, and return the exit status."""
    parser = make_parser()
    args = parser.parse_intermixed_args(with_dashes(sys.argv[1:] if argv is None else argv))
    # At WARNING this logger reports each request that waits for a thread. With browsers that
    # happens all the time.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # This one logs the path of a request as it is, with the line ends that a client sent.
    logging.getLogger("waitress").addFilter(_in_one_line)
    targets: list[str] = args.targets or ["."]
    targets, paths = (targets[:1], targets[1:]) if args.explain else (targets, [])
    check(parser, args)
    if args.chdir is not None:
        go_to(parser, args.chdir)
    try:
        need("waitress")
        if args.cert:
            need("cheroot")
        app, path = load(
            targets, hidden=args.hidden, follow_symlinks=args.follow_symlinks, zips=args.zip
        )
    except LoadError as error:
        parser.error(str(error))
    if args.explain:
        return _explain(parser, app, *paths, headers=args.header)
    return _serve(parser, args, app, targets=targets, path=path)


def _serve(
    parser: Parser,
    args: argparse.Namespace,
    app: WSGIApplication,
    *,
    targets: list[str],
    path: str,
) -> int:
    from .access_log import AccessLog

    files = os.path.exists(targets[0])  # If not, it is an application.
    app = _guarded(app, args, files=files)
    through = FileWrapperMiddleware if args.quiet else AccessLog
    app = through(app, block_size=args.block_size)
    port = port_of_environment(parser) if args.port is None else args.port
    serve = over_tls if args.cert else over_waitress
    try:
        server = serve(app, args, port, files=files)
    except CertificateError as error:
        parser.error(f"cannot use --cert and --key: {error}")
    except (OSError, ValueError) as error:
        parser.error(f"cannot listen on {args.host} port {port}: {_reason(error)}")

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
    scheme = "https" if args.cert else "http"
    with woken_by_signals() as woken:
        shown = ", ".join(map(one_line, targets))
        exposed = announce(
            server.addresses,
            shown,
            path,
            scheme=scheme,
            open_it=args.open,
            anybody="anyone with the password" if args.auth else "anyone",
        )
        if args.auth and exposed and not args.cert:
            say("the password crosses the network in the clear; --cert encrypts it")
        key = args.key or args.cert
        if key and _is_served(key, targets, hidden=args.hidden):
            say(f"the private key is served, too: {one_line(key)}")
        server.run(lambda: stopped, woken)
    return 0


def _guarded(app: WSGIApplication, args: argparse.Namespace, *, files: bool) -> WSGIApplication:
    """The application, for those who may read it."""
    if args.cors:
        return Cors(app)
    if args.auth:
        return Password(app, args.auth)
    return Local(app) if files and Local.is_for(args.host) else app


def _is_served(path: str, targets: list[str], *, hidden: bool) -> bool:
    """Whether this file is a target, or in one."""
    path = os.path.realpath(path)
    for target in map(os.path.realpath, targets):
        if path == target:
            return True
        begin = os.path.join(target, "")
        names = path.removeprefix(begin).split(os.sep)
        if path.startswith(begin) and (hidden or not any(name.startswith(".") for name in names)):
            return True
    return False


def _in_one_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = one_line(record.getMessage()), ()
    return True


def _explain(
    parser: Parser, app: WSGIApplication, path: str = "/", *, headers: list[tuple[str, str]]
) -> int:
    from .explain import explain

    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        parser.error(f"{path!r} is not the path of a URL: that begins with / and is quoted")
    for each in explain(app, path, headers):
        tell(each)
    return 0


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the port is in use"
    return getattr(error, "strerror", None) or str(error)
