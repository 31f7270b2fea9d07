"""The read(size) loop: blocks of a file-like object, checked and bounded.

There is one loop, :meth:`FileWrapper.next_block`. Applications meet it as
:class:`FileWrapper`, servers as :class:`~wsgifile.body.Body`. Whatever may not
be sent by its descriptor is sent from here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["DEFAULT_BLOCK_SIZE", "FileLike", "FileReadError", "FileWrapper", "ShortFileError"]

DEFAULT_BLOCK_SIZE = 262144


class FileLike(Protocol):
    """What PEP 3333 asks of a file-like object: a ``read(size)`` giving bytes."""

    def read(self, size: int, /) -> bytes: ...


class FileReadError(Exception):
    """The file could not be read as promised.

    The response's header is out by then as a rule, so the only honest end is a
    broken connection: let this error reach the server.

    No OSError, though mostly caused by one: those of files are taken by servers
    for the client's, to be passed over in silence. Paste even keeps the
    connection open after them.
    """


class ShortFileError(FileReadError):
    """The file ended before the promised number of bytes was sent."""

    def __init__(self, filelike: object, expected: int, sent: int) -> None:
        super().__init__(
            f"{name_of(filelike)} ended after {sent} of the {expected} bytes promised"
        )
        #: Bytes promised, usually by Content-Length.
        self.expected = expected
        #: Bytes that the file gave.
        self.sent = sent


def name_of(filelike: object) -> str:
    """The file's name for a message, quoted: it may have line ends; its repr without one."""
    name = getattr(filelike, "name", None)
    return repr(filelike if name is None else name)


def read_failed(filelike: object, error: OSError) -> FileReadError:
    """What to raise from an error of the file."""
    return FileReadError(f"reading {name_of(filelike)} failed: {error}")


