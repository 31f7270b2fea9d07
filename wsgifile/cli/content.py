"""What a file is: its type, and whether there is a compressed copy of it."""

from __future__ import annotations

import mimetypes
import os
import re
import stat
from typing import BinaryIO

from .media import ending
from .site import Site, open_below, path_of

__all__ = ["accepted", "compressed", "content_type", "has_copies"]

#: Text that mimetypes knows as something else, or not at all. Browsers would save it.
_TEXT = frozenset(
    {".cfg", ".conf", ".ini", ".log", ".md", ".rst", ".toml", ".ts", ".yaml", ".yml"}
)
#: What tools for web sites compress. Elsewhere x.gz may be anything, and not a copy of x.
_COMPRESSED = frozenset(
    {".css", ".html", ".js", ".json", ".map", ".mjs", ".svg", ".wasm", ".webmanifest", ".xml"}
)
#: The value of Content-Encoding, and the end of the file's name; the best one first.
_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
#: A packet of an MPEG transport stream, which is a video, has this length and first byte.
_PACKET, _SYNC = 188, 0x47


def content_type(path: str, file: BinaryIO) -> str:
    """The value of Content-Type.

    :param path: whose last name tells the type.
    :param file: the file, if it has to be looked at. Its position stays.
    """
    # guess_type() takes a URL, and believes what a data: URL says of its type. This is none,
    # not even for a file named "data:text/html,".
    name = os.path.basename(os.path.normpath(path))
    if ending(name) in _TEXT and not (ending(name) == ".ts" and _is_video(file)):
        return "text/plain; charset=utf-8"
    guessed, encoding = mimetypes.guess_type(f"./{name}")
    if encoding is not None:
        # Not as Content-Encoding, which browsers undo: a file saved as .tar.gz would not be
        # a gzip file any more.
        guessed = "application/gzip" if encoding == "gzip" else None
    if ending(name) == ".ts":
        guessed = "video/mp2t"
    if guessed is None:
        return "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed


def _is_video(file: BinaryIO) -> bool:
    begin = os.pread(file.fileno(), _PACKET + 1, 0) if hasattr(os, "pread") else b""
    return len(begin) > _PACKET and begin[0] == begin[_PACKET] == _SYNC


def has_copies(name: str) -> bool:
    """Whether a file of this name may have a compressed copy, so that answers may differ."""
    return ending(name) in _COMPRESSED


def compressed(
    site: Site, wanted: str, where: tuple[str, str], field: str
) -> tuple[str, tuple[str, str]] | None:
    """The encoding and the place of a compressed copy that the client takes, if there is one.

    It is not taken if it cannot be read, if it is older than the file, or if it is a gzip file of
    another length.

    :param wanted: the path of the file that was asked for, and where it is.
    :param field: the request's Accept-Encoding.
    """
    takes = accepted(field)
    for encoding, suffix in _ENCODINGS:
        if encoding not in takes:
            continue
        try:
            original = os.stat(path_of(*where))
            copy = site.find(wanted + suffix)
            with open(open_below(*copy, stat.S_ISREG), "rb") as file:
                if os.fstat(file.fileno()).st_mtime < original.st_mtime:
                    continue
                if encoding == "gzip" and _length_of_gzip(file) != original.st_size % 2**32:
                    continue
        except OSError:  # There is none, or it is not served.
            continue
        return encoding, copy
    return None


def _length_of_gzip(file: BinaryIO) -> int:
    """How long its content says it is, modulo 2**32 (RFC 1952, section 2.3.1).

    -1: it is no gzip file.
    """
    if file.read(2) != b"\x1f\x8b" or file.seek(0, os.SEEK_END) < 18:
        return -1
    file.seek(-4, os.SEEK_END)
    return int.from_bytes(file.read(4), "little")


def accepted(field: str) -> set[str]:
    """The names that an Accept-Encoding field accepts (RFC 9110, section 12.5.3).

    ``*`` is not looked at: the file as it is meets it, too.
    """
    found = set()
    for item in field[:1000].lower().split(","):
        name, *parameters = (part.strip(" \t") for part in item.split(";"))
        # A weight of 0 forbids it.
        if not any(re.fullmatch(r"q[ \t]*=[ \t]*0(\.0*)?", each) for each in parameters):
            found.add(name)
    return found
