"""Validators of a file, and the conditions that requests make of them.

See RFC 9110, sections 8.8 and 13. WebOb is not used: its matcher misses the second tag of
``"a","b"``, accepts an If-Range date later than Last-Modified, and its conditional
responses ignore If-Unmodified-Since.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, mktime_tz, parsedate_tz
from functools import lru_cache
from hashlib import blake2b
from typing import Any

__all__ = [
    "UNDATED",
    "Validators",
    "date_of_file",
    "etag_of_file",
    "is_etag",
    "path_of_file",
    "seconds_of_date",
]

#: The year 1990, in nanoseconds since the epoch. An earlier time of modification says
#: nothing, because packagers give the same one to all files (OSTree 0, Nix 1, zip archives
#: 1980, Yarn 1984, npm 1985). The next version of a file would have it too.
UNDATED = 631_152_000 * 10**9

#: Weakness and opaque tag. A tag contains no quote, so findall() takes linear time.
_ETAG = re.compile(r'(W/)?("[!#-~\x80-\xff]*")')


def is_etag(value: str) -> bool:
    """Whether this is an ETag as the header has it."""
    return _ETAG.fullmatch(value) is not None


@lru_cache(1024)
def etag_of_file(path: bytes, size: int, mtime_ns: int, offset: int = 0) -> str:
    """The ETag of size bytes of a file, from offset on, made of its path and modification time.

    It is strong, because file systems tell the time to a few milliseconds. The path tells apart
    files of equal size and time, such as one for each user at one URL. It is hashed, because a
    checksum has collisions among short paths (adler32: /1/2/1 and /2/0/2). The inode is left
    out, because it differs between machines that serve the same file.
    """
    digest = blake2b(path, digest_size=8).hexdigest()
    return f'"{mtime_ns:x}-{size:x}-{offset:x}-{digest}"'


def path_of_file(file: Any, status: os.stat_result) -> bytes | None:
    """The absolute path of a file of which this is the fstat; None: it was opened by no path.

    As the application opened it. Links are not resolved: /srv/current/x stays that, whatever
    release it leads to on this machine. A relative name means nothing without its directory,
    which may be any (os.chdir, an opener with dir_fd), so the kernel has to tell. The same goes
    for the name of a descriptor, such as /dev/fd/7, and for one with which the opener has opened
    another file.
    """
    name = file.name
    if not isinstance(name, (str, bytes, os.PathLike)):
        return None
    try:
        return _path_by_name(os.fspath(name), status.st_dev, status.st_ino, status.st_ctime_ns)
    except (OSError, ValueError):
        pass
    try:
        return os.readlink(b"/proc/self/fd/%d" % file.fileno())
    except OSError:
        return os.path.abspath(os.fsencode(name))  # Not on Linux.


@lru_cache(1024)
def _path_by_name(name: str | bytes, device: int, inode: int, ctime_ns: int) -> bytes:
    """This absolute name, if it leads to that file.

    Once seen, it is remembered as long as the file's status does not change, so not if it is
    renamed. A directory above it may be. It stays true that the file was there, so the ETag
    made of this path tells it from others as before.

    :raises OSError: if the name leads to no file or to another one. This is not remembered.
    :raises ValueError: if it is no absolute name.
    """
    path = os.fsencode(name)
    if not path.startswith(b"/") or path.startswith((b"/dev/", b"/proc/")):
        raise ValueError("not the absolute name of a file")
    there = os.stat(path)
    if (there.st_dev, there.st_ino) != (device, inode):
        raise FileNotFoundError("another file has this name now")
    return path


def date_of_file(mtime_ns: int) -> str | None:
    """Last-Modified for this time of modification, or None.

    None for a file modified within the current second, because it may be modified again
    and get the same date; and for a time in the future (sections 8.8.2.1 and 8.8.2.2).
    """
    seconds = mtime_ns // 10**9
    return formatdate(seconds, usegmt=True) if 0 < seconds < int(time.time()) else None


@dataclass(slots=True)
class Validators:
    """The validators in a response's header."""

    #: The ETag header. None: there is none. A malformed one counts as none.
    etag: str | None
    #: The Last-Modified header; likewise for None and a malformed one.
    last_modified: str | None

    def refuse(self, environ: Mapping[str, Any]) -> str | None:
        """The status that answers a GET or HEAD instead of 200, or None.

        The conditions are evaluated in the order of RFC 9110, section 13.2.2, without If-Range.
        """
        if_match = environ.get("HTTP_IF_MATCH")
        if if_match is not None:
            if not self._matches(if_match, strong=True):
                return "412 Precondition Failed"
        elif self._changed_since(environ.get("HTTP_IF_UNMODIFIED_SINCE")) is True:
            return "412 Precondition Failed"
        if_none_match = environ.get("HTTP_IF_NONE_MATCH")
        if if_none_match is not None:
            if self._matches(if_none_match, strong=False):
                return "304 Not Modified"
        elif self._changed_since(environ.get("HTTP_IF_MODIFIED_SINCE")) is False:
            return "304 Not Modified"
        return None

    def allow_range(self, if_range: str | None) -> bool:
        """Whether If-Range allows the Range header to be followed (section 13.1.5)."""
        if if_range is None:
            return True
        if '"' in if_range:
            own = _ETAG.fullmatch(self.etag or "")
            return own is not None and not own[1] and if_range.strip() == own[2]
        date = seconds_of_date(if_range)
        return date is not None and date == seconds_of_date(self.last_modified)

    def _matches(self, listed: str, *, strong: bool) -> bool:
        """Whether the ETag is among those listed.

        Strong comparison matches strong tags only (section 8.8.3.2).
        """
        if listed.strip() == "*":
            return True
        own = _ETAG.fullmatch(self.etag or "")
        if own is None or (strong and own[1]):
            return False
        return any(tag == own[2] and not (strong and weak) for weak, tag in _ETAG.findall(listed))

    def _changed_since(self, date: str | None) -> bool | None:
        """Whether it was modified after date; None if either is missing or malformed."""
        then, modified = seconds_of_date(date), seconds_of_date(self.last_modified)
        return None if then is None or modified is None else modified > then


def seconds_of_date(date: str | None) -> int | None:
    """An HTTP date (section 5.6.7) in seconds since the epoch; None: missing or malformed."""
    if date is None:
        return None
    try:
        parsed = parsedate_tz(date)
        return None if parsed is None else mktime_tz((*parsed[:9], parsed[9] or 0))
    except (ValueError, OverflowError, IndexError):
        return None
