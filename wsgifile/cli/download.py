"""A directory as a zip archive: what is in it, and the response with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from urllib.parse import quote

from webob import Request, Response

from ..conditions import Validators
from ..ranges import select
from .answers import Unchanged, error
from .archive import Archive, BusyError, Member
from .listing import Entry
from .site import Site, entries_of, open_below, path_of

__all__ = ["zipped"]

#: Larger directories are refused.
_MOST = 100_000


def zipped(request: Request, site: Site, where: tuple[str, str], shown: str) -> Response:
    """The directory as an archive, or the part of it that the client asks for.

    :param where: as Site.find() returns it.
    :param shown: the path of the URL. Its last name becomes the name of the archive.
    """
    name = os.path.basename(os.path.normpath(shown)) or "files"
    members = list(islice(_members(site, where, f"{name}/"), _MOST + 1))
    if len(members) > _MOST:
        return error("403 Forbidden", f"There are more than {_MOST:,} files and directories.")
    archive = Archive(members)
    etag = archive.etag()
    headers = [
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    validators = Validators(etag, None)
    status = validators.refuse(request.environ)
    if status is not None:
        return Unchanged(status=status, headerlist=headers, app_iter=[])
    headers += [
        ("Content-Type", "application/zip"),
        # Quoted, so no name can end it.
        ("Content-Disposition", f"attachment; filename*=UTF-8''{quote(os.fsencode(name))}.zip"),
    ]
    start, stop = 0, archive.length
    status = "200 OK"
    ranges = _asked(request, validators, archive.length)
    if ranges == []:
        status, stop = "416 Range Not Satisfiable", 0
        headers.append(("Content-Range", f"bytes */{archive.length}"))
    elif ranges is not None and len(ranges) == 1:
        status, [(start, stop)] = "206 Partial Content", ranges
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{archive.length}"))
    headers.append(("Content-Length", str(stop - start)))
    body: Iterable[bytes] = [] if request.method == "HEAD" else archive.read(start, stop)
    if start and body:
        try:
            body = _begun(body)
        except BusyError:
            return error(
                "503 Service Unavailable", "Please resume later.", **{"Retry-After": "30"}
            )
    return Unchanged(status=status, headerlist=headers, app_iter=body)


def _begun(body: Iterable[bytes]) -> Iterator[bytes]:
    """The same, after its first block was read."""
    blocks = iter(body)
    return chain([next(blocks)], blocks)


def _asked(request: Request, validators: Validators, length: int) -> list[tuple[int, int]] | None:
    """The ranges that the request asks for; None: the whole."""
    environ = request.environ
    wanted = environ.get("HTTP_RANGE")
    if request.method == "HEAD" or wanted is None:
        return None
    return select(wanted, length) if validators.allow_range(environ.get("HTTP_IF_RANGE")) else None


def _members(site: Site, where: tuple[str, str], prefix: str) -> Iterator[Member]:
    """What the listings of the directory and those below it show, as far as it can be read.

    :raises OSError: if the directory itself cannot be read.
    """
    root = os.path.realpath(site.root)
    #: Directories to read, the next one last: its real path, its name in the archive, and the
    #: real paths of those above. A link to one of these would never end.
    waiting: list[tuple[str, str, tuple[str, ...]]] = [(path_of(*where), prefix, ())]
    while waiting:
        directory, prefix, above = waiting.pop()
        try:
            entries = _entries(site, site.served(root, directory), directory)
        except OSError:  # It must not be read, or is gone.
            if not above:
                raise
            continue
        way = (*above, directory)
        names, inside = {entry.name for entry in entries}, []
        for entry in entries:
            real = os.path.join(directory, entry.name)
            if os.path.islink(real):
                real = os.path.realpath(real)
            if not os.access(real, os.R_OK) or real in way:
                continue
            name = prefix + _without_backslash(entry.name, names)
            if entry.is_directory:
                yield Member(f"{name}/", real, None, size=0, mtime=entry.mtime)
                inside.append((real, f"{name}/", way))
            else:
                opened = partial(open_below, *site.served(root, real), stat.S_ISREG)
                yield Member(name, real, opened, size=entry.size, mtime=entry.mtime)
        waiting += reversed(inside)


def _entries(site: Site, where: tuple[str, str], directory: str) -> list[Entry]:
    """What the listing of this directory shows."""
    found = open_below(*where, stat.S_ISDIR)
    try:
        with os.scandir(found) as scan:
            named = (entry for entry in scan if site.lists(entry.name))
            return sorted(islice(entries_of(site, directory, named), _MOST + 1))
    finally:
        if isinstance(found, int):
            os.close(found)


def _without_backslash(name: str, taken: set[str]) -> str:
    """The name in an archive, which must have no backslash: Windows would take it for a slash.

    :param taken: the other names, to which this one is added.
    """
    if "\\" in name:
        name = name.replace("\\", "_")
        while name in taken:
            name += "_"
        taken.add(name)
    return name
