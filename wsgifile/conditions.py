"""Validators of a file, and the conditions that requests make of them.

RFC 9110, sections 8.8 and 13. Not by WebOb, whose matcher misses the second of
``"a","b"``, takes an earlier date for If-Range, and has no If-Unmodified-Since
in its conditional responses.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, mktime_tz, parsedate_tz
from hashlib import blake2b
from typing import Any

__all__ = ["UNDATED", "Validators", "date_of_file", "etag_of_file", "path_of_file"]

#: The year 1990, in nanoseconds since the epoch. A file was not changed before it: that
#: is a time that packagers give to all of them (OSTree 0, Nix 1, zip archives 1980, Yarn
#: 1984, npm 1985), by which one is not told from the next.
UNDATED = 631_152_000 * 10**9

#: Weakness and opaque tag. Each character is looked at once: a quote that is
#: not closed ends at the next one.
_ETAG = re.compile(r'(W/)?("[!#-~\x80-\xff]*")')


def etag_of_file(path: bytes, size: int, mtime_ns: int, offset: int = 0) -> str:
    """The ETag of size bytes from offset of a file, by its path and time of modification.

    A strong one, as file systems tell the time to a few milliseconds. The path is for files of
    equal size and time, one for each user, at one URL. It is hashed: a checksum has collisions
    among paths as short as these (adler32: of /1/2/1 and /2/0/2). The inode is left out, which
    differs between machines that serve the same file.
    """
    digest = blake2b(path, digest_size=8).hexdigest()
    return f'"{mtime_ns:x}-{size:x}-{offset:x}-{digest}"'


def path_of_file(file: Any) -> bytes:
    """The absolute path of a file that was opened by its path.

    As the application opened it. Links are not resolved: /srv/current/x stays that, whatever
    release it leads to on this machine. A relative name means nothing without its directory,
    which may be any (os.chdir, an opener with dir_fd), so the kernel has to tell.
    """
    name = os.fsencode(file.name)
    if name.startswith(b"/"):
        return name
    try:
        return os.readlink(b"/proc/self/fd/%d" % file.fileno())
    except OSError:
        return os.path.abspath(name)  # Not on Linux.


def date_of_file(mtime_ns: int) -> str | None:
    """Last-Modified by the time of modification.

    None within a second that is not over: the file may be changed again, and have
    the same. And in the future (sections 8.8.2.1 and 8.8.2.2).
    """
    seconds = mtime_ns // 10**9
    return formatdate(seconds, usegmt=True) if 0 < seconds < int(time.time()) else None


@dataclass(slots=True)
class Validators:
    """What a response says of the state of what it represents."""

    #: The ETag header; None or malformed: there is none.
    etag: str | None
    #: The Last-Modified header; likewise.
    last_modified: str | None

    def refuse(self, environ: Mapping[str, Any]) -> str | None:
        """The status by which a GET or HEAD is answered instead of 200, or None.

        In the order of RFC 9110, section 13.2.2, without If-Range.
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
        """Whether If-Range lets the Range header count (section 13.1.5)."""
        if if_range is None:
            return True
        if '"' in if_range:
            own = _ETAG.fullmatch(self.etag or "")
            return own is not None and not own[1] and if_range.strip() == own[2]
        date = _seconds(if_range)
        return date is not None and date == _seconds(self.last_modified)

    def _matches(self, listed: str, *, strong: bool) -> bool:
        """Section 8.8.3.2: strong comparison holds between strong tags only."""
        if listed.strip() == "*":
            return True
        own = _ETAG.fullmatch(self.etag or "")
        if own is None or (strong and own[1]):
            return False
        return any(tag == own[2] and not (strong and weak) for weak, tag in _ETAG.findall(listed))

    def _changed_since(self, date: str | None) -> bool | None:
        """None if one of the two dates is missing or malformed."""
        then, modified = _seconds(date), _seconds(self.last_modified)
        return None if then is None or modified is None else modified > then


def _seconds(date: str | None) -> int | None:
    """An HTTP date (section 5.6.7) in seconds since the epoch."""
    if date is None:
        return None
    try:
        parsed = parsedate_tz(date)
        return None if parsed is None else mktime_tz((*parsed[:9], parsed[9] or 0))
    except (ValueError, OverflowError, IndexError):
        return None
