"""Is what the application returned a file, and which bytes of it are meant?

The question that decides speed and safety is whether a descriptor holds the
very bytes that ``read()`` would give. ``fileno()`` proves nothing: gzip, bz2,
lzma, tarfile and zipfile members and many wrappers hand out the descriptor of
*other* bytes. So it goes by exact type, and anything unknown is read.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from .body import Body
from .wrapper import FileLike, FileWrapper, name_of

__all__ = ["FileRegion", "KernelFile", "recognise"]

KernelFile = io.FileIO | io.BufferedReader | io.BufferedRandom

# By far the most responses: not worth an attribute lookup.
_NO_FILES = frozenset({list, tuple, GeneratorType})

# Wrapper types that change nothing about the bytes, and the file inside.
_INNER: dict[type, Callable[[Any], object]] = {
    tempfile._TemporaryFileWrapper: lambda wrapper: wrapper.file,
    tempfile.SpooledTemporaryFile: lambda wrapper: wrapper._file,
}

# An instance may be given methods of its own; with these it gives other bytes.
_READING = frozenset({"read", "readall", "readinto", "read1", "seek", "tell", "fileno"})


@dataclass(frozen=True, slots=True)
class FileRegion:
    """The bytes of a file that are the application's response."""

    #: What ``read()`` is asked of.
    filelike: FileLike
    #: The file whose descriptor holds exactly the bytes that read() gives:
    #: regular, and of known size. None: send it by read() only.
    kernel: KernelFile | None
    #: Position of the first byte; None: where the file stands, which it cannot tell.
    offset: int | None
    #: Bytes from offset to the end, of the file or of the range; None: not known.
    size: int | None
    #: Length of the range that the application asked for; None: it did not.
    limit: int | None
    #: The least number of bytes to read at once that the application asked for.
    block_size: int


def recognise(app_iter: object) -> FileRegion | None:
    """The file that app_iter is, or None if it is not one of ours to send.

    No position is moved. Nothing is read but to see whether a size is true, and
    that without taking it away from read().

    :raises TypeError: for a file opened in text mode.
    """
    if type(app_iter) in _NO_FILES:
        return None
    if type(app_iter) is Body:
        # From another middleware of ours, nearer to the application.
        blocks = app_iter.blocks
    elif type(app_iter) is FileWrapper:
        blocks = app_iter
    elif callable(getattr(app_iter, "read", None)):
        blocks = FileWrapper(app_iter, 1)  # type: ignore[arg-type]
    else:
        return None
    filelike = blocks.filelike
    inner = _innermost(filelike)
    if isinstance(inner, io.TextIOBase):
        raise TypeError(
            f'{name_of(filelike)} is open in text mode: open it with mode "rb" to send it'
        )
    kernel = _kernel_file(inner)
    offset, size = blocks.start, None
    if kernel is not None:
        # By tell(), as the descriptor of a buffered reader runs ahead of it.
        offset = kernel.tell() if offset is None else offset
        length = _length(kernel.fileno())
        if length:
            size = max(0, length - offset)
        else:
            if length == 0 and not isinstance(kernel, io.FileIO) and not kernel.peek(1):
                size = 0
            kernel = None
    elif type(inner) is io.BytesIO and _READING.isdisjoint(vars(inner)):
        offset = inner.tell() if offset is None else offset
        with inner.getbuffer() as buffer:
            size = max(0, buffer.nbytes - offset)
    limit = blocks.remaining
    if limit is not None:
        size = limit if size is None else min(size, limit)
    return FileRegion(filelike, kernel, offset, size, limit, blocks.block_size)


def _length(fd: int) -> int | None:
    """The size of a regular file; None if it is not true, 0 if it need not be.

    Files of /proc have bytes and say 0, those of /sys say 4096 for a word. The
    latter occupy no blocks, like a file that is all holes, but that one has a
    byte at its end.
    """
    status = os.fstat(fd)
    size = status.st_size
    if size and getattr(status, "st_blocks", 1) == 0 and not os.pread(fd, 1, size - 1):
        return None
    return size


def _innermost(filelike: object) -> object:
    # SpooledTemporaryFile is one step, NamedTemporaryFile in it would be two.
    while (inner := _INNER.get(type(filelike))) is not None and _as_made(filelike):
        filelike = inner(filelike)
    return filelike


def _as_made(wrapper: Any) -> bool:
    """Whether nobody gave this tempfile wrapper reading methods of his own.

    tempfile keeps the methods it forwards in the instance, made with
    functools.wraps from the file's bound ones.
    """
    for name in _READING & vars(wrapper).keys():
        forwarded = getattr(vars(wrapper)[name], "__wrapped__", None)
        if getattr(forwarded, "__self__", None) is not wrapper.file:
            return False
    return True


def _kernel_file(file: object) -> KernelFile | None:
    """This file if its descriptor holds what its read() gives."""
    if type(file) is io.BufferedReader or type(file) is io.BufferedRandom:
        raw: object = file.raw
        if type(file) is io.BufferedRandom:
            # As read() would do: the descriptor has not seen these writes yet.
            file.flush()
    elif type(file) is io.FileIO:
        raw = file
    else:
        return None
    if (
        type(raw) is io.FileIO
        and raw.readable()
        and _READING.isdisjoint(vars(file))
        and _READING.isdisjoint(vars(raw))
        and stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
    ):
        return file
    return None
