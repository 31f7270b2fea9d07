"""What is sent, as a value, and who is told how it ended."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from .blocks import BlockReader, ChainedReader, FileLike, name_of
from .log import logger, one_line
from .page_cache import is_stale
from .plan import Part, Plan
from .read_ahead import FIRST_OF_STORE, ReadAhead
from .recognise import FileRegion, FileSlice
from .sources import Forwards
from .transfer import Declined, Transfer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["Send", "Watch", "watchers"]

#: Called at the end of each response that is a file, besides on_sent. For ``--explain``.
watchers: list[Callable[[Send, Watch, Transfer], object]] = []


@dataclass(slots=True)
class Watch:
    """Notes on one response. They are made only if somebody wants to know how it ends."""

    environ: WSGIEnvironment = field(repr=False)
    on_sent: Callable[[Transfer], object] | None
    #: Whether the file might have been left to a proxy.
    offload: bool
    began: float = field(default_factory=time.perf_counter)
    #: The :class:`~wsgifile.server.Server` that was found.
    server: Any = None
    #: Senders that were asked and declined, with the reason.
    declined: list[tuple[str, Declined]] = field(default_factory=list)

    def end(self, send: Send, sender: str, sent: int | None, error: BaseException | None) -> None:
        """The response is over. To be called once."""
        transfer = Transfer(
            sender=sender,
            status=send.plan.status,
            offset=send.offset,
            count=send.plan.count,
            sent=sent,
            seconds=time.perf_counter() - self.began,
            error=error,
            environ=self.environ,
        )
        try:
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug(
                    "%s: %s bytes of %s by %s in %.4f s%s",
                    transfer.status,
                    "?" if sent is None else sent,
                    one_line(name_of(send.region.filelike)),
                    sender,
                    transfer.seconds,
                    "" if error is None else f", ended by {one_line(repr(error))}",
                )
        except Exception:
            # The name or repr is somebody else's code. The response must not fail by it.
            logger.exception("a file cannot be named")
        for watcher in watchers:
            watcher(send, self, transfer)
        if self.on_sent is not None:
            try:
                self.on_sent(transfer)
            except (Exception, SystemExit):
                # The server's main loop may have called us, and SystemExit would end it. What
                # others raise here must pass: Ctrl-C, gevent's and asyncio's ends of a task.
                logger.exception("on_sent failed")


@dataclass(slots=True)
class Send:
    """What is to be sent."""

    #: What the application returned, to be closed at the end.
    app_iter: object
    region: FileRegion
    plan: Plan
    #: Number of bytes to read at once.
    block_size: int
    #: Number of blocks to read ahead, of a file whose read() may block. None: the default for
    #: its type.
    read_ahead: int | None
    watch: Watch | None = None
    #: Seconds that the client may take nothing.
    send_timeout: float = 60.0
    #: The largest number of responses of this process that are sent in the background.
    background: int = 0
    #: Whether the kernel may send the file by itself.
    sendfile: bool = True

    @property
    def offset(self) -> int | None:
        """Position of the first byte in the file; None: not known, or several ranges."""
        parts = self.plan.parts
        if len(parts) > 1 or isinstance(parts[0], bytes) or not self.region.seek:
            return None
        return parts[0][0]

    @property
    def no_sendfile(self) -> Declined | None:
        """Whether the bytes have to be read, although the kernel could send them by itself."""
        if not self.sendfile:
            return Declined("sendfile is off")
        kernel, status = self.region.kernel, self.region.status
        if kernel is not None and status is not None and is_stale(kernel.fileno(), status.st_dev):
            return Declined("the kernel may send old bytes of a file on this file system")
        return None

    @property
    def depth(self) -> int:
        """Number of blocks to read ahead of the client, in another thread; 0: none."""
        source = self.region.source
        if self.read_ahead is None:
            return 0 if source is None else source.read_ahead
        return 0 if self.region.is_local else self.read_ahead

    def blocks(self) -> BlockReader | ChainedReader | ReadAhead:
        """The bytes to send, by read()."""
        return self._read_ahead(self.read_now())

    def read_now(self) -> BlockReader | ChainedReader:
        """The same, without another thread."""
        return self._reader_of(self.plan.parts)

    def described(self) -> BlockReader | ChainedReader | ReadAhead:
        """The bytes that the header describes: for HEAD, those that GET would get."""
        return self._read_ahead(self._reader_of(self.plan.described or self.plan.parts))

    def _read_ahead(
        self, reader: BlockReader | ChainedReader
    ) -> BlockReader | ChainedReader | ReadAhead:
        """The bytes of this reader, read ahead of the client if that is any good."""
        depth = self.depth
        if not depth or isinstance(reader, ChainedReader) or reader.remaining == 0:
            return reader
        if not reader.read_size:
            return ReadAhead(reader, depth, self.block_size)
        size, reader.read_size = reader.read_size, 0
        return ReadAhead(reader, depth, size, FIRST_OF_STORE)

    def _reader_of(self, parts: tuple[Part, ...]) -> BlockReader | ChainedReader:
        first, *more = parts
        region, in_parts = self.region, bool(more) or isinstance(first, bytes)
        filelike, seek = region.filelike, region.seek
        if region.source is not None and region.source.reader is not None:
            filelike = region.source.reader
        if not seek and (in_parts or first[0] != region.start):
            filelike, seek = Forwards(filelike), True
        if in_parts:
            return ChainedReader(map(partial(self._reader, filelike, seek), parts))
        return self._reader(filelike, seek, first)

    def _reader(self, filelike: FileLike, seek: bool, part: Part) -> BlockReader:
        if isinstance(part, bytes):
            return BlockReader(io.BytesIO(part), 0, len(part))
        region, (start, stop) = self.region, part
        if stop is None:
            # Nobody was promised how many bytes come, so the file may end before the limit.
            return BlockReader(filelike, start, region.limit, seek_first=seek, exact=False)
        reader, source = BlockReader(filelike, start, stop, seek_first=seek), region.source
        if source is not None:
            reader.read_size = source.read_size
            reader.check_end = source.checks_end and stop == region.end
        return reader

    def file_slice(self) -> FileSlice | Declined:
        """The bytes to send as a slice of a kernel file, if they are one."""
        region, plan = self.region, self.plan
        if region.kernel is None:
            return Declined(region.reason)
        if plan.count is None or not plan.sized:
            return Declined("there is no Content-Length")
        if self.offset is None:
            return Declined("several ranges, or the text of an error, are not one slice of it")
        return FileSlice(region.kernel, self.offset, self.offset + plan.count)

    def rest(self, sent: int) -> list[memoryview | tuple[int, int]] | Declined:
        """What follows the first ``sent`` bytes: bytes, and ranges of the kernel file."""
        region, plan, data = self.region, self.plan, None
        if plan.count is None or not plan.sized:
            return Declined("there is no Content-Length")
        if region.kernel is None:
            if not (region.is_local and isinstance(region.filelike, io.BytesIO)):
                return Declined(region.reason)
            # It copies nothing. A view of the object itself would prevent its close(). A
            # sub-class that reads as BytesIO does may still have another getvalue().
            data = memoryview(io.BytesIO.getvalue(region.filelike))
        rest: list[memoryview | tuple[int, int]] = []
        for part in plan.parts:
            if isinstance(part, bytes):
                piece: memoryview | tuple[int, int] = memoryview(part)[sent:]
                length, left = len(part), len(part) - sent
            else:
                start, stop = part
                assert stop is not None
                length, left = stop - start, stop - start - sent
                piece = (start + sent, stop) if data is None else data[start + sent : stop]
            if left > 0:
                rest.append(piece)
            sent = max(0, sent - length)
        return rest
