"""The iterable that the server gets: the blocks to send, and the application's close()."""

from __future__ import annotations

import sys
from functools import partial
from types import FrameType
from typing import Any

from . import agents
from .background import Rest, take
from .blocks import BlockReader, ChainedReader, FileReadError, close_app_iter
from .client import Client
from .log import announce, logger, one_line
from .page_cache import may_block
from .read_ahead import ReadAhead
from .recognise import FileSlice
from .send import Send
from .server import Server
from .sockets import sendfile
from .transfer import Declined

__all__ = ["Body", "CloseOnce", "OneBlock", "calling_frame"]


class CloseOnce:
    """Closes what the application returned, once, and reports how the response ended.

    It does so when the server calls close() for the first time, or else when the server
    drops the object: some servers never call close().
    """

    send: Send
    _app_iter: object = None
    #: As in :class:`~wsgifile.Transfer`, like the next one.
    sender: str = "read"
    sent: int | None = 0

    def close(self) -> None:
        """Close what the application returned. Later calls do nothing."""
        app_iter, self._app_iter = self._app_iter, None
        if app_iter is None:
            return
        try:
            self._close(app_iter)
        finally:
            if self.send.watch is not None:
                self.report(None)

    def report(self, error: BaseException | None) -> None:
        """The response is over, by an error or not. Later calls do nothing."""
        watch, self.send.watch = self.send.watch, None
        if watch is not None:
            watch.end(self.send, self.sender, self.sent, error)

    _close = staticmethod(close_app_iter)

    def __del__(self) -> None:
        if self._app_iter is not None:
            self.close()


class OneBlock(CloseOnce, list[bytes]):
    """A whole response in one block, or none. Servers are at their best with a list of one."""

    def __init__(self, send: Send, block: bytes) -> None:
        self.send = send
        self._app_iter = send.app_iter
        self._block = block
        if block:
            self.append(block)
        else:
            self.sender = "none"
        self.sent: int | None = len(block)

    def described(self) -> BlockReader | ChainedReader | ReadAhead | None:
        """The bytes that the header describes, for another middleware of ours outside."""
        # Somebody may have put another block into this list.
        return self.send.described() if [*map(id, self)] == [id(self._block)] else None


