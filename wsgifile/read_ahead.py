"""Blocks of a slow file, read while the client is still busy with those before.

For files that are none of the kernel's, whose read() waits for something: object
stores, pipes, decompressors. One read of a file is under way at a time, in a
thread of the shared pool, and another is asked for when it has ended or when the
server has taken a block. So many downloads take turns in few threads, and when
these are all busy, the thread that needs a block reads it itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from .threads import pool
from .wrapper import FileWrapper

__all__ = ["ReadAhead"]

#: Bytes of the first read: the sooner it is there the better. Each read after it is for
#: twice as many, up to the block size.
FIRST = 16384


class ReadAhead:
    """A FileWrapper's blocks, up to depth of them ahead."""

    def __init__(self, blocks: FileWrapper, depth: int, block_size: int) -> None:
        self._blocks = blocks
        self._depth = depth
        self._block_size = block_size
        self._size = min(FIRST, block_size)
        #: What was read: blocks, and an error at the end of them.
        self._ready: deque[bytes | BaseException] = deque()
        #: Whether no more is to be read, and whether nobody wants it either.
        self._ended = self._closed = False
        #: The thread that is reading, and whether the pool has been asked for one.
        self._reading: int | None = None
        self._asked = False
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
                if self._reading is not None:
                    self._changed.wait()
                    continue
                self._reading = threading.get_ident()
            self._read()  # The first block, or nobody has come to it.

    def close(self, close: Callable[[], None], *, here: bool = False) -> None:
        """Read no more, and call close when no read is under way, once.

        By the thread that reads, if one does: the client has left, and nobody waits
        for that. here: by this thread.
        """
        with self._changed:
            if self._closed:
                return
            self._ended = self._closed = True
            self._ready.clear()
            # (If it is dropped while this very thread reads, that is no use.)
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
                # The frame is in its traceback: together they would keep alive what is
                # closed when the server drops it.
                del block
        if len(block) > size:
            self._ready.appendleft(block[size:])
        self._ask()
        return block[:size]

    def _ask(self) -> None:
        idle = self._reading is None and not self._asked and not self._ended
        if idle and len(self._ready) < self._depth:
            self._asked = pool("sources").submit(self._work)

    def _work(self) -> None:
        with self._changed:
            self._asked = False
            if self._ended or self._reading is not None or len(self._ready) >= self._depth:
                return  # Somebody else has been faster.
            self._reading = threading.get_ident()
        self._read()

    def _read(self) -> None:
        """One read, for which _reading has been set."""
        item: bytes | BaseException
        try:
            item = self._blocks.next_block(self._size)
        except BaseException as error:  # Whatever it is, it is for who takes the blocks.
            item = error
        with self._changed:
            self._reading = None
            self._size = min(2 * self._size, self._block_size)
            if not self._ended:
                failed = isinstance(item, BaseException)
                self._ended = failed or not item
                if failed or item:
                    self._ready.append(item)
            del item  # As in _take().
            close, self._close = self._close, None
            self._changed.notify_all()
            self._ask()
        if close is not None:
            close()
