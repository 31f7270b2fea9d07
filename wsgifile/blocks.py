"""Blocks of a file-like object, checked and bounded.

Every byte that does not leave by a descriptor comes from :meth:`BlockReader.next_block`.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol

__all__ = [
    "DEFAULT_BLOCK_SIZE",
    "BlockReader",
    "ChainedReader",
    "FileLike",
    "FileReadError",
    "ShortFileError",
    "check_function",
    "check_int",
    "check_seconds",
    "close_app_iter",
    "is_seekable",
    "name_of",
]

#: Bytes.
DEFAULT_BLOCK_SIZE = 262144
#: Seconds. poll(2) takes milliseconds as C's int.
_LONGEST = 1_000_000


class FileLike(Protocol):
    """What PEP 3333 asks of a file-like object: ``read(size)`` returns bytes."""

    def read(self, size: int, /) -> bytes: ...


class FileReadError(Exception):
    """The file could not be read as promised.

    The header is usually out by then, so the only honest end is a broken
    connection: let this error reach the server.

    It is not an OSError, although an OSError is the usual cause. Servers take an
    OSError for a client that has left, and ignore it; Paste even keeps the
    connection open.
    """

    @classmethod
    def of(cls, filelike: object, error: OSError) -> FileReadError:
        """The error to raise when reading the file raised this OSError."""
        return cls(f"reading {name_of(filelike)} failed: {error}")


class ShortFileError(FileReadError):
    """The file ended before the promised number of bytes was sent."""

    def __init__(self, filelike: object, expected: int, sent: int) -> None:
        super().__init__(
            f"{name_of(filelike)} ended after {sent} of the {expected} bytes promised"
        )
        #: Number of bytes promised, usually by Content-Length.
        self.expected = expected
        #: Number of bytes that the file had.
        self.sent = sent


class BlockReader:
    """The bytes from start up to stop of a file, in blocks.

    Nothing is read, and no position moves, before the first block. If ``read`` gives more than
    it was asked for, the rest is kept for the next block.

    :param start: position of the first byte.
    :param stop: position behind the last byte. None: the end of the file.
    :param seek_first: whether to seek to start first. False: read from where the file
        stands, and call that position start.
    :param exact: whether a file that ends before stop is an error.
    """

    def __init__(
        self,
        filelike: FileLike,
        start: int = 0,
        stop: int | None = None,
        *,
        seek_first: bool = False,
        exact: bool = True,
    ) -> None:
        self.filelike = filelike
        self.start = start
        self.stop = stop
        #: Position of the next byte.
        self.position: int = start
        #: Whether the file has yet to be moved to that position.
        self.seek_first: bool = seek_first
        self.exact = exact
        #: The least number of bytes to read at once, if as many are left.
        self.read_size: int = 0
        #: Whether to read once more at stop, before the last block is handed on. Then the file
        #: compares its checksum, and raises an error if that is wrong.
        self.check_end: bool = False
        self._read = _read_method(filelike)
        self._rest = memoryview(b"")

    @property
    def remaining(self) -> int | None:
        """Number of bytes still to come; None: all until the end of the file."""
        return None if self.stop is None else self.stop - self.position

    @property
    def has_rest(self) -> bool:
        """Whether more was read than was handed on."""
        return bool(self._rest)

    def next_block(self, size: int) -> bytes:
        """Up to size more bytes; ``b""`` at the end.

        :raises ShortFileError: if the file ends before stop.
        :raises FileReadError: if reading or seeking fails, or if a file whose end is checked
            does not end at stop.
        :raises TypeError: if ``read`` returns something other than bytes.
        """
        if self.stop is not None:
            size = min(size, self.stop - self.position)
            if not size:
                return b""
        data = self._next(size)
        if not data and self.stop is not None and self.exact:
            raise ShortFileError(self.filelike, self.stop - self.start, self.position - self.start)
        self.position += len(data)
        if self.check_end and self.position == self.stop and self._next(1):
            raise FileReadError(f"{name_of(self.filelike)} is longer than it says")
        return data

    def _next(self, size: int) -> bytes:
        if self._rest:
            data, self._rest = bytes(self._rest[:size]), self._rest[size:]
            return data
        try:
            if self.seek_first:
                self.filelike.seek(self.position)  # type: ignore[attr-defined]
                self.seek_first = False
            data = self._call_read(max(size, min(self.read_size, self.remaining or 0)))
        except OSError as error:
            raise FileReadError.of(self.filelike, error) from error
        except StopIteration:
            # A read() made of next(). The server must not see this as the end of the body.
            data = b""
        if type(data) is not bytes:
            data = _as_bytes(data, self.filelike)
        if len(data) > size:
            self._rest = memoryview(data)[size:]
            data = data[:size]
        return data

    def _call_read(self, size: int) -> Any:
        try:
            return self._read(size)
        except TypeError:
            if _takes_a_size(self._read):
                raise
        # This read() takes no size and returns everything, so it is called once.
        read, self._read = self._read, lambda size: b""
        return read()

    def skip(self, count: int) -> None:
        """Go on by count bytes, which somebody else has sent."""
        assert self.seek_first
        self.position += count


class ChainedReader:
    """The blocks of several readers, one after the other."""

    def __init__(self, readers: Iterable[BlockReader]) -> None:
        self._readers = deque(readers)

    def next_block(self, size: int) -> bytes:
        """Up to size more bytes; ``b""`` at the end."""
        while self._readers:
            if block := self._readers[0].next_block(size):
                return block
            self._readers.popleft()
        return b""


def check_int(name: str, value: int, least: int) -> None:
    """Raise TypeError unless value is an int, ValueError if it is less than least."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_seconds(name: str, value: float) -> None:
    """Raise TypeError unless value is a number, ValueError unless it is a time to wait."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value <= _LONGEST:
        raise ValueError(f"{name} must be more than 0 and at most {_LONGEST}, not {value}")


def check_function(name: str, value: object, what: str = "a function") -> None:
    """Raise TypeError unless it can be called. An async function would never be awaited."""
    if not callable(value):
        raise TypeError(f"{name} must be {what}, not {value!r}")
    if any(map(inspect.iscoroutinefunction, (value, type(value).__call__))):
        raise TypeError(f"{name} must be {what}, but {value!r} is an async function")


def name_of(filelike: object) -> str:
    """The file's name for a message, quoted as it may contain line ends; else its repr."""
    name = getattr(filelike, "name", None)
    return repr(filelike if name is None else name)


