"""What is to be sent, as a value; and who wants to know what becomes of it."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .log import logger, one_line
from .plan import Plan
from .read_ahead import ReadAhead
from .recognise import FileRegion, FileSlice
from .transfer import Declined, Transfer
from .wrapper import FileWrapper, Joined, name_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Send", "Watch", "watching"]

#: Who is told of each response that is a file, besides on_sent: ``--explain`` is.
watching: list[Callable[[Send, Watch, Transfer], object]] = []


@dataclass(slots=True)
class Watch:
    """Notes on one response, which are made only if somebody wants to know."""

    environ: WSGIEnvironment = field(repr=False)
    on_sent: Callable[[Transfer], object] | None
    #: Whether it might have been left to a proxy.
    offload: bool
    began: float = field(default_factory=time.perf_counter)
    #: The server, as far as it was seen.
    server: Any = None
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


@dataclass(slots=True)
class Send:
    """What is to be sent, as a value."""

    #: What the application returned, to be closed at the end.
    app_iter: object
    region: FileRegion
    plan: Plan
    #: Bytes to read at once.
    block_size: int
    #: How many blocks to read ahead, of a file that may let us wait.
    read_ahead: int
    #: Who wants to know what becomes of it.
    watch: Watch | None = None

    def blocks(self) -> FileWrapper | Joined | ReadAhead:
        """The bytes to send by way of read()."""
        plan = self.plan
        if plan.parts is None:
            blocks = self._blocks(plan.start, plan.count)
            # What has a size is on a disk of this machine or in memory.
            if self.read_ahead and self.region.size is None and plan.count != 0:
                return ReadAhead(blocks, self.read_ahead, self.block_size)
            return blocks
        return Joined(
            FileWrapper.bounded(io.BytesIO(part), 0, len(part))
            if isinstance(part, bytes)
            else self._blocks(part[0], part[1] - part[0])
            for part in plan.parts
        )

    def _blocks(self, start: int, count: int | None) -> FileWrapper:
        offset = self.region.offset
        # Of what does not tell its position there are no ranges.
        at = None if offset is None else offset + start
        blocks = FileWrapper.bounded(self.region.filelike, at, count)
        if count is None:
            blocks.remaining = self.region.limit
        return blocks

    def slice(self) -> FileSlice | Declined:
        """The bytes to send as a slice of a kernel file, if they are one."""
        region, plan = self.region, self.plan
        if region.kernel is None or region.offset is None:
            return Declined(region.why)
        if plan.count is None or not plan.sized:
            return Declined("there is no Content-Length")
        if plan.parts is not None:
            return Declined("several ranges, or the text of an error, are no slice of it")
        return FileSlice(region.kernel, region.offset + plan.start, plan.count)
