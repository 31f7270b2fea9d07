"""What became of a file: for the log, for who counts, and for who asks why.

All of it goes to the logger ``wsgifile``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .wrapper import name_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .senders import Send

__all__ = ["Declined", "Transfer", "Watch", "announce", "logger", "warn_once"]

logger = logging.getLogger("wsgifile")


class Declined(str):
    """Why a sender does not send: it has touched nothing."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Transfer:
    """A response that was a file, when it is over: what ``on_sent`` is called with."""

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
    #: Less than count if the client left.
    sent: int | None
    #: From when the header was ready to the end of the response.
    seconds: float
    #: What ended it before its time; None also if the server has not told.
    error: BaseException | None
    #: The request's.
    environ: WSGIEnvironment


@dataclass(slots=True)
class Watch:
    """Notes on one response, which are made only if somebody wants to know."""

    environ: WSGIEnvironment
    on_sent: Callable[[Transfer], object] | None
    began: float = field(default_factory=time.perf_counter)
    #: Senders that were asked and declined, and why.
    declined: list[tuple[str, Declined]] = field(default_factory=list)

    def end(self, send: Send, sender: str, sent: int | None, error: BaseException | None) -> None:
        """The response is over. To be called once."""
        plan, region = send.plan, send.region
        offset = None
        if plan.parts is None and region.offset is not None:
            offset = region.offset + plan.start
        transfer = Transfer(
            sender,
            plan.status,
            offset,
            plan.count,
            sent,
            time.perf_counter() - self.began,
            error,
            self.environ,
        )
        logger.debug(
            "%s: %s bytes of %s by %s in %.4f s%s",
            transfer.status,
            "?" if sent is None else sent,
            name_of(region.filelike),
            sender,
            transfer.seconds,
            "" if error is None else f", ended by {error!r}",
            extra={"watch": self, "send": send, "transfer": transfer},
        )
        if self.on_sent is not None:
            try:
                self.on_sent(transfer)
            except Exception:
                logger.exception("on_sent failed")


_told: set[tuple[object, ...]] = set()


def _first_time(*what: object) -> bool:
    if what in _told:
        return False
    _told.add(what)
    return True


def announce(server: str, sender: str) -> None:
    """Log by which sender files leave on this server, the first time in this process."""
    if _first_time(server, sender):
        logger.info("%s: files are sent by %s", server, sender)


def warn_once(message: str, *args: object) -> None:
    """Log a warning, unless it has been in this process."""
    if _first_time(message, *map(str, args)):
        logger.warning(message, *args)
