"""Blocks of a slow file, read while the client is still busy with the ones before.

This is for files that are not on a disk and whose read() waits for something: object
stores, pipes, decompressors. One read of a file runs at a time, in a thread of the shared
pool. The next one is submitted when it has ended or when the server has taken a block. So
many downloads share few threads. When all of these are busy, the thread that needs a block
reads it itself.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable

from .blocks import BlockReader, ChainedReader
from .threads import pool

__all__ = ["DEPTH", "FIRST_OF_STORE", "ReadAhead"]

#: Number of blocks to read ahead, by default: the client takes one, and the other is on its way.
DEPTH = 2

#: Size of the first read in bytes. It is small so that the client gets something soon. Each
#: further read is twice as large, up to the block size.
FIRST = 16384
#: The same where each read is a request, so that most files take one. Larger ones take memory, so
#: from here on the size grows only if the client had to wait.
FIRST_OF_STORE = 2 * 2**20


class ReadAhead:
    """The blocks of a reader, up to depth of them ahead.

    :param first: size of the first block.
    """

    def __init__(
        self,
        blocks: BlockReader | ChainedReader,
        depth: int,
        block_size: int,
        first: int = FIRST,
    ) -> None:
        self._blocks = blocks
        self._depth = depth
        self._block_size = block_size
        self._size = min(first, block_size)
        #: What was read: blocks, and possibly an error after them.
        self._ready: deque[bytes | memoryview | BaseException] = deque()
        #: Whether there is no more to read, and whether nobody wants any more.
        self._ended = self._closed = False
        #: The thread that is reading, and whether a job for the pool is pending.
        self._reading: int | None = None
        self._asked = False
        #: Whether somebody has had to wait for a block, and what to call when it is there.
        self._waited = False
        self._on_ready: Callable[[], object] | None = None
        self._close: Callable[[], None] | None = None
        self._changed = threading.Condition()

    def next_block(self, size: int) -> bytes:
        """Up to size more bytes, as soon as there are some; ``b""`` at the end."""
        while True:
            with self._changed:
                if self._ready:
                    return self._take(size)
                if self._ended:
                    return b""
                self._waited = True
                if self._reading is not None:
                    self._changed.wait()
                    continue
                self._reading = threading.get_ident()
            self._read()  # The first block, or all threads of the pool are busy.

    def give_whole_blocks(self) -> None:
        """The caller takes whole blocks, and keeps each until it asks for the next one.

        That one counts, so that a slow client takes no more memory than otherwise.
        """
        self._depth = max(1, self._depth - 1)

    def poll(self, on_ready: Callable[[], object]) -> bytes | None:
        """The next block, ``b""`` at the end, or None: it is not there.

        In the last case on_ready is called once, by the thread that reads it.
        """
        with self._changed:
            self._on_ready = None
            if self._ready:
                return self._take(sys.maxsize)
            if self._ended:
                return b""
            self._waited, self._on_ready = True, on_ready
            self._ask()
            if self._asked or self._reading is not None:
                return None
            self._reading = threading.get_ident()
        self._read()  # There can be no other thread.
        return self.poll(on_ready)

    def close(self, close: Callable[[], None], *, here: bool = False) -> None:
        """Read no more, and call close once no read is under way.

        If a thread is reading, that thread calls it afterwards, because the client has left
        and nobody should wait for the read. Further calls do nothing.

        :param here: whether this thread has to call close, and so waits for the read.
        """
        with self._changed:
            if self._closed:
                return
            self._ended = self._closed = True
            self._ready.clear()
            # Waiting for a read of this very thread would never end.
            while here and self._reading not in (None, threading.get_ident()):
                self._changed.wait()
            if self._reading is not None:
                self._close = close
                return
        close()

    def _take(self, size: int) -> bytes:
        block = self._ready.popleft()
        if isinstance(block, BaseException):
            try:
                raise block
            finally:
                # Its traceback refers to this frame. The cycle would keep the body alive,
                # and with some servers the file is closed only when the body is dropped.
                del block
        if len(block) > size:
            rest = memoryview(block)  # A block of a store is large, and is not to be copied.
            self._ready.appendleft(rest[size:])
            block = rest[:size]
        self._ask()
        return bytes(block)

    def _ask(self) -> None:
        idle = self._reading is None and not self._asked and not self._ended
        if idle and len(self._ready) < self._depth:
            self._asked = pool("sources").submit(self._work)

    def _work(self) -> None:
        with self._changed:
            self._asked = False
            if self._ended or self._reading is not None or len(self._ready) >= self._depth:
                return  # Another thread was faster.
            self._reading = threading.get_ident()
        self._read()

    def _read(self) -> None:
        """Read once. _reading is set already."""
        item: bytes | BaseException
        try:
            item = self._blocks.next_block(self._size)
        except BaseException as error:  # Any error is for the thread that takes the blocks.
            item = error
        with self._changed:
            self._reading = None
            if self._waited or self._size < FIRST_OF_STORE:
                self._size = min(2 * self._size, self._block_size)
            self._waited = False
            if not self._ended:
                failed = isinstance(item, BaseException)
                self._ended = failed or not item
                if failed or item:
                    self._ready.append(item)
            del item  # For the reason given in _take().
            close, self._close = self._close, None
            on_ready, self._on_ready = self._on_ready, None
            self._changed.notify_all()
            self._ask()
        if on_ready is not None:
            on_ready()
        if close is not None:
            close()
