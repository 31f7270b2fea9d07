"""How sending a file ended, and why a sender did not send it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Declined", "Transfer"]


@dataclass(slots=True)
class Declined:
    """A sender does not send. It has touched nothing: no byte, no position, no header."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """A response that was a file, when it is over: the argument of ``on_sent``.

    Keeping it keeps the request's environ and, if there was an error, the file.
    """

    #: "wsgi.file_wrapper" (the server's own), "os.sendfile", "read", "background" (a thread for
    #: all slow clients), the header that left the file to a proxy or to a store, or "none" if
    #: there was nothing to send, as for HEAD.
    sender: str
    #: The status as it was sent: "206 Partial Content".
    status: str
    #: Position of the first byte in the file; None: not known, or several ranges.
    offset: int | None
    #: Number of bytes to send; None: it was not known before.
    count: int | None
    #: Number of bytes that the server or its socket took; None: only the server knows. It
    #: is less than count if the client left. A file of up to 64 KiB is handed over at once.
    sent: int | None
    #: Seconds from when the header was ready to the end of the response.
    seconds: float
    #: What ended the response early: FileReadError if it was the file; an OSError if it was the
    #: connection, such as TimeoutError after ``send_timeout``. None: nothing, or the server did
    #: not say.
    error: BaseException | None
    #: The request's environ. Not in the repr, because it may hold passwords.
    environ: WSGIEnvironment = field(repr=False)
