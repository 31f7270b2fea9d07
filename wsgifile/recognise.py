"""Is what the application returned a file, and which of its bytes are meant?

Speed and safety depend on two questions. Does ``read()`` give the bytes that iterating
gives? A server would iterate, so what the application did not hand to ``wsgi.file_wrapper``
is read only if that is known. And does a descriptor hold the same bytes that ``read()`` would
give? ``fileno()`` proves nothing: gzip, bz2, lzma, members of tar and zip archives and many
wrappers hand out the descriptor of *other* bytes. Both answers go by type. A sub-class counts
as the type that it is derived from, unless it defines a method which may change the bytes.

What frameworks put around a file is looked through by ``layers``.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import GeneratorType
from typing import Any

from .blocks import FileLike, is_seekable, name_of
from .layers import (
    ITERATING_METHODS,
    READING_METHODS,
    Inner,
    inherited,
    layer_of,
    rewinds,
    unwrap,
)
from .sources import Source, describer_of

__all__ = ["NOT_FILES", "FileRegion", "FileSlice", "KernelFile", "recognise"]

KernelFile = io.FileIO | io.BufferedReader | io.BufferedRandom

#: Most responses by far. For these nothing else has to be asked.
NOT_FILES = frozenset({list, tuple, GeneratorType})

#: Types that read what they are open on, by module and name.
_BUILT_IN: dict[str, type] = {
    "_io.BufferedRandom": io.BufferedRandom,
    "_io.BufferedReader": io.BufferedReader,
    "_io.BytesIO": io.BytesIO,
    "_io.FileIO": io.FileIO,
}

#: A class that defines one of these may read other bytes than the type it derives from.
_CHANGES = READING_METHODS | {"__getattribute__", "flush", "getbuffer", "peek", "raw"}

#: An instance that has one of these as an attribute of its own may give other bytes.
_OF_INSTANCE = READING_METHODS | ITERATING_METHODS

#: Types whose items, joined, are the bytes that read() gives. True: also if a sub-class has
#: another read(), because iterating calls it.
_ITEMS_OF_BYTES = {
    "ZPublisher.Iterators.filestream_iterator": True,
    "_io.BufferedRandom": False,
    "_io.BufferedReader": False,
    "_io.BytesIO": False,
    "_io.FileIO": True,
    "_io._IOBase": True,
    "botocore.response.StreamingBody": True,
    "bz2.BZ2File": False,
    "django.core.files.base.File": True,
    "fsspec.spec.AbstractBufferedFile": True,
    "gzip.GzipFile": False,
    "http.client.HTTPResponse": False,
    "lzma.LZMAFile": False,
    "mmap.mmap": False,
    "paramiko.file.BufferedFile": False,
    "smart_open.http.BufferedInputBase": False,
    "smart_open.s3.Reader": False,
    "zipfile.ZipExtFile": False,
}


#: For a file that the application has returned as it is.
_ITERATED = Inner(None, iterated=True)


@dataclass(slots=True)
class FileRegion:
    """The bytes of a file that are the application's response.

    Positions are absolute and half open. A file that cannot tell its position is read
    from where it stands, and that position is called 0.
    """

    filelike: FileLike
    #: The same file, if its descriptor holds exactly the bytes that read() gives, it is a
    #: regular file, and its size is known. None: send it by read() only.
    kernel: KernelFile | None
    #: Position of the first byte.
    start: int
    #: Whether to seek to start; False: read from where the file stands.
    seek: bool
    #: Position of the end of the file; None: not known.
    end: int | None
    #: Position behind the last byte that the application allows; None: it set no limit.
    limit: int | None
    #: The least number of bytes to read at once, as the application asked.
    block_size: int = 1
    #: The fstat of a regular file whose descriptor holds the same bytes; None: any other file.
    status: os.stat_result | None = None
    #: Whether close() has to run in the thread that called the application.
    close_in_thread: bool = False
    #: Why kernel is None, if it is.
    reason: str = ""
    #: Whether close() deletes the file.
    temporary: bool = False
    #: What is known of a file that is neither the kernel's nor a BytesIO.
    source: Source | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk or in memory, where any thread may read it."""
        return self.end is not None and self.source is None

    @property
    def random(self) -> bool:
        """Whether going back in the file is as cheap as going on."""
        return self.end is not None and (self.source is None or self.source.random)

    @property
    def stop(self) -> int | None:
        """Position behind the last byte; None: not known."""
        if self.end is None or self.limit is None:
            return self.end
        return min(self.end, self.limit)


@dataclass(slots=True)
class FileSlice:
    """The bytes from start up to stop of a descriptor; at least one."""

    file: KernelFile
    start: int
    stop: int


