"""Applications for a directory and for a file.

They return open files, or a page that lists a directory. The middleware in front of them does
the rest.

WebOb's DirectoryApp and FileApp are not used, because they answer ``/../`` with the index.html
of the directory above (seen with each WebOb from 1.8.7 to 1.8.11), show the full path of a
missing file in the 404 page, and send only the first of several ranges.

These are not served and not listed, as if they did not exist: targets of symbolic links
outside the directory, names that begin with a dot and everything below them (also outside the
directory, and also if a link gives them another name), and anything that is neither a file nor
a directory.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import parse_qs, quote

from webob import Request, Response, exc
from webob.dec import wsgify

from ..conditions import Validators
from .listing import POLICY, Entry, Listing, in_order, known_sort, text_of_total

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["MOST_OF_QUERY", "directory_app", "file_app", "moved", "page", "path_info"]

#: If not, as on Windows, files are opened by their path.
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
#: These also open a directory that can be entered but not listed.
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
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


class _Unchanged(Response):  # type: ignore[misc]
    """A response that goes out as it is.

    WebOb's own ``__call__`` drops the file from the answer to HEAD, so the middleware could
    not add the file's length and ETag. It also makes Location absolute, with the host that
    the client asked for.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self.status, self.headerlist)
        return self.app_iter  # type: ignore[no-any-return]


def directory_app(
    root: str, *, hidden: bool = False, follow_symlinks: bool = False
) -> WSGIApplication:
    """An application for the files below root. A directory gets its index.html, or a listing.

    :param hidden: whether to serve names that begin with a dot.
    :param follow_symlinks: whether to serve targets of symbolic links outside root.
    """
    site = _Site(os.path.abspath(root), hidden, follow_symlinks)

    @wsgify  # type: ignore[untyped-decorator]
    def directory(request: Request) -> Response:
        wanted = path_info(request.environ)

        def find() -> Response:
            where = site.find(wanted)
            if not os.path.isdir(os.path.join(*where)):
                return exc.HTTPNotFound() if wanted.endswith("/") else _send(*where, wanted)
            if not wanted.endswith("/"):
                # Relative links of the page would start from the directory above.
                return moved(wanted.rpartition("/")[2], request.query_string)
            index = wanted + "index.html"
            try:
                return _send(*site.find(index), index)
            except FileNotFoundError:
                begin = _of_environ(request.environ, "SCRIPT_NAME")
                listing = _listing(site, where, begin + wanted, request.query_string)
                return page(request, listing)

        return _found(request, find)

    return directory  # type: ignore[no-any-return]


def file_app(path: str) -> WSGIApplication:
    """An application for one file, at its own name and at ``/``. Other paths are 404."""
    path = os.path.abspath(path)
    names = {"/", "/" + os.path.basename(path)}

    @wsgify  # type: ignore[untyped-decorator]
    def file(request: Request) -> Response:
        if path_info(request.environ) not in names:
            return exc.HTTPNotFound()
        return _found(request, lambda: _send(os.path.realpath(path), "", path))

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
        return exc.HTTPMethodNotAllowed(headers=[("Allow", "GET, HEAD")])
    if len(request.environ.get("PATH_INFO", "")) >= _PATH_MAX:  # A character is a byte.
        return exc.HTTPNotFound()
    try:
        return find()
    except PermissionError:
        return exc.HTTPForbidden()
    except ValueError:  # A NUL in the path.
        return exc.HTTPNotFound()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return exc.HTTPNotFound()


class _Site(NamedTuple):
    root: str
    hidden: bool
    follow_symlinks: bool

    def find(self, wanted: str) -> tuple[str, str]:
        """Where this path is: a directory, and a path below it without symbolic links.

        :raises FileNotFoundError: if it must not be served.
        """
        # At each request: root may be a link that is changed to release a new version.
        root = os.path.realpath(self.root)
        path = os.path.abspath(os.path.join(root, wanted.lstrip("/")))
        self._below(root, path)
        return self.served(root, os.path.realpath(path))

    def served(self, root: str, real: str) -> tuple[str, str]:
        """The same for a path without symbolic links."""
        if self.follow_symlinks and not _is_below(root, real):
            # Its whole path counts. The last name alone would not show that ~/.ssh/key is
            # hidden. The user of the command line named root, but not the way to this.
            self._refuse_hidden(real)
            return real, ""
        return root, self._below(root, real)

    def _below(self, root: str, path: str) -> str:
        """The path relative to root."""
        if not _is_below(root, path):
            raise FileNotFoundError(errno.ENOENT, "outside")
        name = os.path.join(path, "")[len(os.path.join(root, "")) : -1]
        self._refuse_hidden(name)
        return name

    def _refuse_hidden(self, name: str) -> None:
        if not self.hidden and any(part.startswith(".") for part in name.split(os.sep)):
            raise FileNotFoundError(errno.ENOENT, "hidden")


def _is_below(root: str, path: str) -> bool:
    """Whether path is root, or below it."""
    return os.path.join(path, "").startswith(os.path.join(root, ""))


