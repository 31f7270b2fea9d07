"""What became of a file: for the log, for who counts, and for who asks why."""

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

__all__ = [
    "Declined",
    "Transfer",
    "Watch",
    "announce",
    "logger",
    "one_line",
    "warn_once",
    "watching",
]

logger: logging.Logger = logging.getLogger("wsgifile")


#: Who is told of each response that is a file, besides on_sent: ``--explain`` is.
watching: list[Callable[[Send, Watch, Transfer], object]] = []


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


@dataclass(slots=True)
class Watch:
    """Notes on one response, which are made only if somebody wants to know."""

    environ: WSGIEnvironment = field(repr=False)
    on_sent: Callable[[Transfer], object] | None
    #: Whether it might have been left to a proxy.
    offload: bool
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
        try:
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug(
                    "%s: %s bytes of %s by %s in %.4f s%s",
                    transfer.status,
                    "?" if sent is None else sent,
                    one_line(name_of(region.filelike)),
                    sender,
                    transfer.seconds,
                    "" if error is None else f", ended by {one_line(repr(error))}",
                )
        except Exception:
            # Of somebody else's name or repr: no reason for a response to fail.
            logger.exception("a file cannot be named")
        for watcher in watching:
            watcher(send, self, transfer)
        if self.on_sent is not None:
            try:
                self.on_sent(transfer)
            except Exception:
                logger.exception("on_sent failed")


def one_line(text: str) -> str:
    """The text as a line of a log, in which it cannot forge another."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


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
        logger.warning(one_line(message % args))
