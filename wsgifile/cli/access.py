"""Who may read what is served: a password (``--auth``), and pages of other sites (``--cors``)."""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Cors", "Password"]


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