def close_app_iter(app_iter: object) -> None:
    """Call close() if there is one; some file-likes say ``close = False``.

    The attribute is looked up this late because Django replaces ``close`` on the
    file's instance by the response's.
    """
    close = getattr(app_iter, "close", None)
    if callable(close):
        close()


def is_seekable(filelike: object) -> bool:
    """Whether it can tell its position and go to another one.

    By its ``seekable()``, else by whether it has ``seek`` and ``tell``.
    """
    seekable = getattr(filelike, "seekable", None)
    if callable(seekable):
        return bool(seekable())
    return hasattr(filelike, "seek") and hasattr(filelike, "tell")


def _read_method(filelike: Any) -> Any:
    """The method to read with: ``read1`` where it gives the same bytes, else ``read``.

    ``read(n)`` of a buffered file waits for n bytes, so a pipe would not trickle.
    ``read1(n)`` is one read of the source. A sub-class or an instance with a
    ``read`` of its own may return other bytes by it, so its ``read1`` is not used.
    """
    kind: Any = type(filelike)
    if "read" not in getattr(filelike, "__dict__", ()) and _has_read1(kind):
        # read1() returns b"" also when a non-blocking source has nothing yet; read() tells
        # that from the end of the file.
        return lambda size: filelike.read1(size) or filelike.read(size)
    return filelike.read


@lru_cache(256)
def _has_read1(kind: type) -> bool:
    """Whether it has a read1(), and no read() in a class derived from the one with read1()."""
    for base in kind.__mro__:
        if callable(vars(base).get("read1")):
            return True
        if "read" in vars(base):
            break
    return False


def _takes_a_size(read: Any) -> bool:
    try:
        inspect.signature(read).bind(1)
    except TypeError:
        return False
    except ValueError:
        return True  # A function in C may not tell its parameters.
    return True


def _as_bytes(data: object, filelike: object) -> bytes:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, str):
        raise TypeError(
            f'read() of {name_of(filelike)} returned str, not bytes: open the file with mode "rb"'
        )
    if data is None:
        raise TypeError(
            f"read() of {name_of(filelike)} returned None, not bytes:"
            " a non-blocking file that has no data yet cannot be sent"
        )
    raise TypeError(f"read() of {name_of(filelike)} returned {type(data).__name__}, not bytes")
