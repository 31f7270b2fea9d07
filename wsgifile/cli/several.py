"""Several directories and files under one URL, each at its own name."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from webob import Request

from .answers import moved, not_allowed, not_found, page
from .directory import MOST_OF_QUERY, path_info
from .listing import Entry, Listing, in_order, known_sort, text_of_total, visible

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Several"]


class Several:
    """An application for several others.

    The page at ``/`` lists them. The application of each is asked as if its name were where the
    site begins, so no path leads from one to another.

    :param targets: by name, the application and the path of the directory or file.
    """

    def __init__(self, targets: dict[str, tuple[WSGIApplication, str]]) -> None:
        self._targets = targets

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        name, slash, _ = path_info(environ).lstrip("/").partition("/")
        app, path = self._targets.get(name, (None, ""))
        if app is None or (slash and not os.path.isdir(path)):
            app = self._own(environ, name)
        elif not slash and os.path.isdir(path):
            app = moved(name, environ.get("QUERY_STRING", ""))
        else:
            environ = _inside(environ, name)
        return app(environ, start_response)

    def _own(self, environ: WSGIEnvironment, name: str) -> WSGIApplication:
        """The list, or that there is no such name."""
        request = Request(environ)
        if request.method not in ("GET", "HEAD"):
            return not_allowed()  # type: ignore[no-any-return]
        if name:
            return not_found()  # type: ignore[no-any-return]
        asked = parse_qs(request.query_string[:MOST_OF_QUERY])
        sort, text = known_sort(asked.get("sort", [""])[0]), visible(asked.get("q", [""])[0])
        entries = in_order(self._entries(text), sort, lambda entry: entry.is_directory)
        columns, total = ("name", "size", "date"), text_of_total(entries)
        listing = Listing(
            "/", sort, columns, number=1, pages=1, total=total, lines=entries, text=text
        )
        return page(request, listing)  # type: ignore[no-any-return]

    def _entries(self, text: str) -> Iterable[Entry]:
        for name, (_, path) in self._targets.items():
            if text.casefold() not in name.casefold():
                continue
            try:
                status = os.stat(path)
            except OSError:  # It is gone.
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            yield Entry(name, is_directory, status.st_size, status.st_mtime)


def _inside(environ: WSGIEnvironment, name: str) -> WSGIEnvironment:
    """The same request for the application of this name."""
    begin = os.fsencode(name).decode("latin-1")
    return {
        **environ,
        "SCRIPT_NAME": f"{environ.get('SCRIPT_NAME', '')}/{begin}",
        "PATH_INFO": environ["PATH_INFO"].lstrip("/")[len(begin) :] or "/",
    }
