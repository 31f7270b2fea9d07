"""Applications for a directory or a file: WebOb's, plus a plain listing."""

from __future__ import annotations

import html
import mimetypes
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from webob import Request, Response, exc
from webob.static import DirectoryApp, FileApp

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Directory", "file_app", "single_file_app"]


def file_app(path: str) -> WSGIApplication:
    """WebOb's application for one file: Last-Modified, conditions, ranges."""
    # WebOb would announce a .tar.gz as a tar in a Content-Encoding, which
    # browsers undo: what they save under that name is no gzip file any more.
    content_type, encoding = mimetypes.guess_type(path)
    if encoding is not None:
        content_type = f"application/{encoding}" if encoding == "gzip" else None
    app: WSGIApplication = FileApp(
        path, content_type=content_type or "application/octet-stream", content_encoding=None
    )
    return app


def single_file_app(path: str) -> WSGIApplication:
    """The file at its own name and at ``/``, 404 elsewhere."""
    app = file_app(path)
    names = {"", "/", "/" + os.path.basename(path)}

    def single_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        known = Request(environ).path_info in names
        answer: WSGIApplication = app if known else exc.HTTPNotFound()
        return answer(environ, start_response)

    return _utf8_paths(single_file)


class Directory(DirectoryApp):  # type: ignore[misc]
    """WebOb's DirectoryApp, with a listing where a directory has no index.html."""

    def make_fileapp(self, path: str) -> WSGIApplication:
        """As :func:`file_app`."""
        return file_app(path)

    def index(self, req: Request, path: str) -> Any:
        """The response for a directory: its index.html if there is one, else the listing."""
        # WebOb checks this for files, not for directories: "/../" comes here.
        if not os.path.join(path, "").startswith(self.path):
            return exc.HTTPForbidden()
        if os.path.isfile(os.path.join(path, self.index_page)):
            return super().index(req, path)
        if not req.path_info.endswith("/"):
            query = f"?{req.query_string}" if req.query_string else ""
            return exc.HTTPMovedPermanently(location=f"{req.path_url}/{query}")
        if req.method not in ("GET", "HEAD"):
            return exc.HTTPMethodNotAllowed()
        try:
            page = _listing(path, req.path_info, at_top=os.path.join(path, "") == self.path)
        except OSError:
            return exc.HTTPForbidden()
        return Response(page, content_type="text/html", charset="utf-8")

    @classmethod
    def serving(cls, path: str) -> WSGIApplication:
        """The application for this directory."""
        return _utf8_paths(cls(path))


def _listing(path: str, title: str, *, at_top: bool) -> str:
    with os.scandir(path) as entries:
        names = sorted(
            (entry.name + "/" if entry.is_dir() else entry.name for entry in entries),
            key=lambda name: (not name.endswith("/"), name.lower()),
        )
    if not at_top:
        names.insert(0, "../")
    title = html.escape(title)
    lines = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{title}</title>",
        f"<h1>{title}</h1>",
        "<ul>",
    ]
    for name in names:
        raw = os.fsencode(name)
        text = html.escape(raw.decode(errors="replace"))
        # "./" first: a name like "a:b" would be read as a scheme.
        lines.append(f'<li><a href="./{quote(raw)}">{text}</a></li>')
    return "\n".join([*lines, "</ul>", "</html>", ""])


def _utf8_paths(app: WSGIApplication) -> WSGIApplication:
    """404 for a path that is not UTF-8, at which WebOb would raise."""

    def utf8_paths(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = app
        try:
            environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8")
        except UnicodeError:
            answer = exc.HTTPNotFound()
        return answer(environ, start_response)

    return utf8_paths
