"""What became of a file, and why a sender did not send it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Declined", "Transfer"]


@dataclass(slots=True)
class Declined:
    """A sender does not send: it has touched nothing."""

    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A response that was a file, when it is over: what ``on_sent`` is called with.

    Who keeps it keeps the request's environ, and by an error's traceback the file.
    """

    #: "wsgi.file_wrapper" (the server's own), "os.sendfile", "read", the header by which
    #: it was left to a proxy, or "none" where there is nothing to send, as for HEAD.
    sender: str
    #: The status as it was sent, "206 Partial Content".
    status: str
    #: Position in the file of the first byte; None: not known, or several ranges.
    offset: int | None
    #: Bytes that were to be sent; None: not known before.
    count: int | None
    #: Bytes that the server, or its socket, has taken; None: only the server knows.
    #: Less than count if the client left. Up to 64 KiB are handed over at once.
    sent: int | None
    #: From when the header was ready to the end of the response.
    seconds: float
    #: What ended it before its time; None also if the server has not told.
    error: BaseException | None
    #: The request's. Not in the repr, as there are passwords in it.
    environ: WSGIEnvironment = field(repr=False)