def _open(root: str, name: str, is_wanted: Callable[[int], bool]) -> int | str:
    """A descriptor of the file or directory, if its mode is what is_wanted.

    No symbolic link is followed on the way from root, so a link that was put there after the
    check leads nowhere. Nothing of another kind is opened: a pipe would wait, and opening a
    device may have any effect. If the system cannot open relative to a directory, this is the
    path instead of a descriptor.
    """
    if not _BY_DESCRIPTOR:
        found = os.path.join(root, name)
        _check(os.stat(found), is_wanted)
        return found
    *through, last = [root, *name.split(os.sep)] if name else [root]
    at = None
    try:
        for part in through:
            outer, at = at, os.open(part, _THROUGH | _NO_FOLLOW, dir_fd=at)
            if outer is not None:
                os.close(outer)
        _check(os.stat(last, dir_fd=at, follow_symlinks=False), is_wanted)
        fd = os.open(last, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW, dir_fd=at)
    finally:
        if at is not None:
            os.close(at)
    try:
        _check(os.stat(fd), is_wanted)
    except FileNotFoundError:
        os.close(fd)
        raise
    return fd


def _check(status: os.stat_result, is_wanted: Callable[[int], bool]) -> None:
    if not is_wanted(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "another kind of file")


def _send(root: str, name: str, shown: str) -> Response:
    """The file, with the type that the last name of the path shown means."""
    found = _open(root, name, stat.S_ISREG)
    opener = None if isinstance(found, str) else lambda *_: found
    file = open(os.path.join(root, name) if name else root, "rb", opener=opener)  # noqa: SIM115
    headers = [
        ("Content-Type", _content_type(shown)),
        # Browsers may keep it, but ask each time whether it has changed.
        ("Cache-Control", "no-cache"),
        # No other site can use a file of data as a script or a style.
        ("X-Content-Type-Options", "nosniff"),
    ]
    return _Unchanged(headerlist=headers, app_iter=file)


def _content_type(path: str) -> str:
    # guess_type() takes a URL, and believes what a data: URL says of its type. This is none,
    # not even for a file named "data:text/html,".
    name = os.path.basename(os.path.normpath(path))
    content_type, encoding = mimetypes.guess_type(f"./{name}")
    if encoding is not None:
        # Not as Content-Encoding, which browsers undo: a file saved as .tar.gz would not be
        # a gzip file any more.
        content_type = "application/gzip" if encoding == "gzip" else None
    if content_type is None:
        return "application/octet-stream"
    return f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type


def _listing(site: _Site, where: tuple[str, str], shown: str, query: str) -> Listing:
    """A page of what a directory has that is served."""
    asked = parse_qs(query[:MOST_OF_QUERY])
    sort = known_sort(asked.get("sort", [""])[0])
    wanted = asked.get("page", [""])[0]
    number = int(wanted) if wanted.isdecimal() and len(wanted) < 10 else 1
    path = os.path.normpath(f"/{shown.strip('/')}").rstrip("/") + "/"
    columns: tuple[str, ...] = ("name", "size", "date")
    found = _open(*where, stat.S_ISDIR)
    try:
        with os.scandir(found) as scan:
            read = list(islice(scan, _MOST + 1))
        named = [entry for entry in read[:_MOST] if site.hidden or not entry.name.startswith(".")]
        served = partial(_entries, site, os.path.join(*where))
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
    return Listing(path, sort, columns, number, pages, total, lines)


def _chosen(entries: list[_T], number: int) -> tuple[int, int, list[_T]]:
    """The number of the page to show, of all pages, and the entries of that page."""
    pages = max(1, -(-len(entries) // _PAGE))
    number = min(max(1, number), pages)
    return number, pages, entries[(number - 1) * _PAGE : number * _PAGE]


def _entries(site: _Site, directory: str, found: Iterable[os.DirEntry[str]]) -> Iterator[Entry]:
    """Those that are served, while the directory is open."""
    root = os.path.realpath(site.root)
    for entry in found:
        try:
            if entry.is_symlink():
                site.served(root, os.path.realpath(os.path.join(directory, entry.name)))
            status = entry.stat()
        except OSError:  # It is gone, or a link to nothing that is served.
            continue
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory or stat.S_ISREG(status.st_mode):
            yield Entry(entry.name, is_directory, status.st_size, status.st_mtime)


def moved(name: str, query: str) -> Response:
    """A redirect to the same path with a slash at the end."""
    location = f"./{quote(os.fsencode(name))}/"
    if query:
        location += "?" + quote(query, "!#$%&'()*+,/:;=?@[]~", "latin-1")
    headers = [("Location", location), ("Content-Length", "0")]
    return _Unchanged(status=301, headerlist=headers, app_iter=[])


def page(request: Request, listing: Listing) -> Response:
    """The page of this listing, or what the conditions of the request ask for instead."""
    etag = listing.etag()
    status = Validators(etag, None).refuse(request.environ)
    if status is None:
        response = Response(listing.page(), content_type="text/html", charset="utf-8")
    else:
        response = Response(status=status, body=b"", content_type=None)
    response.headers.update(
        {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": POLICY,
            "ETag": etag,
            "X-Content-Type-Options": "nosniff",
        }
    )
    return response
