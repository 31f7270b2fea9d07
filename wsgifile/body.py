"""What the server gets: the blocks to send, and the application's close()."""

from __future__ import annotations

import sys
from functools import partial
from types import FrameType

from .log import announce, logger, one_line
from .read_ahead import ReadAhead
from .send import Send
from .server import Server
from .wrapper import FileReadError, FileWrapper, Joined, close_app_iter

__all__ = ["Body", "Whole", "caller"]


class Closing:
    """Calls close() of what the application returned, once, and tells what was sent.

    However often the server calls ours, and at the latest when the server drops us:
    there are servers that never call it.
    """

    send: Send
    _app_iter: object = None
    #: As in :class:`~wsgifile.Transfer`, like the next one.
    sender: str = "read"
    sent: int | None = 0

    def close(self) -> None:
        """Close what the application returned, the first time only."""
        app_iter, self._app_iter = self._app_iter, None
        if app_iter is None:
            return
        try:
            self._close(app_iter)
        finally:
            self._tell(None)

    def _tell(self, error: BaseException | None) -> None:
        """The response is over, by an error or not: tell who wants to know."""
        watch, self.send.watch = self.send.watch, None
        if watch is not None:
            watch.end(self.send, self.sender, self.sent, error)

    def _close(self, app_iter: object) -> None:
        close_app_iter(app_iter)

    def __del__(self) -> None:
        self.close()


class Whole(Closing, list[bytes]):
    """All that there is to send in one block: a list of one is what servers do best."""

    def __init__(self, send: Send, block: bytes) -> None:
        self.send = send
        self._app_iter = send.app_iter
        self.append(block)
        self.sent: int | None = len(block)


class Body(Closing):
    """The iterable for the server, for one response.

    Not derived from FileWrapper, nor named so: there are servers that know
    their own wrapper by this name.
    """

    # Told again: type checkers are not to guess it from what is assigned here.
    sender: str
    sent: int | None

    def __init__(self, send: Send, server: Server) -> None:
        self.send = send
        self.server = server
        self.blocks: FileWrapper | Joined | ReadAhead = send.blocks()
        self._app_iter = send.app_iter
        self._begun = self._failed = False
        if send.plan.count == 0:
            self.sender = send.plan.offload or "none"

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        first, self._begun = not self._begun, True
        block = self.next_block(self.send.block_size, caller(), first)
        # A first block even if it is empty: Hypercorn sends no header without.
        if block == b"" and not first:
            raise StopIteration
        return block

    def next_block(self, size: int, frame: FrameType | None, first: bool = False) -> bytes:
        """Up to size more bytes, for frame: if that is the server, it gets help."""
        server = self.server
        try:
            # Who is asking? A filter may have let start_response pass and still
            # want to see or change the blocks, or to answer for an error.
            if first:
                if server.iterates(self, frame):
                    self.begin()
                elif self.send.plan.count != 0:
                    self.sender = "read"  # Whatever we had in mind for the server.
            block = self.read_block(size)
            if self.sent is not None:
                self.sent += len(block)
            return block
        except BaseException as error:
            self.fail(error)
            if not server.iterates(self, frame):
                raise
            try:
                return server.abort(error)
            finally:
                # fastwsgi forgets to, if it is the first block.
                self.close()

    def read_block(self, size: int) -> bytes:
        """Up to size more bytes."""
        return self.blocks.next_block(size)

    def begin(self) -> None:
        """The server itself asks for the first block: is there a better way?"""
        if self.send.plan.count == 0:
            self.server.send_header(self.server.write)
        else:
            self.server.send_blocks()

    def fail(self, error: BaseException) -> None:
        """An error ends the response before its time.

        It is not kept, as by its traceback it keeps us: servers that never call
        close() would keep the file open.
        """
        self._tell(error)
        failed_before, self._failed = self._failed, True  # waitress tries again.
        if isinstance(error, FileReadError) and not failed_before:
            logger.warning("%s: the response is cut off", one_line(str(error)))

    def _close(self, app_iter: object) -> None:
        """And end a response that does not tell where it ends."""
        send, blocks = self.send, self.blocks
        if self.sent != 0 or send.plan.offload is not None:
            announce(self.server.name, self.sender)
        if isinstance(blocks, ReadAhead):
            blocks.close(partial(close_app_iter, app_iter), here=send.region.threaded)
        else:
            close_app_iter(app_iter)
        if not send.plan.sized and send.plan.count != 0 and self.server.iterates(self, caller(2)):
            self.server.end_unsized()


def caller(depth: int = 1) -> FrameType | None:
    """The frame that called the function from which this is called, or so many above.

    None if it is no Python code that did, as with servers in C.
    """
    try:
        return sys._getframe(depth + 1)
    except ValueError:
        return None
