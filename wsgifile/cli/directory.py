"""Applications for a directory or a file: open files, and a page that lists them.

To be put behind the middleware, which does the rest. Not by WebOb's
DirectoryApp and FileApp: they serve an index.html of the directory above, write
the full path of a missing file into the 404 page, and take several ranges for one.

What is not to be served is not there: 404, and no line of the listing. That is what a
symbolic link has outside of the directory, names that begin with a dot and all that is
below them, under whatever other name a link gives it, and what is neither a file nor
a directory.
"""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote

from webob import Request, Response, exc
from webob.dec import wsgify

from .conditions import Validators
from .listing import POLICY, Entry, listing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["directory_app", "file_app"]

#: Or else, on Windows, files are opened by their path.
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
#: To pass through a directory that may not be listed, too.
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def directory_app(
    root: str, *, hidden: bool = False, follow_symlinks: bool = False
) -> WSGIApplication:
    """The files below root; for a directory its index.html, or a listing.

    :param hidden: whether names that begin with a dot are there.
    :param follow_symlinks: whether what a symbolic link has outside of root is there.
    """
    site = _Site(os.path.abspath(root), hidden, follow_symlinks)

    @wsgify  # type: ignore[untyped-decorator]
    def directory(request: Request) -> Any:
        wanted = _path_info(request)

        def find() -> Any:
            where = site.find(wanted)
            if not os.path.isdir(os.path.join(*where)):
                return exc.HTTPNotFound() if wanted.endswith("/") else _send(*where, wanted)
            if not wanted.endswith("/"):
                # Or the links of the page would lead to the directory above.
                return _moved(wanted.rpartition("/")[2], request.query_string)
            index = wanted + "index.html"
            try:
                return _send(*site.find(index), index)
            except FileNotFoundError:
                sort = parse_qs(request.query_string).get("sort", [""])[0]
                return _page(request, listing(_entries(site, where, wanted), wanted, sort))

        return _found(request, find)

    return directory  # type: ignore[no-any-return]


def file_app(path: str) -> WSGIApplication:
    """The file at its own name and at ``/``, 404 elsewhere."""
    path = os.path.abspath(path)
    names = {"/", "/" + os.path.basename(path)}

    @wsgify  # type: ignore[untyped-decorator]
    def file(request: Request) -> Any:
        if _path_info(request) not in names:
            return exc.HTTPNotFound()
        return _found(request, lambda: _send(os.path.realpath(path), "", path))

    return file  # type: ignore[no-any-return]


def _path_info(request: Request) -> str:
    # As the names of files are decoded: there are some that are no UTF-8.
    return os.fsdecode(request.environ.get("PATH_INFO", "").encode("latin-1")) or "/"


def _found(request: Request, find: Callable[[], Any]) -> Any:
    """What find() finds, or the response that says why it does not."""
    if request.method not in ("GET", "HEAD"):
        return exc.HTTPMethodNotAllowed(headers=[("Allow", "GET, HEAD")])
    try:
        return find()
    except PermissionError:
        return exc.HTTPForbidden()
    except ValueError:  # A NUL.
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
        """Where this is: a directory, and a path below it that has no symbolic links.

        :raises FileNotFoundError: if it is not to be served.
        """
        # Now, as it may be a link that is changed to release something.
        root = os.path.realpath(self.root)
        path = os.path.abspath(os.path.join(root, wanted.lstrip("/")))
        self._below(root, path)
        real = os.path.realpath(path)
        outside = not os.path.join(real, "").startswith(os.path.join(root, ""))
        if self.follow_symlinks and outside:
            return real, ""
        return root, self._below(root, real)

    def _below(self, root: str, path: str) -> str:
        root = os.path.join(root, "")
        name = os.path.join(path, "")[len(root) : -1]
        if not os.path.join(path, "").startswith(root) or (
            not self.hidden and any(part.startswith(".") for part in name.split(os.sep))
        ):
            raise FileNotFoundError(errno.ENOENT, "not to be served")
        return name


def _open(root: str, name: str, is_wanted: Callable[[int], bool]) -> int | str:
    """A descriptor of the file or directory, which is of the kind that is wanted.

    No symbolic link is followed on the way from root, so that one which has been put
    there since it was looked at leads nowhere. Nothing else is opened, as a pipe would
    wait, and what it does to a device nobody knows. Where the system has no open() that
    starts from a directory, it is the path.
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
        raise FileNotFoundError(errno.ENOENT, "of another kind")


def _send(root: str, name: str, shown: str) -> WSGIApplication:
    """An application for this file, of the type that the name has by which it is shown."""
    found = _open(root, name, stat.S_ISREG)
    opener = None if isinstance(found, str) else lambda *_: found
    file = open(os.path.join(root, name) if name else root, "rb", opener=opener)  # noqa: SIM115
    # The encoding does not go into a header, which browsers would undo: what they
    # save as .tar.gz would be no gzip file any more.
    content_type, encoding = mimetypes.guess_type(shown)
    if encoding is not None:
        content_type = "application/gzip" if encoding == "gzip" else None
    if content_type is None:
        content_type = "application/octet-stream"
    elif content_type.startswith("text/"):
        content_type += "; charset=utf-8"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        # To be kept, but not without asking whether it was changed. And no script or
        # style of another site, whatever is in it.
        headers = [("Content-Type", content_type), ("Cache-Control", "no-cache")]
        start_response("200 OK", [*headers, ("X-Content-Type-Options", "nosniff")])
        return file

    return application


def _entries(site: _Site, where: tuple[str, str], wanted: str) -> Iterator[Entry]:
    """What there is in a directory to be served."""
    found = _open(*where, stat.S_ISDIR)
    try:
        with os.scandir(found) as entries:
            for entry in entries:
                if entry.name.startswith(".") and not site.hidden:
                    continue
                try:
                    if entry.is_symlink():
                        site.find(wanted + entry.name)
                    status = entry.stat()
                except OSError:  # It has gone, or is a link to nothing that is there.
                    continue
                is_directory = stat.S_ISDIR(status.st_mode)
                if is_directory or stat.S_ISREG(status.st_mode):
                    yield Entry(entry.name, is_directory, status.st_size, status.st_mtime)
    finally:
        if isinstance(found, int):
            os.close(found)


def _moved(name: str, query: str) -> WSGIApplication:
    """To the same with a slash. Not by WebOb, which puts what it takes for our host there."""
    location = f"./{quote(os.fsencode(name))}/"
    if query:
        location += "?" + quote(query, "!#$%&'()*+,/:;=?@[]~", "latin-1")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("301 Moved Permanently", [("Location", location), ("Content-Length", "0")])
        return []

    return application


def _page(request: Request, page: str) -> Response:
    response = Response(page, content_type="text/html", charset="utf-8")
    # Of the page itself: the date of a directory tells nothing of the files in it.
    etag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    status = Validators(etag, None).refuse(request.environ)
    if status is not None:
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
