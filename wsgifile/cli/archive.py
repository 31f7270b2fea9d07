"""A directory as one zip archive (``--zip``), made while it is sent.

Files are stored as they are. So the length of the archive and the place of each byte are known
beforehand, and a client can resume the download at any byte.

A file's checksum is known only after the file has been read. So it comes after the file, in a data
descriptor, and again in the central directory at the end. A request for the end alone reads the
files for it, unless an earlier request has done so.

The format is in PKWARE's APPNOTE.TXT, version 6.3.10.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple, cast
from zlib import crc32

__all__ = ["Archive", "BusyError", "Member"]

_BLOCK = 256 << 10
#: A field of 32 bits, or of 16, that says: see the ZIP64 extra field.
_LARGE, _MANY = 0xFFFFFFFF, 0xFFFF
#: Versions of the format: with directories, and with ZIP64.
_PLAIN, _ZIP64 = 20, 45
#: The checksum comes after the file; the name is UTF-8.
_DESCRIPTOR, _UTF_8 = 1 << 3, 1 << 11
_UNIX = 3 << 8
#: Checksums of files that were read, by the name and status of the file. Bounded.
_checksums: dict[tuple[str, int, float], int] = {}
_MOST_CHECKSUMS = 200_000


#: So many files are read at once only for their checksums. Meanwhile nothing is sent, so nobody
#: sees that the client has left. A request for the last byte of a large archive is cheap to make.
_reading = threading.Semaphore(2)


class BusyError(OSError):
    """A checksum has to wait, because others are computed."""


class Member(NamedTuple):
    """A file or a directory in the archive."""

    #: Below the directory that was asked for, with slashes. A directory's ends with one. It has no
    #: backslash: Windows would take that for a slash, and write "..\\x" outside of the directory.
    name: str
    #: Where it is on this machine. This is not in the archive.
    path: str
    #: Opens the file, and returns its descriptor, or its path. None: it is a directory.
    open: Callable[[], int | str] | None
    size: int
    #: Seconds since the epoch.
    mtime: float


class Archive:
    """The bytes of the archive."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._entries = []
        offset = 0
        for member in members:
            entry = _Entry(member, offset)
            self._entries.append(entry)
            offset += len(entry.header) + member.size + entry.length_of_descriptor
        self._end = offset
        #: Number of bytes.
        self.length: int = offset + len(self._directory(lambda entry: 0))

    def etag(self) -> str:
        """A strong ETag, of the name, size and date of every file."""
        digest = sha256()
        for entry in self._entries:
            member = entry.member
            said = (member.name, member.path, member.size, member.mtime)
            digest.update(repr(said).encode(errors="surrogateescape"))
        return f'"zip-{digest.hexdigest()[:32]}"'

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from start up to stop, in blocks.

        :raises BusyError: if too many checksums are computed already.
        :raises OSError: if a file has changed since the archive was begun, or is gone.
        """
        for entry in self._entries:
            if entry.offset >= stop:
                return
            if start < entry.end:
                yield from entry.read(max(0, start - entry.offset), stop - entry.offset)
        if stop > self._end:
            data = self._directory(_Entry.checksum)
            yield data[max(0, start - self._end) : stop - self._end]

    def _directory(self, checksum: Callable[[_Entry], int]) -> bytes:
        """The central directory, which names all members, and its end."""
        listed = b"".join(entry.central(checksum(entry)) for entry in self._entries)
        count, size, offset = len(self._entries), len(listed), self._end
        end = b""
        if count >= _MANY or size >= _LARGE or offset >= _LARGE:
            made = (_UNIX | _ZIP64, _ZIP64)
            end = struct.pack(
                "<4sQHHLLQQQQ", b"PK\6\6", 44, *made, 0, 0, count, count, size, offset
            )
            end += struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)
        count, size, offset = min(count, _MANY), min(size, _LARGE), min(offset, _LARGE)
        end += struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, count, count, size, offset, 0)
        return listed + end


class _Entry:
    """A member, and its place in the archive."""

    def __init__(self, member: Member, offset: int) -> None:
        self.member, self.offset = member, offset
        self._checksum: int | None = None
        self._large = member.size >= _LARGE
        self._name = os.fsencode(member.name)
        self._flags = 0 if member.open is None else _DESCRIPTOR
        if _is_utf_8(self._name):
            self._flags |= _UTF_8
        self._time = _dos_time(member.mtime)
        extra, size = b"", member.size
        if self._large:
            extra, size = struct.pack("<HHQQ", 1, 16, size, size), _LARGE
        version = _ZIP64 if self._large else _PLAIN
        self.header = struct.pack(
            "<4sHHHLLLLHH",
            *(b"PK\3\4", version, self._flags, 0, self._time, 0),
            *(size, size, len(self._name), len(extra)),
        )
        self.header += self._name + extra
        self.length_of_descriptor = 0 if member.open is None else 24 if self._large else 16
        self.end = offset + len(self.header) + member.size + self.length_of_descriptor

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from start up to stop of the header, the file and the descriptor."""
        begin, size = len(self.header), self.member.size
        if start < begin:
            yield self.header[start:stop]
        if size and start < begin + size and stop > begin:
            yield from self._read_file(max(0, start - begin), min(size, stop - begin))
        if stop > begin + size and self.length_of_descriptor:
            sizes = "QQ" if self._large else "LL"
            data = struct.pack(f"<4sL{sizes}", b"PK\7\x08", self.checksum(), size, size)
            yield data[max(0, start - begin - size) : stop - begin - size]

    def checksum(self) -> int:
        """The file's CRC-32."""
        if not self.member.size:
            return 0
        if self._checksum is None:
            self._checksum = _checksums.get(self._key)
        if self._checksum is None:
            if not _reading.acquire(blocking=False):
                raise BusyError("too many files are read for their checksums")
            try:
                for _ in self._read_file(0, self.member.size):
                    pass
            finally:
                _reading.release()
        return cast(int, self._checksum)

    @property
    def _key(self) -> tuple[str, int, float]:
        return self.member.path, self.member.size, self.member.mtime

    def _read_file(self, start: int, stop: int) -> Iterator[bytes]:
        assert self.member.open is not None
        checksum = 0
        with open(self.member.open(), "rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime) != self._key[1:]:
                raise OSError("a file has changed while an archive of it was sent")
            file.seek(start)
            for position in range(start, stop, _BLOCK):
                size = min(_BLOCK, stop - position)
                data = file.read(size)
                if len(data) < size:
                    raise OSError("a file has become shorter while an archive of it was sent")
                checksum = crc32(data, checksum)
                yield data
        if start == 0 and stop == self.member.size:
            if len(_checksums) >= _MOST_CHECKSUMS:
                _checksums.clear()
            # Its own, because another thread may clear those of all.
            self._checksum = _checksums[self._key] = checksum

    def central(self, checksum: int) -> bytes:
        """The member's part of the central directory."""
        size, offset, extra = self.member.size, self.offset, b""
        if self._large:
            extra, size = struct.pack("<QQ", size, size), _LARGE
        if offset >= _LARGE:
            extra, offset = extra + struct.pack("<Q", offset), _LARGE
        if extra:
            extra = struct.pack("<HH", 1, len(extra)) + extra
        version = _ZIP64 if extra else _PLAIN
        # As the owner may read and write it; a directory also has MS-DOS's flag for it.
        attributes = 0o100644 << 16 if self.member.open else (0o40755 << 16) | 0x10
        fields = struct.pack(
            "<4sHHHHLLLLHHHHHLL",
            *(b"PK\1\2", _UNIX | version, version, self._flags, 0, self._time, checksum),
            *(size, size, len(self._name), len(extra), 0, 0, 0, attributes, offset),
        )
        return fields + self._name + extra


def _is_utf_8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _dos_time(seconds: float) -> int:
    """Local time, in steps of two seconds, from 1980 to 2107."""
    try:
        then = time.localtime(seconds)
    except (ValueError, OverflowError, OSError):  # The system cannot convert it.
        then = time.localtime(0)
    if not 1980 <= then.tm_year <= 2107:
        return 1 << 21 | 1 << 16
    date = (then.tm_year - 1980) << 9 | then.tm_mon << 5 | then.tm_mday
    return date << 16 | then.tm_hour << 11 | then.tm_min << 5 | min(then.tm_sec, 59) // 2
