"""A directory as a zip archive: what is in it, and the response with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from itertools import islice
from urllib.parse import quote

from webob import Request, Response

from ..conditions import Validators
from ..ranges import select
from .answers import Unchanged, error
from .archive import Archive, Member
from .site import Site, entries_of, open_below

__all__ = ["zipped"]

#: Larger directories are refused.
_MOST = 100_000


def zipped(request: Request, site: Site, where: tuple[str, str], shown: str) -> Response:
    """The directory as an archive, or the part of it that the client asks for.

    :param where: as Site.find() returns it.
    :param shown: the path of the URL. Its last name becomes the name of the archive.
    """
    name = os.path.basename(os.path.normpath(shown)) or "files"
    members = list(islice(_members(site, where, f"{name}/", ()), _MOST + 1))
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
    body = [] if request.method == "HEAD" else archive.read(start, stop)
    return Unchanged(status=status, headerlist=headers, app_iter=body)


def _asked(request: Request, validators: Validators, length: int) -> list[tuple[int, int]] | None:
    """The ranges that the request asks for; None: the whole."""
    environ = request.environ
    wanted = environ.get("HTTP_RANGE")
    if request.method == "HEAD" or wanted is None:
        return None
    return select(wanted, length) if validators.allow_range(environ.get("HTTP_IF_RANGE")) else None


def _members(
    site: Site, where: tuple[str, str], prefix: str, above: tuple[str, ...]
) -> Iterator[Member]:
    """What the listings of the directory and those below it show, as far as it can be read.

    :param above: the directories above. A link to one of them would never end.
    """
    directory = os.path.normpath(os.path.join(*where))
    try:
        found = open_below(*where, stat.S_ISDIR)
    except OSError:  # It must not be read, or is gone.
        return
    try:
        with os.scandir(found) as scan:
            named = (entry for entry in scan if site.lists(entry.name))
            entries = sorted(islice(entries_of(site, directory, named), _MOST + 1))
    finally:
        if isinstance(found, int):
            os.close(found)
    root = os.path.realpath(site.root)
    for entry in entries:
        real = os.path.realpath(os.path.join(directory, entry.name))
        name = prefix + entry.name
        if not os.access(real, os.R_OK) or real in (*above, directory):
            continue
        if entry.is_directory:
            yield Member(f"{name}/", real, None, 0, entry.mtime)
            inside = (*above, directory)
            yield from _members(site, site.served(root, real), f"{name}/", inside)
        else:
            opened = partial(open_below, *site.served(root, real), stat.S_ISREG)
            yield Member(name, real, opened, entry.size, entry.mtime)
