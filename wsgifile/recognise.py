"""Is what the application returned a file, and which bytes of it are meant?

The question that decides speed and safety is whether a descriptor holds the
very bytes that ``read()`` would give. ``fileno()`` proves nothing: gzip, bz2,
lzma, tarfile and zipfile members and many wrappers hand out the descriptor of
*other* bytes. So it goes by exact type, and anything unknown is read.

What frameworks put around a file is looked through, by ``layers``.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import sys
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from .layers import READING, Part, innermost
from .wrapper import FileLike, name_of, seekable

__all__ = ["NO_FILES", "FileRegion", "FileSlice", "KernelFile", "recognise"]

KernelFile = io.FileIO | io.BufferedReader | io.BufferedRandom

#: By far the most responses, for which not even this has to be asked.
NO_FILES = frozenset({list, tuple, GeneratorType})

#: What is meant of a file with nothing around it.
_ITSELF = Part(None)

#: Files whose lines are what they are when read, by module and name of the type.
_LINES_OF_BYTES = frozenset(
    {
        "_io.BufferedRandom",
        "_io.BufferedReader",
        "_io.BytesIO",
        "_io.FileIO",
        "bz2.BZ2File",
        "gzip.GzipFile",
        "lzma.LZMAFile",
        "tarfile.ExFileObject",
        "zipfile.ZipExtFile",
    }
)


@dataclass(slots=True)
class FileRegion:
    """The bytes of a file that are the application's response."""

    #: What ``read()`` is asked of.
    filelike: FileLike
    #: The file whose descriptor holds exactly the bytes that read() gives:
    #: regular, and of known size. None: send it by read() only.
    kernel: KernelFile | None
    #: Position of the first byte; None: where the file stands, which it cannot tell.
    offset: int | None
    #: Bytes from offset to the end of the file; None: not known.
    size: int | None
    #: Length of the range that the application asked for; None: it did not.
    limit: int | None
    #: The least number of bytes to read at once that the application asked for.
    block_size: int
    #: When a file on disk that was opened by its path was last changed, in
    #: nanoseconds since the epoch; None: it is no such file.
    mtime_ns: int | None = None
    #: Whether close() is for the thread that has called the application.
    threaded: bool = False
    #: Why there is no kernel file.
    why: str = ""
    #: Whether it is deleted when it is closed.
    temporary: bool = False

    @property
    def length(self) -> int | None:
        """Bytes of the region; None: not known."""
        if self.size is None or self.limit is None:
            return self.size
        return min(self.size, self.limit)


@dataclass(slots=True)
class FileSlice:
    """Bytes that may be taken from a descriptor; count is at least 1."""

    file: KernelFile
    offset: int
    count: int


def recognise(app_iter: object) -> FileRegion | None:
    """The file that app_iter is, or None if it is not one of ours to send.

    No position is moved. Nothing is read but to see whether a size is true, and
    that without taking it away from read().

    :raises TypeError: for a file opened in text mode.
    """
    if type(app_iter) in NO_FILES:
        return None
    file: Any = app_iter
    part = _ITSELF
    inside = innermost(app_iter)
    if inside is not None:
        file, part = inside.file, inside
    if not callable(getattr(file, "read", None)):
        return None
    if part.iterated and not _has_lines_of_bytes(file):
        return None
    kernel: KernelFile | None = None
    status, why = _status(file)
    in_memory = False
    if status is not None:
        kernel = file
    elif _counts_otherwise(file):
        return None
    else:
        if isinstance(file, io.TextIOBase):
            message = f'{name_of(file)} is open in text mode: open it with mode "rb" to send it'
            raise TypeError(message)
        in_memory = type(file) is io.BytesIO and READING.isdisjoint(vars(file))
    offset, size, mtime_ns = part.start, None, None
    if offset is None and (kernel is not None or in_memory or part.skip):
        if part.skip and not seekable(file):
            return None
        # By tell(), as the descriptor of a buffered reader runs ahead of it.
        offset = file.tell()
    if offset is not None:
        offset += part.skip
    if kernel is not None and status is not None and offset is not None:
        size = _size(kernel, status, offset)
        if size is not None and isinstance(kernel.name, (str, bytes, os.PathLike)):
            mtime_ns = status.st_mtime_ns
        if size is None or not status.st_size:
            kernel, why = None, "the kernel does not tell its size, or it is empty"
    elif in_memory:
        with file.getbuffer() as buffer:
            size = max(0, buffer.nbytes - offset)
    return FileRegion(
        file,
        kernel,
        offset,
        size,
        part.count,
        part.block_size,
        mtime_ns,
        part.threaded,
        why,
        part.temporary,
    )


def _has_lines_of_bytes(file: Any) -> bool:
    """Whether to read it gives what it would give when iterated.

    A sub-class may change its lines, and lines of text are for a framework to
    encode; a stream that trickles would wait until a block is full.
    """
    kind = type(file)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return name in _LINES_OF_BYTES and READING.isdisjoint(getattr(file, "__dict__", {}))


def _counts_otherwise(file: object) -> bool:
    """Whether its read() takes something else than a number of bytes.

    What codecs.EncodedFile() makes counts characters. A zipfile.ZipFile reads members by
    name, and some sub-classes give the archive when they are iterated.
    """
    zipfile: Any = sys.modules.get("zipfile")
    return isinstance(file, codecs.StreamRecoder) or (
        zipfile is not None and isinstance(file, zipfile.ZipFile)
    )


def _size(file: KernelFile, status: os.stat_result, offset: int) -> int | None:
    """Bytes of a regular file from offset to its end; None if that is not known.

    Files of /proc have bytes and say 0, those of /sys say 4096 for a word. The
    latter occupy no blocks, like a file that is all holes, but that one has a
    byte at its end.
    """
    size = status.st_size
    if not size:
        # There is nothing in it, if there is nothing to be seen.
        if isinstance(file, io.FileIO) or file.tell() != offset or file.peek(1):
            return None
    elif getattr(status, "st_blocks", 1) == 0 and not os.pread(file.fileno(), 1, size - 1):
        return None
    return max(0, size - offset)


def _status(file: object) -> tuple[os.stat_result, str] | tuple[None, str]:
    """Its fstat, if it is a kernel file: its descriptor holds what its read() gives.

    Else None, and why it is not.
    """
    if type(file) is io.BufferedReader or type(file) is io.BufferedRandom:
        raw: object = file.raw
        if type(file) is io.BufferedRandom:
            # As read() would do: the descriptor has not seen these writes yet.
            file.flush()
    elif type(file) is io.FileIO:
        raw = file
    else:
        return None, "its descriptor, if it has one, may hold other bytes than read() gives"
    if type(raw) is not io.FileIO or not raw.readable():
        return None, "it reads from something else than a file"
    if not (READING.isdisjoint(vars(file)) and READING.isdisjoint(vars(raw))):
        return None, "somebody gave it reading methods of his own"
    status = os.fstat(raw.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None, "it is a pipe or a device"
    return status, ""
