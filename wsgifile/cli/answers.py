"""Responses of the applications here that are no files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from webob import Request, Response

from ..conditions import Validators
from .listing import POLICY, POLICY_OF_PREVIEW, Listing, error_page, preview_page
from .media import kind_of_media
from .site import path_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Unchanged", "error", "moved", "not_allowed", "not_found", "page", "preview"]


class Unchanged(Response):  # type: ignore[misc]
    """A response that goes out as it is.

    WebOb's own ``__call__`` drops the file from the answer to HEAD, so the middleware could
    not add the file's length and ETag. It also makes Location absolute, with the host that
    the client asked for.
    """

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self.status, self.headerlist)
        return self.app_iter  # type: ignore[no-any-return]


def page(request: Request, listing: Listing) -> Response:
    """The page of this listing, or what the conditions of the request ask for instead."""
    etag = listing.etag()
    status = Validators(etag, None).refuse(request.environ)
    if status is None:
        response = Response(listing.page(), content_type="text/html", charset="utf-8")
    else:
        response = Response(status=status, body=b"", content_type=None)
    response.headers.update({**_OF_PAGES, "ETag": etag})
    return response


def error(status: str, reason: str, **headers: str) -> Response:
    """A page that says why there is nothing else."""
    text = error_page(status, reason)
    response = Response(text, status=status, content_type="text/html", charset="utf-8")
    response.headers.update({**_OF_PAGES, **headers})
    return response


_OF_PAGES = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
}


def preview(root: str, name: str, shown: str) -> Response:
    """A page that shows a picture, or plays a video or a sound.

    :param root: with name, where the file is.
    :param shown: the path of the URL.
    """
    status = os.stat(path_of(root, name), follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        return not_found()
    kind = kind_of_media(shown)
    text = preview_page(os.path.normpath(shown), str(kind), status.st_size)
    response = Response(text, content_type="text/html", charset="utf-8")
    response.headers.update({**_OF_PAGES, "Content-Security-Policy": POLICY_OF_PREVIEW})
    return response


def not_found() -> Response:
    """There is nothing, or nothing that is served. Nobody learns which."""
    return error("404 Not Found", "There is nothing here by that name.")


def not_allowed() -> Response:
    """Nothing here can be changed."""
    return error("405 Method Not Allowed", "Files can only be read here.", Allow="GET, HEAD")


def moved(name: str, query: str) -> Response:
    """A redirect to the same path with a slash at the end."""
    location = f"./{quote(os.fsencode(name))}/"
    if query:
        location += "?" + quote(query, "!#$%&'()*+,/:;=?@[]~", "latin-1")
    # Browsers would keep it for ever. Tomorrow, this port may have a file of that name.
    headers = [("Location", location), ("Content-Length", "0"), ("Cache-Control", "no-cache")]
    return Unchanged(status=301, headerlist=headers, app_iter=[])
