"""What is known of files that are not files on disk: in object stores, in archives, in memory.

One table: from the type of a file to what can be said of it without asking anybody, such as
its length. No library is imported: a type counts as in ``layers``. Private attributes of a
library are used only if they are there.

An object store answers a few large requests faster than many small ones, and a range should
cost its own bytes. Libraries read on beyond what was asked for, by up to 50 MiB, and some
download the whole file before the first byte. :class:`Fetched` asks for exactly what it is
to read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from .blocks import DEFAULT_BLOCK_SIZE, BlockReader, FileLike, is_seekable, name_of
from .conditions import is_etag, seconds_of_date
from .layers import ITERATING_METHODS, READING_METHODS, inherited
from .read_ahead import DEPTH

__all__ = ["Fetched", "Forwards", "Source", "describer_of", "goes_forwards"]

#: Number of bytes to ask a store for at once, unless the client wants fewer. If the store answers
#: after 30 ms and sends 100 MB/s, a sixth of the time is lost by waiting. A library that reads
#: smaller blocks, or is told to, keeps its size, so no response takes more memory than without us.
_REQUEST = 16 * 2**20
#: The same for a body that arrives without further requests. It is urllib3's own number.
_STREAMED = 65536

#: Caches of fsspec that only read ahead, by their names. Others may be shared or be on a disk.
_READING_AHEAD = frozenset({"bytes", "none", "readahead"})
#: fsspec's names of object stores. Their ETags differ for different bytes, also of two objects.
_OBJECT_STORES = frozenset({"abfs", "abfss", "az", "gcs", "gs", "oss", "s3", "s3a"})

#: The methods by which a class may read, besides seek().
_READS = frozenset({"read", "read1", "readall", "readinto", "tell"})


@dataclass(slots=True)
class Source:
    """What is known of a file."""

    #: Number of bytes; None: not known. They count from where the file stands if start is None.
    size: int | None
    #: Where the file stands. None: it cannot tell.
    start: int | None = None
    #: What reads the same bytes at a lower cost, from any position. None: the file itself.
    reader: FileLike | None = None
    #: Whether going back is as cheap as going on.
    random: bool = True
    #: The ETag of all bytes, and the time of modification in nanoseconds since the epoch.
    etag: str | None = None
    modified_ns: int | None = None
    #: The least number of bytes to read at once.
    read_size: int = 0
    #: Number of blocks to read ahead by default. Any thread may read it, if this is not 0.
    read_ahead: int = 0
    #: Whether it compares a checksum when read() finds the end.
    checks_end: bool = False
    #: Whether iterating it gives the bytes that read() gives.
    iterates: bool = True


class Fetched:
    """A file of which ranges are fetched, each by one request.

    :param fetch: gives the bytes from its first argument up to its second.
    """

    def __init__(self, file: Any, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._file = file
        self._size = size
        self._fetch = fetch
        self._position = 0

    def __repr__(self) -> str:
        return name_of(self._file)

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, size: int) -> bytes:
        """Up to size more bytes."""
        stop = min(self._position + size, self._size)
        if self._position >= stop:
            return b""
        data = self._fetch(self._position, stop)
        self._position += len(data)
        return data


class Forwards:
    """A file that can only be moved forwards. Where it stands is position 0."""

    def __init__(self, filelike: FileLike) -> None:
        self._blocks = BlockReader(filelike)

    def __repr__(self) -> str:
        return name_of(self._blocks.filelike)

    def seek(self, position: int) -> None:
        """Go to this position, which is not before the next byte.

        By the file's own seek(), if it works: that of a decompressor does not copy what it
        leaves out. Otherwise by reading.
        """
        blocks = self._blocks
        file: Any = blocks.filelike
        left_out = position - blocks.position
        if left_out > 0 and not blocks.has_rest and goes_forwards(file) and _skip(file, left_out):
            blocks.position = position
        while blocks.position < position:
            if not blocks.next_block(min(position - blocks.position, _SKIPPED)):
                return  # It has ended. So read() will find nothing.

    def read(self, size: int) -> bytes:
        """Up to size more bytes."""
        return self._blocks.next_block(size)


#: Number of bytes to read at once, of those that are left out.
_SKIPPED = 262144


def _skip(file: Any, count: int) -> bool:
    """Go forwards by count bytes. False: it has not moved.

    Many classes have a seek() that does nothing, or always fails, because something asks
    whether there is one.
    """
    before = file.tell()
    if not isinstance(before, int):
        return False
    try:
        file.seek(before + count)
    except Exception:
        if file.tell() != before:
            raise
        return False
    after = file.tell()
    if after not in (before, before + count):
        raise OSError(f"seek({before + count}) went to {after}")
    return bool(after != before)


def goes_forwards(file: Any) -> bool:
    """Whether it may be moved forwards."""
    kind: Any = type(file)  # (mypy takes types for unhashable.)
    if not (_seeks_as_it_reads(kind) and READING_METHODS.isdisjoint(_attributes(file))):
        return False
    try:
        return is_seekable(file)
    except Exception:
        return False  # It may be closed. Then reading it will say so.


@lru_cache(256)
def _seeks_as_it_reads(kind: type) -> bool:
    """Whether positions of its seek() are those of the bytes that its read() gives.

    They are not if a class has a read() or tell() of its own, which may decrypt, but has the
    seek() of what it reads, by inheritance or by __getattr__().
    """
    for base in kind.__mro__:
        if "seek" in vars(base):
            return True
        if not _READS.isdisjoint(vars(base)):
            return False
    return False


@lru_cache(256)
def describer_of(kind: type) -> Callable[[Any], Source | None] | None:
    """What describes files of this type, if anything does."""
    look = inherited(kind, _SOURCES, READING_METHODS)
    if look is None:
        return None
    return _Describer(look, inherited(kind, _SOURCES, ITERATING_METHODS) is not None)


class _Describer:
    """Describes a file, unless something about it is not as expected.

    :param iterates: whether no sub-class gives other bytes when it is iterated.
    """

    def __init__(self, look: Callable[[Any], Source | None], iterates: bool) -> None:
        self._look = look
        self._iterates = iterates

    def __call__(self, file: Any) -> Source | None:
        attributes = _attributes(file)
        if not READING_METHODS.isdisjoint(attributes):
            return None
        try:
            source = self._look(file)
        except Exception:
            # These are other projects' attributes, which may have changed; or it is closed.
            return None
        if source is None or not (source.size is None or _is_size(source.size)):
            return None
        source.iterates &= self._iterates and ITERATING_METHODS.isdisjoint(attributes)
        return source


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0


def _attributes(file: Any) -> dict[str, Any]:
    return getattr(file, "__dict__", {})


def _fsspec(file: Any) -> Source | None:
    if file.mode != "rb" or not _is_size(file.size):
        return None
    source = Source(file.size, file.tell())
    if getattr(file.fs, "async_impl", False):
        # It asks in a thread of its own, whoever reads. Of others, one connection may be all.
        source.read_ahead = DEPTH
    if getattr(file.cache, "name", None) in _READING_AHEAD:
        source.reader = Fetched(file, file.size, _past_cache(file.cache))
        source.read_size = _request(file.blocksize)
    protocol = file.fs.protocol
    if not _OBJECT_STORES.isdisjoint([protocol] if isinstance(protocol, str) else protocol):
        details = file._details or {}  # Not by its property, which may ask the store.
        source.etag = _etag(details.get("ETag") or details.get("etag"))
        dates = [details.get(key) for key in ("LastModified", "last_modified", "updated")]
        source.modified_ns = _nanoseconds(next(filter(None, dates), None))
    return source


def _request(block_size: int) -> int:
    """Number of bytes to ask for, of a library that has blocks of this size."""
    return min(_REQUEST, max(block_size, DEFAULT_BLOCK_SIZE))


def _past_cache(cache: Any) -> Callable[[int, int], bytes]:
    """A function that fetches one range of a file of fsspec, and no more than that.

    It asks the store only if the cache does not hold the range.
    """

    def fetch(start: int, stop: int) -> bytes:
        held = getattr(cache, "start", None)
        if held is not None and held <= start < cache.end:
            data: bytes = cache.cache[start - held : stop - held]
        else:
            data = cache.fetcher(start, stop)
        return data

    return fetch


def _fsspec_http(file: Any) -> Source | None:
    source = _fsspec(file)
    if source is None or source.reader is None or file.size > file.blocksize:
        return source
    # Without us, this works even if the server does not know ranges. So it must work here.
    fetch = _past_cache(file.cache)
    whole: list[bytes] = []

    def fetch_or_take(start: int, stop: int) -> bytes:
        if not whole:
            try:
                return fetch(start, stop)
            except ValueError:
                whole.append(fetch(0, file.size))
        return whole[0][start:stop]

    source.reader = Fetched(file, file.size, fetch_or_take)
    return source


def _django_storages(file: Any) -> Source | None:
    # Its own read() first downloads all of it into a temporary file.
    storage, stored = file._storage, file.obj
    if file._mode != "rb" or file._file is not None:
        return None
    if storage.gzip and stored.content_encoding == "gzip":
        return None
    if type(file).file is not sys.modules["storages.backends.s3"].S3File.file:
        return None  # A sub-class that reads something else, such as what it has decrypted.
    allowed = sys.modules["boto3.s3.transfer"].S3Transfer.ALLOWED_DOWNLOAD_ARGS
    params = storage.get_object_parameters(file.name)
    params = {key: value for key, value in params.items() if key in allowed}
    # Noted once: after each get(), boto3 asks the store again.
    size, e_tag, modified = file.size, stored.e_tag, stored.last_modified
    etag = _etag(e_tag)
    if etag is None or etag.startswith("W/") or not _is_size(size):
        return None  # Nothing would tell that the object was replaced between two requests.

    def fetch(start: int, stop: int) -> bytes:
        wanted = f"bytes={start}-{stop - 1}"
        got = stored.get(**params, Range=wanted, IfMatch=e_tag)
        data: bytes = got["Body"].read()
        if len(data) != stop - start:
            raise OSError(f"{len(data)} bytes instead of {wanted}")
        return data

    return Source(
        size,
        0,
        Fetched(file, size, fetch),
        etag=etag,
        modified_ns=_nanoseconds(modified),
        read_size=_request(file.buffer_size),
        read_ahead=DEPTH,
    )


def _streaming_body(body: Any) -> Source:
    length, taken = body._content_length, body._amount_read
    size = None if length is None else int(length) - taken
    source = Source(size, random=False, read_ahead=DEPTH, checks_end=True)
    headers = getattr(body._raw_stream, "headers", {})
    if not taken and "Content-Range" not in headers:
        source.etag = _etag(headers.get("ETag"))
        source.modified_ns = _nanoseconds(headers.get("Last-Modified"))
    return source


def _urllib3(response: Any) -> Source:
    # read() gives the bytes as they are on the wire. Iterating may decompress them.
    source = Source(None, random=False, read_ahead=DEPTH, iterates=False)
    if "content-encoding" not in response.headers and not response.tell():
        source.size = response.length_remaining
    if source.size is not None:
        source.iterates = True
        # If the body ends early, its read() raises an error. read1() gives what has arrived.
        source.reader, source.read_size = SimpleNamespace(read=response.read), _STREAMED
    return source


def _smart_open_http(file: Any) -> Source | None:
    size, position = file.content_length, file.tell()  # -1 if it is not known.
    if file.response.headers.get("Accept-Ranges", "").lower() == "bytes":
        return Source(size, position)
    # Its seek() would ask for a range, and fail if it does not get one.
    return Source(size - position, reader=SimpleNamespace(read=file.read), random=False)


def _tar_member(file: Any) -> Source:
    size, position = file.raw.size, file.tell()
    if hasattr(file.raw.fileobj, "seekable") and file.seekable():
        return Source(size, position, random=False)
    return Source(size - position, random=False)  # Of an archive that is read as a stream.


def _etag(value: Any) -> str | None:
    """The ETag as a header has it. Some stores leave the quotes away."""
    if not isinstance(value, str):
        return None
    if is_etag(value):
        return value
    return f'"{value}"' if re.fullmatch(r"[!#-~]+", value) else None


def _nanoseconds(date: Any) -> int | None:
    if isinstance(date, datetime) and date.tzinfo is not None:
        return int(date.timestamp()) * 10**9
    seconds = seconds_of_date(date) if isinstance(date, str) else None
    return None if seconds is None else seconds * 10**9


#: By module and name of the type.
_SOURCES: dict[str, Callable[[Any], Source | None]] = {
    # In the order of their names.
    "botocore.httpchecksum.StreamingChecksumBody": _streaming_body,
    "botocore.response.StreamingBody": _streaming_body,
    "fsspec.implementations.http.HTTPFile": _fsspec_http,
    "fsspec.spec.AbstractBufferedFile": _fsspec,
    # Only the length tells that the body ends early. Before Python 3.11, not all methods keep
    # count of it.
    "http.client.HTTPResponse": (
        lambda it: Source(it.length if sys.version_info >= (3, 11) else None, random=False)
    ),
    "mmap.mmap": lambda it: Source(len(it), it.tell()),
    "smart_open.http.SeekableBufferedInputBase": _smart_open_http,
    "smart_open.s3.Reader": (lambda it: Source(it._raw_reader._content_length, it.tell())),
    "storages.backends.s3.S3File": _django_storages,
    "tarfile.ExFileObject": _tar_member,
    "urllib3.response.HTTPResponse": _urllib3,
    # Going back means starting again: a compressed member, and before Python 3.13 any member, is
    # read up to the new position. A size of 0 may be wrong, so such a member is read to find out.
    "zipfile.ZipExtFile": lambda it: Source(it._orig_file_size or None, it.tell(), random=False),
}
