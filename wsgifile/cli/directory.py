"""Applications for a directory and for a file.

They return open files, or a page that lists a directory. The middleware in front of them does
the rest.

WebOb's DirectoryApp and FileApp are not used, because they answer ``/../`` with the index.html
of the directory above (seen with each WebOb from 1.8.7 to 1.8.11), show the full path of a
missing file in the 404 page, and send only the first of several ranges.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs

from webob import Request, Response
from webob.dec import wsgify

from .answers import Unchanged, error, moved, not_allowed, not_found, page, preview
from .content import compressed, content_type, has_copies
from .download import zipped
from .listing import Listing, in_order, known_sort, text_of_total, visible
from .media import kind_of_media
from .site import Site, entries_of, open_below, path_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

__all__ = ["MOST_OF_QUERY", "directory_app", "file_app", "path_info"]

#: Linux's PATH_MAX. No longer path is looked up, because the time for that grows with the
#: square of the length.
_PATH_MAX = 4096
#: Number of bytes of the query that are parsed. Links in our pages are shorter.
MOST_OF_QUERY = 1000
#: Number of entries that a page of a listing has.
_PAGE = 2_000
#: A directory of at most this number can be sorted by size and date. That takes a stat() for
#: each entry, and more for a symbolic link.
_SORTED = 10_000
#: Only the first this number of entries of a directory are listed.
_MOST = 100_000

_T = TypeVar("_T")


def directory_app(
    root: str, *, hidden: bool = False, follow_symlinks: bool = False, zips: bool = False
) -> WSGIApplication:
    """An application for the files below root. A directory gets its index.html, or a listing.

    :param hidden: whether to serve names that begin with a dot.
    :param follow_symlinks: whether to serve targets of symbolic links outside root.
    :param zips: whether ``?zip`` gives a directory as one archive.
    """
    site = Site(os.path.abspath(root), hidden, follow_symlinks)

    @wsgify  # type: ignore[untyped-decorator]
    def directory(request: Request) -> Response:
        wanted = path_info(request.environ)
        begin = _of_environ(request.environ, "SCRIPT_NAME")

        def find() -> Response:
            where = site.find(wanted)
            if not os.path.isdir(os.path.join(*where)):
                if wanted.endswith("/"):
                    return not_found()
                if request.query_string == "view" and kind_of_media(wanted):
                    return preview(*where, begin + wanted)
                return _send_best(request, site, where, wanted)
            if not wanted.endswith("/"):
                # Relative links of the page would start from the directory above.
                return moved(wanted.rpartition("/")[2], request.query_string)
            if zips and request.query_string == "zip":
                return zipped(request, site, where, begin + wanted)
            index = wanted + "index.html"
            try:
                return _send_best(request, site, site.find(index), index)
            except FileNotFoundError:
                listing = _listing(site, where, begin + wanted, request.query_string)
                return page(request, listing._replace(zips=zips))

        return _found(request, find)

    return directory  # type: ignore[no-any-return]


def file_app(path: str) -> WSGIApplication:
    """An application for one file, at its own name and at ``/``. Other paths are 404."""
    path = os.path.abspath(path)
    shown = "/" + os.path.basename(path)

    @wsgify  # type: ignore[untyped-decorator]
    def file(request: Request) -> Response:
        if path_info(request.environ) not in ("/", shown):
            return not_found()
        real = os.path.realpath(path)
        if request.query_string == "view" and kind_of_media(shown):
            return _found(request, lambda: preview(real, "", shown))
        return _found(request, lambda: _send(real, "", path))

    return file  # type: ignore[no-any-return]


def path_info(environ: WSGIEnvironment) -> str:
    """The path of the request, below where the site begins."""
    return _of_environ(environ, "PATH_INFO") or "/"


def _of_environ(environ: WSGIEnvironment, name: str) -> str:
    # Decoded like names of files, because not all names are UTF-8.
    return os.fsdecode(environ.get(name, "").encode("latin-1"))


def _found(request: Request, find: Callable[[], Response]) -> Response:
    """What find() returns, or the response for the error that it raises."""
    if request.method not in ("GET", "HEAD"):
        return not_allowed()
    if len(request.environ.get("PATH_INFO", "")) >= _PATH_MAX:  # A character is a byte.
        return not_found()
    try:
        return find()
    except PermissionError:
        return error("403 Forbidden", "This may not be read.")
    except ValueError:  # A NUL in the path.
        return not_found()
    except OSError as failure:
        if failure.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return not_found()


def _send(root: str, name: str, shown: str, *more: tuple[str, str]) -> Response:
    """The file, with the type that the last name of the path shown means.

    :param more: fields of the header.
    """
    found = open_below(root, name, stat.S_ISREG)
    opener = None if isinstance(found, str) else lambda *_: found
    file = open(path_of(root, name), "rb", opener=opener)  # noqa: SIM115
    headers = [
        ("Content-Type", content_type(shown, file)),
        # Browsers may keep it, but ask each time whether it has changed.
        ("Cache-Control", "no-cache"),
        # No other site can use a file of data as a script or a style.
        ("X-Content-Type-Options", "nosniff"),
        *more,
    ]
    return Unchanged(headerlist=headers, app_iter=file)


def _send_best(request: Request, site: Site, where: tuple[str, str], wanted: str) -> Response:
    """The file, or a compressed copy of it that the client takes."""
    if not has_copies(wanted):
        return _send(*where, wanted)
    copy = compressed(site, wanted, where, request.environ.get("HTTP_ACCEPT_ENCODING", ""))
    varies = ("Vary", "Accept-Encoding")
    if copy is None:
        return _send(*where, wanted, varies)
    encoding, where = copy
    return _send(*where, wanted, varies, ("Content-Encoding", encoding))


def _listing(site: Site, where: tuple[str, str], shown: str, query: str) -> Listing:
    """A page of what a directory has that is served."""
    asked = parse_qs(query[:MOST_OF_QUERY])
    sort = known_sort(asked.get("sort", [""])[0])
    wanted = asked.get("page", [""])[0]
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 10 else 1
    text = visible(asked.get("q", [""])[0])
    path = os.path.normpath(f"/{shown.strip('/')}").rstrip("/") + "/"
    columns: tuple[str, ...] = ("name", "size", "date")
    found = open_below(*where, stat.S_ISDIR)
    try:
        with os.scandir(found) as scan:
            read = list(islice(scan, _MOST + 1))
        named = [
            entry
            for entry in read[:_MOST]
            if site.lists(entry.name) and text.casefold() in entry.name.casefold()
        ]
        served = partial(entries_of, site, os.path.join(*where))
        if len(named) > _SORTED:
            # Sizes and dates are asked for only to show them, as the kinds of links.
            columns, sort = ("name",), sort if sort.endswith("name") else "name"
            ordered = in_order(named, sort, lambda entry: entry.is_dir(follow_symlinks=False))
            number, pages, chosen = _chosen(ordered, number)
            lines = list(served(chosen))
            total = f"Names: {len(named):,}. There are too many to sort by size or date."
        else:
            entries = in_order(served(named), sort, lambda entry: entry.is_directory)
            number, pages, lines = _chosen(entries, number)
            total = text_of_total(entries)
    finally:
        if isinstance(found, int):
            os.close(found)
    if len(read) > _MOST:
        total += f" This is not all: only {_MOST:,} names of a directory are read."
    return Listing(
        path, sort, columns, number=number, pages=pages, total=total, lines=lines, text=text
    )


def _chosen(entries: list[_T], number: int) -> tuple[int, int, list[_T]]:
    """The number of the page to show, of all pages, and the entries of that page."""
    pages = max(1, -(-len(entries) // _PAGE))
    number = min(max(1, number), pages)
    return number, pages, entries[(number - 1) * _PAGE : number * _PAGE]