def recognise(app_iter: object) -> FileRegion | None:
    """The file that app_iter is or contains; None: it is not a file, or not ours to send.

    No position moves. Bytes are peeked at only to check a size, and read() still gives them.

    :raises TypeError: for a file opened in text mode.
    """
    if type(app_iter) in NOT_FILES:
        return None
    kind = _kind(type(app_iter))
    inner = unwrap(app_iter) if kind.is_layer else None
    if inner is not None:
        file = inner.file
        kind = _kind(type(file))
    elif kind.is_only_iterated:
        return None
    else:
        file, inner = app_iter, _ITERATED
    as_made = kind.is_file and _OF_INSTANCE.isdisjoint(file.__dict__)
    source = None if kind.describer is None else kind.describer(file)
    if not (as_made or _is_readable(file, inner, kind, source)):
        return None
    if source is not None and source.size is not None:
        return _region_of_source(file, inner, kind, source)
    return _region(file, inner, kind, as_made=as_made, source=source)


def _region_of_source(file: Any, inner: Inner, kind: _Kind, source: Source) -> FileRegion | None:
    """What inner says of a file whose size is known, as positions in it."""
    size, start, seek = source.size, inner.start, True
    assert size is not None
    if start is None and inner.iterated and kind.may_be_rewound:
        start = 0
    elif start is None:
        start = source.start
    if start is None:
        # It cannot tell its position, so it is called 0.
        if inner.skip:
            return None
        start, seek = 0, False
    start += inner.skip
    return FileRegion(
        filelike=file,
        kernel=None,
        start=start,
        seek=seek,
        end=max(start, size),
        limit=None if inner.count is None else start + inner.count,
        block_size=inner.block_size,
        close_in_thread=inner.close_in_thread,
        reason="it is no file on a disk",
        temporary=inner.temporary,
        source=source,
    )


def _region(
    file: Any, inner: Inner, kind: _Kind, as_made: bool, source: Source | None
) -> FileRegion | None:
    """What inner says of this file, as positions in it; None: they cannot be reached.

    :param as_made: whether no attribute of the instance may change its bytes.
    """
    status, reason = _status(file, kind, as_made)
    in_memory = kind.built_in is io.BytesIO and (as_made or _is_unmodified(file))
    position = _position(file, inner, kind, tells=status is not None or in_memory)
    if position is None:
        return None
    start, seek = position
    end = kernel = None
    if in_memory:
        end = _end_of_bytesio(file, start)
    elif status is not None:
        end = _end_of_file(file, status, start)
        kernel = file if end is not None and status.st_size else None
    # By position: with keywords, Python takes three times as long to make the object.
    return FileRegion(
        file,
        kernel,
        start,
        seek,
        end,
        None if inner.count is None else start + inner.count,
        inner.block_size,
        status,
        inner.close_in_thread or (inner.iterated and end is not None and kind.closes_itself),
        reason,
        inner.temporary,
        source,
    )


class _Kind:
    """What is known of a type, so that one look-up tells all of it."""

    def __init__(self, kind: type) -> None:
        #: Whether ``layers`` may look through it.
        self.is_layer = layer_of(kind) is not None
        #: The built-in type that it is, or that it derives from without changing the bytes.
        self.built_in = inherited(kind, _BUILT_IN, _CHANGES)
        self.is_buffered = self.built_in in (io.BufferedReader, io.BufferedRandom)
        #: Whether a sub-class of a built-in file has a close() of its own, which may need the
        #: application's thread. A server that iterates the file calls it in that thread. A
        #: server's wrapper may call it in any thread.
        self.closes_itself = inherited(kind, _BUILT_IN, frozenset({"close"})) is None
        #: The value of _ITEMS_OF_BYTES; None: it may give anything.
        self.iterates_by_read = _iterates_by_read(kind)
        #: Whether it is a file, unless an attribute of the instance may change its bytes.
        self.is_file = self.built_in is not None and self.iterates_by_read is not None
        #: What tells more of an instance that is no file of the kernel; None: nothing does.
        self.describer = describer_of(kind)
        #: Whether iterating it may begin at its beginning.
        self.may_be_rewound = rewinds(kind)
        #: Whether no instance is a file unless ``layers`` looks through it. isinstance() may take
        #: an instance that lies about its class for a text file.
        self.is_only_iterated = (
            self.iterates_by_read is None
            and self.describer is None
            and not issubclass(kind, io.TextIOBase)
            and not any(
                {"__class__", "__getattribute__"} & vars(base).keys() for base in kind.__mro__[:-1]
            )
        )


#: By type. Bounded, because a program may make types as it runs.
_kind: Callable[[type], _Kind] = lru_cache(256)(_Kind)