def check_int(name: str, value: int, least: int) -> None:
    """Raise TypeError or ValueError unless this is an int, and not less than that."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


class FileWrapper:
    """A ``wsgi.file_wrapper`` as PEP 3333 has it: a file-like object in blocks.

    :param filelike: an object whose ``read(size)`` returns bytes.
    :param block_size: how many bytes to read at once, **at least**. Frameworks
        ask for as little as 4096, which costs a multiple of the CPU time of
        large blocks, so that smaller values are raised to 256 KiB. (Behind
        :class:`~wsgifile.FileWrapperMiddleware`, to its ``block_size``.)
    :raises TypeError: if there is no ``read``, or if block_size is no int.
    :raises ValueError: if block_size is less than 1.

    Iterating reads from where the file stands, and raises TypeError when
    ``read`` returns something other than bytes, ValueError when it returns
    more than it was asked for. ``seek``, ``tell`` and ``seekable`` are there
    if the file has them.
    """

    def __init__(self, filelike: FileLike, block_size: int = DEFAULT_BLOCK_SIZE) -> None:
        if not callable(getattr(filelike, "read", None)):
            raise TypeError(f"filelike must have a read() method, {filelike!r} has none")
        check_int("block_size", block_size, 1)
        self.filelike = filelike
        self.block_size = block_size
        # Where to seek before the first read, None: stay where the file is.
        self.start: int | None = None
        # Bytes promised; None: none are.
        self.count: int | None = None
        # Bytes still to come at most; None: all until the end.
        self.remaining: int | None = None
        self._read = _reader(filelike)

    @classmethod
    def bounded(
        cls,
        filelike: FileLike,
        start: int | None,
        count: int | None,
        block_size: int = DEFAULT_BLOCK_SIZE,
    ) -> FileWrapper:
        """Exactly count bytes (None: all) from position start (None: from here).

        Nothing is read or moved until the first block. A file with less than
        count bytes makes iteration raise :exc:`ShortFileError`.
        """
        wrapper = cls(filelike, block_size)
        wrapper.start = start
        wrapper.count = wrapper.remaining = count
        return wrapper

    def next_block(self, size: int) -> bytes:
        """Up to size more bytes; ``b""`` at the end."""
        if self.remaining is not None:
            size = min(size, self.remaining)
            if not size:
                return b""
        try:
            if self.start is not None:
                self.filelike.seek(self.start)  # type: ignore[attr-defined]
                self.start = None
            data = self._read(size)
        except OSError as error:
            raise read_failed(self.filelike, error) from error
        except StopIteration:
            data = b""  # Of a read() that is next() of something: not ours, for the server.
        if type(data) is not bytes:
            data = _as_bytes(data, self.filelike)
        if len(data) > size:
            raise ValueError(
                f"read({size}) of {name_of(self.filelike)} returned {len(data)} bytes"
            )
        if self.remaining is not None:
            if not data and self.count is not None:
                raise ShortFileError(self.filelike, self.count, self.count - self.remaining)
            self.remaining -= len(data)
        return data

    def skip(self, count: int) -> None:
        """Go on by count bytes of a bounded wrapper, which somebody else has sent."""
        assert self.start is not None
        assert self.remaining is not None
        self.start += count
        self.remaining -= count

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        block = self.next_block(max(self.block_size, DEFAULT_BLOCK_SIZE))
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        """Close the file, if it has a close()."""
        close_app_iter(self.filelike)

    def app_iter_range(self, start: int, stop: int | None) -> FileWrapper | None:
        """The bytes from start up to, but not including, stop.

        WebOb asks for this to answer a Range request (``Response.app_iter_range``);
        both count from where this wrapper would begin. None, by which WebOb
        sends the whole file, if the file cannot seek.
        """
        if self.start is None and not seekable(self.filelike):
            return None
        base = self.filelike.tell() if self.start is None else self.start  # type: ignore[attr-defined]
        ends = [end for end in (stop, self.remaining) if end is not None]
        count = max(0, min(ends) - start) if ends else None
        return self.bounded(self.filelike, base + start, count, self.block_size)

    def __getattr__(self, name: str) -> Any:
        # There exactly where the file has them: hasattr() is how frameworks ask.
        # Not on a bounded wrapper, which positions the file by itself.
        if name in {"seek", "tell", "seekable"} and self.start is None and self.count is None:
            return getattr(self.filelike, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class Joined:
    """Blocks of several wrappers, one after the other, as if of one."""

    def __init__(self, wrappers: Iterable[FileWrapper]) -> None:
        self._wrappers = deque(wrappers)

    def next_block(self, size: int) -> bytes:
        """Up to size more bytes; ``b""`` at the end."""
        while self._wrappers:
            if block := self._wrappers[0].next_block(size):
                return block
            self._wrappers.popleft()
        return b""


def close_app_iter(app_iter: object) -> None:
    """Call close() if there is one; some file-likes say ``close = False``.

    By attribute and as late as this, because Django replaces the ``close`` of
    the file's instance by the response's.
    """
    close = getattr(app_iter, "close", None)
    if callable(close):
        close()


def _reader(filelike: Any) -> Any:
    """Its read, by way of read1 where it has one that gives the same bytes.

    read(n) of what is buffered waits until n bytes are there: a pipe would not
    trickle. read1(n) is one read of the source. A sub-class, or an instance, that
    has a read() of its own may give other bytes by it.
    """
    if "read" not in getattr(filelike, "__dict__", ()):
        for kind in type(filelike).__mro__:
            if callable(vars(kind).get("read1")):
                # read1 tells nothing of a source that will not wait, and has nothing yet.
                return lambda size: filelike.read1(size) or filelike.read(size)
            if "read" in vars(kind):
                break
    return filelike.read


def seekable(filelike: object) -> bool:
    """Whether it tells its position and goes to another: by what it says, or by what it has."""
    own = getattr(filelike, "seekable", None)
    if callable(own):
        return bool(own())
    return hasattr(filelike, "seek") and hasattr(filelike, "tell")


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
