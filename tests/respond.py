"""Applications for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def sends(
    open_file: Callable[[], Any], *headers: tuple[str, str], status: str = "200 OK"
) -> WSGIApplication:
    """An application that sends this file."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response(status, list(headers))
        return open_file()

    return app
