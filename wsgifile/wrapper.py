"""``wsgi.file_wrapper`` as applications see it (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .blocks import (
    DEFAULT_BLOCK_SIZE,
    BlockReader,
    FileLike,
    check_int,
    close_app_iter,
    is_seekable,
)
from .recognise import FileRegion, recognise

__all__ = ["MADE", "FileWrapper", "SizedFileWrapper"]

#: The number of FileWrappers made in this process. If it has changed during a request, that
#: request may have made one, or another thread. Threads may lose counts, but never a change.
MADE = [0]


class FileWrapper:
    """A file-like object in blocks: the ``wsgi.file_wrapper`` of PEP 3333.

    :param filelike: an object whose ``read(size)`` returns bytes.
    :param block_size: number of bytes to read at once, **at least**. Frameworks
        ask for as little as 4096, which costs several times the CPU time of
        large blocks. So smaller values are raised to 256 KiB, or to the
        ``block_size`` of :class:`~wsgifile.FileWrapperMiddleware`.
    :raises TypeError: if there is no ``read``, or if block_size is not an int.
    :raises ValueError: if block_size is less than 1.

    Iteration starts where the file stands. It raises TypeError when ``read``
    returns something other than bytes. ``seek``, ``tell`` and ``seekable`` exist if the file
    has them. ``fileno`` exists if the descriptor holds what ``read`` returns.
    """

    def __init__(self, filelike: FileLike, block_size: int = DEFAULT_BLOCK_SIZE) -> None:
        if not callable(getattr(filelike, "read", None)):
            raise TypeError(f"filelike must have a read() method, {filelike!r} has none")
        check_int("block_size", block_size, 1)
        MADE[0] += 1
        self.filelike = filelike
        self.block_size = block_size
        self.reader: BlockReader = BlockReader(filelike)

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        block = self.reader.next_block(self._least())
        if not block:
            raise StopIteration
        return block

    def _least(self) -> int:
        return max(self.block_size, DEFAULT_BLOCK_SIZE)

    def close(self) -> None:
        """Close the file, if it has a close()."""
        close_app_iter(self.filelike)

    def app_iter_range(self, start: int, stop: int | None) -> FileWrapper | None:
        """The bytes from start up to, but not including, stop.

        WebOb calls this to answer a Range request (``Response.app_iter_range``).
        Both positions count from the first byte of this wrapper. Returns None if
        the file cannot seek; WebOb then sends the whole file.
        """
        whole = self.reader
        region = None if whole.seek_first else _region(self)
        if whole.seek_first:
            base = whole.position
        elif region is not None and region.seek:
            base = region.start
        elif is_seekable(self.filelike):
            base = self.filelike.tell()  # type: ignore[attr-defined]
        else:
            return None
        ends = [end for end in (stop, whole.remaining) if end is not None]
        part = FileWrapper(self.filelike, self.block_size)
        part.reader = BlockReader(
            self.filelike,
            base + start,
            base + max(start, min(ends)) if ends else None,
            seek_first=True,
        )
        return part

    def __getattr__(self, name: str) -> Any:
        # Frameworks ask by hasattr(), so these exist only if the file has them. A
        # range positions the file by itself, so it does not have them.
        reader = None if name not in {"seek", "tell", "seekable", "fileno"} else self.reader
        if reader is not None and not reader.seek_first and reader.stop is None:
            if name != "fileno":
                return getattr(self.filelike, name)
            region = _region(self)
            if region is not None and region.kernel is not None:
                return region.kernel.fileno
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class SizedFileWrapper(FileWrapper):
    """The same with a length, for servers whose own wrapper has one.

    Werkzeug takes a body without a length for a stream, and Flask-Compress has other algorithms
    for streams. On other servers, a length would make Flask-Compress read the whole file, which
    it would otherwise compress as a stream.

    The length is the number of blocks, as PEP 3333 has it. It exists if the file's size is
    known, which is found out only if somebody asks.
    """

    @property
    def __len__(self) -> Callable[[], int]:
        region = _region(self)
        if region is None or region.stop is None:
            raise _NoLengthError("the size of the file is not known")
        return partial(int, -(-(region.stop - region.start) // self._least()))

    def __bool__(self) -> bool:
        return True  # Also if the file is empty.

    def __next__(self) -> bytes:
        # read1() may return less than a block, namely what a buffer holds.
        block, size = super().__next__(), self._least()
        while len(block) < size and hasattr(self, "__len__"):
            more = self.reader.next_block(size - len(block))
            if not more:
                break
            block += more
        return block


class _NoLengthError(AttributeError, TypeError):
    """The first is for hasattr(), the second for who calls len()."""


def _region(wrapper: FileWrapper) -> FileRegion | None:
    try:
        return recognise(wrapper)
    except Exception:
        return None  # It is closed, or in text mode. Other code reports that.