def _is_readable(file: Any, inner: Inner, kind: _Kind, source: Source | None) -> bool:
    """Whether it has a read(), which gives the bytes that the application means.

    :raises TypeError: for a file opened in text mode, which nobody would encode.
    """
    if kind.built_in is None and isinstance(file, io.TextIOBase):
        if inner.encoded:
            return False
        raise TypeError(f'{name_of(file)} is open in text mode: open it with mode "rb" to send it')
    # Its read() is not even looked up if it is not used: that may be code which fails.
    if inner.iterated and not (
        _iterates_as_it_reads(file, kind) or (source is not None and source.iterates)
    ):
        return False
    return callable(getattr(file, "read", None)) and (inner.iterated or _reads_bytes(file))


def _position(file: Any, inner: Inner, kind: _Kind, *, tells: bool) -> tuple[int, bool] | None:
    """The position of the first byte, and whether to seek there. None: it cannot be reached.

    :param tells: whether the file is known to tell its position.
    """
    if inner.start is not None:
        return inner.start + inner.skip, True
    if inner.iterated and kind.may_be_rewound and is_seekable(file):
        return inner.skip, True
    if not (tells or inner.skip):
        return 0, False
    if inner.skip and not is_seekable(file):
        return None
    # By tell(): the descriptor of a buffered reader runs ahead of it.
    return file.tell() + inner.skip, True


def _iterates_as_it_reads(file: Any, kind: _Kind) -> bool:
    """Whether read() gives the bytes that iterating gives, as far as that is known."""
    if kind.iterates_by_read is None:
        return False
    methods = ITERATING_METHODS if kind.iterates_by_read else READING_METHODS
    return methods.isdisjoint(getattr(file, "__dict__", {}))


def _iterates_by_read(kind: type) -> bool | None:
    """The value of _ITEMS_OF_BYTES for this type; None: it may give anything.

    What cannot be iterated can only be read.
    """
    if not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")):
        return True
    if inherited(kind, _ITEMS_OF_BYTES, ITERATING_METHODS):
        return True
    return inherited(kind, _ITEMS_OF_BYTES, ITERATING_METHODS | {"read", "read1"})


def _reads_bytes(file: object) -> bool:
    """Whether its read() takes a number of bytes.

    The read() of what codecs.EncodedFile() makes counts characters. zipfile.ZipFile reads
    members by name, and some of its sub-classes give the archive when they are iterated.
    """
    zipfile: Any = sys.modules.get("zipfile")
    return not (
        isinstance(file, codecs.StreamRecoder)
        or (zipfile is not None and isinstance(file, zipfile.ZipFile))
    )


def _is_unmodified(file: object) -> bool:
    """Whether no reading method was replaced on this instance."""
    return READING_METHODS.isdisjoint(getattr(file, "__dict__", {}))


def _end_of_bytesio(file: io.BytesIO, start: int) -> int:
    """Position of the end of the bytes, not before start."""
    # getbuffer() would copy all of it, if it was made of bytes.
    position = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(position)
    return max(start, end)


def _end_of_file(file: KernelFile, status: os.stat_result, start: int) -> int | None:
    """Position of the end of a regular file, not before start; None: it is not known.

    Files of /proc have bytes and say 0; those of /sys say 4096 for a word. The latter
    occupy no blocks. Neither does a file that is all holes, but that one has a byte at
    its end.
    """
    size = status.st_size
    if not size:
        # It is empty if there is nothing to see.
        if isinstance(file, io.FileIO) or file.tell() != start or file.peek(1):
            return None
    elif getattr(status, "st_blocks", 1) == 0 and not os.pread(file.fileno(), 1, size - 1):
        return None
    return max(start, size)


def _status(file: Any, kind: _Kind, as_made: bool) -> tuple[os.stat_result | None, str]:
    """The fstat of a kernel file, one whose descriptor holds what its read() gives.

    None for any other file. The second value says why the descriptor is not used, if it is not.
    """
    raw = file
    if kind.is_buffered:
        raw = file.raw
        if kind.built_in is io.BufferedRandom:
            # Writes may not have reached the descriptor yet. read() would flush them too.
            file.flush()
    elif kind.built_in is not io.FileIO:
        return None, "its descriptor, if it has one, may hold other bytes than read() gives"
    if _kind(type(raw)).built_in is not io.FileIO or not raw.readable():
        return None, "it does not read from a file"
    if not (READING_METHODS.isdisjoint(raw.__dict__) and (as_made or _is_unmodified(file))):
        return None, "a reading method was replaced on it"
    status = os.fstat(raw.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None, "it is a pipe or a device"
    return status, "the kernel does not know its size, or it is empty"