class Body(CloseOnce):
    """A response in blocks.

    It is not derived from FileWrapper, and not named so, because servers recognise their own
    wrapper by that.
    """

    # Declared again because type checkers infer a narrower type from the assignments here.
    sender: str
    sent: int | None

    def __init__(self, send: Send, server: Server) -> None:
        self.send = send
        self.server = server
        self.blocks: BlockReader | ChainedReader | ReadAhead = send.blocks()
        self._app_iter = send.app_iter
        self._begun = self._failed = False
        #: The client to wait for, if the server itself asks for blocks.
        self._client: Client | None = None
        #: Whether the header has been sent, and whether the rest is sent in the background.
        self._may_leave = self._left = False
        if send.plan.count == 0:
            self.sender = send.plan.offload or "none"

    def __iter__(self) -> Body:
        return self

    def described(self) -> BlockReader | ChainedReader | ReadAhead:
        """The bytes that the header describes, for another middleware of ours outside."""
        return self.blocks if self.send.plan.described is None else self.send.described()

    def __next__(self) -> bytes:
        first, self._begun = not self._begun, True
        block = self.next_block(self.send.block_size, calling_frame(), first=first)
        # The first block is returned even if it is empty: some servers send no header without.
        # If the connection was taken, even an empty block cannot be written to the dummy.
        if block == b"" and (self._left or not first):
            raise StopIteration
        return block

    def next_block(self, size: int, frame: FrameType | None, *, first: bool = False) -> bytes:
        """Up to size more bytes, for the code in this frame."""
        server = self.server
        try:
            # The server gets help with the first block and with errors. A filter does not: it
            # may have passed start_response on and still want to see or change the blocks.
            if first:
                if server.is_iterating(self, frame):
                    self.begin()
                elif self.send.plan.count != 0:
                    self.sender = "read"  # A filter asks, so no other sender is used.
            size = self._room(size)
            try:
                block = self.read_block(size) if size else b""
            except BaseException as error:
                self.report_to_agents(error)
                raise
            if self.sent is not None:
                self.sent += len(block)
            return block
        except BaseException as error:
            self.fail(error)
            if not server.is_iterating(self, frame):
                raise
            try:
                return server.abort(error)
            finally:
                # Some servers do not close it if the first block fails.
                self.close()

    def read_block(self, size: int) -> bytes:
        """Up to size more bytes."""
        return self.blocks.next_block(size)

    def begin(self) -> None:
        """The server itself asks for the first block, so there may be a better way."""
        if self.send.plan.count == 0:
            self.server.flush_header()
        else:
            self.server.prepare_to_send()
            self._client = self.server.client(self.send.send_timeout)

    def send_slice(self, file_slice: FileSlice, sock: Any) -> None:
        """Send all of it by os.sendfile. If the file runs short, read() finds out afterwards.

        If the client falls behind, the rest is sent in the background.

        :raises OSError: if the client has left; TimeoutError if it takes nothing.
        """
        client = self._client
        if client is None:
            self._send_left(file_slice, sock)
            return
        client.may_leave = self._may_leave = self.send.background > 0
        with client.brief_waits():
            self._send_left(file_slice, sock)
            while client.behind and not self.leave(client):
                self._send_left(file_slice, sock)

    def _send_left(self, file_slice: FileSlice, sock: Any) -> None:
        """Send what is left. It ends early if the client falls behind, or the file is short."""
        client, blocks = self._client, self.blocks
        assert isinstance(blocks, BlockReader)  # It is one slice.
        assert self.sent is not None
        left = FileSlice(file_slice.file, blocks.position, file_slice.stop)
        wait = None if client is None else client.wait
        for sent in sendfile(sock, left, self.send.send_timeout, wait):
            blocks.skip(sent)
            self.sent += sent
            self.server.count_sent(sent)
            if client is not None and not client.keeps_up():
                return

    def _room(self, size: int) -> int:
        """Up to size bytes, as many as the client takes at once; 0: we send nothing more.

        It waits for the client, so that the server does not. If the client falls behind, the
        rest is sent in the background.
        """
        client = self._client
        if self._left or client is None or self.sent == self.send.plan.count:
            return 0 if self._left else size
        client.alive()
        client.may_leave, self._may_leave = self._may_leave, self.send.background > 0
        room = client.room(size)
        if room is None:
            room = 0 if self.leave(client) else client.room(size)
            assert room is not None
        return room

    def leave(self, client: Client) -> bool:
        """Have the rest sent in the background. Whether the worker is free."""
        declined = self._leave(client)
        if declined is None:
            return True
        client.may_leave = client.behind = self._may_leave = False
        self.send.background = 0
        if self.send.watch is not None:
            self.send.watch.declined.append(("the background", declined))
        return False

    def _leave(self, client: Client) -> Declined | None:
        send, server = self.send, self.server
        count, kernel, watch = send.plan.count, send.region.kernel, send.watch
        declined = server.may_leave()
        if declined is not None:
            return declined
        assert self.sent is not None
        pieces = send.rest(self.sent)
        if isinstance(pieces, Declined):
            return pieces
        if kernel is not None and may_block(kernel.fileno()):
            return Declined("reading from this file system may block for long")
        if watch is not None:
            watch.environ = dict(watch.environ)  # uWSGI empties its own after the request.
        declined = take(
            Rest(
                connection=client.fd,
                pieces=pieces,
                file=kernel,
                timeout=send.send_timeout,
                limit=send.background,
                sent=self.sent,
                on_end=_ignored if watch is None else partial(watch.end, send, "background"),
                reset=server.resets,
                read=send.no_sendfile is not None,
                grace=server.grace,
            )
        )
        if declined is not None:
            return declined
        assert count is not None
        send.watch = None
        self._left, self.sender = True, "background"
        server.count_sent(count - self.sent)
        self.sent = count
        server.end_connection()
        return None

    def fail(self, error: BaseException) -> None:
        """An error ends the response early.

        The error is not kept. Its traceback refers to this body, so with a server that never
        calls close() the file would stay open.
        """
        self.report(error)
        self.server.failed()
        failed_before, self._failed = self._failed, True  # Some servers try again.
        if isinstance(error, FileReadError) and not failed_before:
            logger.warning("%s: the response is cut off", one_line(str(error)))

    def report_to_agents(self, error: BaseException) -> None:
        """Tell the agents that reading the file failed. Later calls do nothing."""
        if self._app_iter is not None and not self._failed:
            agents.report(self._app_iter, error)

    def _close(self, app_iter: object) -> None:
        send, blocks = self.send, self.blocks
        if self.sent != 0 or send.plan.offload is not None:
            announce(self.server.name, self.sender)
        if isinstance(blocks, ReadAhead):
            blocks.close(partial(close_app_iter, app_iter), here=send.region.close_in_thread)
        else:
            close_app_iter(app_iter)
        if send.plan.sized or send.plan.count == 0:
            return
        if self.server.is_iterating(self, calling_frame(2)):
            self.server.end_unsized()


def _ignored(sent: int, error: BaseException | None) -> None:
    """Nobody wants to know how the response ended."""


def calling_frame(depth: int = 1) -> FrameType | None:
    """The frame that called the function from which this is called, or depth frames up.

    None if that was not Python code: a server in C.
    """
    try:
        return sys._getframe(depth + 1)
    except ValueError:
        return None
