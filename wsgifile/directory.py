"""Applications for a directory or a file: open files, and a plain listing.

To be put behind the middleware, which does the rest. Not by WebOb's
DirectoryApp and FileApp: they serve an index.html of the directory above, write
the full path of a missing file into the 404 page, and take several ranges for one.
"""

from __future__ import annotations

import html
import mimetypes
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from webob import Request, Response, exc
from webob.dec import wsgify

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["directory_app", "file_app"]


def directory_app(root: str) -> WSGIApplication:
    """The files below root; for a directory its index.html, or a listing."""
    root = os.path.join(os.path.abspath(root), "")

    @wsgify  # type: ignore[untyped-decorator]
    def directory(request: Request) -> Any:
        if request.method not in ("GET", "HEAD"):
            return exc.HTTPMethodNotAllowed(headers=[("Allow", "GET, HEAD")])
        wanted = _path_info(request)
        path = os.path.abspath(os.path.join(root, wanted.lstrip("/")))
        if not os.path.join(path, "").startswith(root):
            return exc.HTTPNotFound()
        if not os.path.isdir(path):
            return exc.HTTPNotFound() if wanted.endswith("/") else _send(path)
        if not wanted.endswith("/"):
            # Or the links of the page would lead to the directory above.
            query = f"?{request.query_string}" if request.query_string else ""
            name = quote(os.fsencode(os.path.basename(path)))
            return Response(status=301, location=f"./{name}/{query}")
        index = os.path.join(path, "index.html")
        if os.path.isfile(index):
            return _send(index)
        try:
            page = _listing(path, wanted)
        except OSError:
            return exc.HTTPForbidden()
        return Response(page, content_type="text/html", charset="utf-8")

    return directory  # type: ignore[no-any-return]


def file_app(path: str) -> WSGIApplication:
    """The file at its own name and at ``/``, 404 elsewhere."""
    path = os.path.abspath(path)
    names = {"/", "/" + os.path.basename(path)}

    @wsgify  # type: ignore[untyped-decorator]
    def file(request: Request) -> Any:
        if request.method not in ("GET", "HEAD"):
            return exc.HTTPMethodNotAllowed(headers=[("Allow", "GET, HEAD")])
        return _send(path) if _path_info(request) in names else exc.HTTPNotFound()

    return file  # type: ignore[no-any-return]


def _path_info(request: Request) -> str:
    # As the names of files are decoded: there are some that are no UTF-8.
    return os.fsdecode(request.environ.get("PATH_INFO", "").encode("latin-1")) or "/"


def _send(path: str) -> Any:
    """An application for this file."""
    if not os.path.isfile(path):
        return exc.HTTPNotFound()
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError:
        return exc.HTTPForbidden()
    # The encoding does not go into a header, which browsers would undo: what they
    # save as .tar.gz would be no gzip file any more.
    content_type, encoding = mimetypes.guess_type(path)
    if encoding is not None:
        content_type = "application/gzip" if encoding == "gzip" else None
    if content_type is None:
        content_type = "application/octet-stream"
    elif content_type.startswith("text/"):
        content_type += "; charset=utf-8"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        # To be kept, but not without asking whether it was changed.
        headers = [("Content-Type", content_type), ("Cache-Control", "no-cache")]
        start_response("200 OK", headers)
        return file

    return application


def _listing(path: str, title: str) -> str:
    with os.scandir(path) as entries:
        names = sorted(
            (entry.name + "/" if entry.is_dir() else entry.name for entry in entries),
            key=lambda name: (not name.endswith("/"), name.lower()),
        )
    if title != "/":
        names.insert(0, "../")
    lines = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_text(title)}</title>",
        f"<h1>{_text(title)}</h1>",
        "<ul>",
    ]
    # "./" first: a name like "a:b" would be taken for a scheme.
    lines += [
        f'<li><a href="./{quote(os.fsencode(name))}">{_text(name)}</a></li>' for name in names
    ]
    return "\n".join([*lines, "</ul>", "</html>", ""])


def _text(name: str) -> str:
    return html.escape(os.fsencode(name).decode(errors="replace"))
