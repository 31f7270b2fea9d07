"""Who may read what is served: a password (``--auth``), and pages of other sites (``--cors``).

Without either, what only this machine can reach is for its own names: see :class:`Local`.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import socket
from base64 import b64decode
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Cors", "Local", "Password"]


class Password:
    """The application, for those who know the user name and the password.

    Anybody else gets 401 before anything is looked up. The application does not see the
    password, so it cannot log it.

    :param secret: ``user:password``.
    """

    def __init__(self, app: WSGIApplication, secret: str) -> None:
        self._app = app
        self._user = secret.partition(":")[0]
        self._digest = _digest(secret.encode(errors="surrogateescape"))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = _credentials(environ.pop("HTTP_AUTHORIZATION", ""))
        # Digests are of one length, so the time tells nothing of the secret's own.
        if not hmac.compare_digest(_digest(given), self._digest):
            start_response("401 Unauthorized", _CHALLENGE)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [_SORRY]
        environ["REMOTE_USER"] = self._user
        return self._app(environ, start_response)


_SORRY = b"A user name and a password are needed.\n"
_CHALLENGE = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Length", str(len(_SORRY))),
    ("Cache-Control", "no-store"),
    # RFC 7617. Browsers send the password in UTF-8.
    ("WWW-Authenticate", 'Basic realm="wsgifile", charset="UTF-8"'),
]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _credentials(field: str) -> bytes:
    """What a Basic Authorization field has; b"" for any other field."""
    scheme, _, encoded = field.partition(" ")
    if scheme.lower() == "basic":
        try:
            return b64decode(encoded.strip().encode("latin-1"), validate=True)
        except binascii.Error:
            pass
    return b""


class Local:
    """The application, for requests that ask for this machine by a name of its own.

    The owner of any name can have it lead to 127.0.0.1 once a browser has loaded a page from there
    (DNS rebinding). For the browser, that page and our files are then one site, so its scripts can
    read them. The Host field still has that name. A browser sends no password to it.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _is_own_name(environ.get("HTTP_HOST", "")):
            return self._app(environ, start_response)
        start_response("421 Misdirected Request", _NOT_HERE)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [_ELSEWHERE]

    @staticmethod
    def is_for(host: str) -> bool:
        """Whether only this machine can reach what listens on this address."""
        try:
            return ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return host == "localhost"


_ELSEWHERE = b"""\
This answers only to names of this machine, such as localhost, so that pages of other sites cannot
read it. With --auth, or with --bind and the address of a network, it answers to any name.
"""
_NOT_HERE = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Length", str(len(_ELSEWHERE))),
    ("Cache-Control", "no-store"),
]


def _is_own_name(host: str) -> bool:
    """Whether a Host field has an address, or a name that nobody else can have."""
    name = re.sub(r":[0-9]*\Z", "", host).lower().rstrip(".")
    return (
        "." not in name
        or name.endswith(".localhost")
        or name == socket.gethostname().lower()
        # No domain ends with a number, but curl takes 127.1, and a browser [::ffff:127.0.0.1].
        or re.fullmatch(r"[0-9.]+|\[.*\]", name) is not None
    )


class Cors:
    """The application, whose answers the scripts of any site may read."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "OPTIONS":
            start_response("204 No Content", [*_SHARED, *_PREFLIGHT])
            return []

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, [*headers, *_SHARED], *exc_info)

        begin: Callable[..., Any] = start
        return self._app(environ, begin)


_SHARED = [
    ("Access-Control-Allow-Origin", "*"),
    (
        "Access-Control-Expose-Headers",
        "Accept-Ranges, Content-Encoding, Content-Length, Content-Range, ETag",
    ),
]
_PREFLIGHT = [
    ("Access-Control-Allow-Methods", "GET, HEAD"),
    ("Access-Control-Allow-Headers", "If-None-Match, If-Range, Range"),
    ("Access-Control-Max-Age", "600"),
]
