"""The arguments of the command line. ``docs/command_line.rst`` has more on each."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any, NoReturn

from .. import __version__
from ..blocks import DEFAULT_BLOCK_SIZE
from ..log import one_line

__all__ = ["Parser", "check", "go_to", "make_parser", "port_of_environment", "with_dashes"]

#: By hand, because argparse takes more than a screen for it. A test compares it with the options.
_HELP = f"""\
usage: wsgifile [options] [TARGET ...]
       wsgifile [options] --explain [-H 'NAME: VALUE'] TARGET [PATH]

Serve directories, files or a WSGI application. Press Ctrl-C to stop.
TARGET: a directory (default: this one), a file, or package.module:callable

  -b, --bind ADDRESS   listen there (default: 127.0.0.1; 0.0.0.0: all networks)
  -p, --port PORT      TCP port; 0: any free one (default: $PORT, or 8080)
  --open               open the page in the browser ($BROWSER)

who may read it:
  --auth USER:PASSWORD ask for them (better in $WSGIFILE_AUTH: ps shows this)
  --cert FILE, --key FILE   serve https:// with this certificate and key (PEM)
  --cors               let the scripts of other sites read it

of a directory:
  --hidden             serve names that begin with a dot, and all below them
  --follow-symlinks    serve targets of symbolic links that are outside of it
  --zip                offer each as a zip archive; its download can be resumed

serving:
  --quiet              do not log each request to stderr
  --threads N          threads (default: 4, or 32 for https and for --zip)
  --block-size BYTES   to read at once if files are read (default: {DEFAULT_BLOCK_SIZE})

  --chdir DIR          go there first: TARGET and its imports are from there
  --explain            ask for PATH, show how it was sent and why, and exit
  -H, --header 'NAME: VALUE'   a header field of that request
  --version, -h, --help

examples:
  wsgifile --open ~/Videos           a directory, in the browser
  wsgifile -b 0.0.0.0 film.mp4 pics  for a phone; with segno, also as a QR code
  wsgifile --explain . /film.mp4 -H 'Range: bytes=0-99'

Exit status: 0 after Ctrl-C or SIGTERM; 2 if it cannot start.
"""


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}\n")

    def format_help(self) -> str:
        return _HELP


def make_parser() -> Parser:
    """The parser of all arguments."""
    parser = Parser(prog="wsgifile")
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET")
    add("--version", action="version", version=f"wsgifile {__version__}")
    # http.server has the first, and earlier versions of ours had --host.
    add("-b", "--bind", "--host", dest="host", default="127.0.0.1")
    add("-p", "--port", type=_int_between(0, 65535))
    add("--open", action="store_true")
    add("--auth", type=_user_and_password)
    add("--cert")
    add("--key")
    add("--cors", action="store_true")
    add("--hidden", action="store_true")
    add("--follow-symlinks", action="store_true")
    add("--zip", action="store_true")
    add("--quiet", action="store_true")
    add("--threads", type=_int_between(1, 1024))
    add("--block-size", type=_int_between(1, 2**30), default=DEFAULT_BLOCK_SIZE)
    add("--chdir")
    add("--explain", action="store_true")
    add("-H", "--header", action="append", default=[], type=_header)
    return parser


def with_dashes(argv: list[str]) -> list[str]:
    """The arguments, where those after ``--`` are targets, also if they begin with a dash.

    parse_intermixed_args() takes these for options nevertheless.
    """
    if "--" not in argv:
        return argv
    at = argv.index("--")
    return argv[:at] + [f"./{each}" if each.startswith("-") else each for each in argv[at + 1 :]]


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse options that do not fit together, and take the password of the environment."""
    secret = os.environ.pop("WSGIFILE_AUTH", None)
    # An empty one is an error, or a slip of the finger would serve without a password.
    if secret is not None and args.auth is None:
        try:
            args.auth = _user_and_password(secret)
        except argparse.ArgumentTypeError as error:
            parser.error(f"environment variable WSGIFILE_AUTH: {error}")
    for wrong, message in (
        (args.explain and len(args.targets) > 2, "--explain takes one TARGET and one PATH"),
        (args.header and not args.explain, "--header is for --explain"),
        (args.key and not args.cert, "--key needs --cert"),
        # Browsers ask without the password whether they may ask with it.
        (args.auth and args.cors, "--auth and --cors do not go together"),
    ):
        if wrong:
            parser.error(message)


def go_to(parser: Parser, directory: str) -> None:
    """Make this the current directory."""
    try:
        os.chdir(directory)
    except OSError as error:
        parser.error(f"cannot go to {directory}: {error.strerror}")


def port_of_environment(parser: Parser) -> int:
    """The port if --port is not given."""
    try:
        port: int = _int_between(0, 65535)(os.environ.get("PORT") or "8080")
    except argparse.ArgumentTypeError as error:
        parser.error(f"environment variable PORT: {error}")
    return port


def _user_and_password(text: str) -> str:
    user, _, password = text.partition(":")
    if not (user and password):
        # Without the text, which has a password.
        raise argparse.ArgumentTypeError("not of the form user:password")
    return text


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
