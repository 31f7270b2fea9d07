"""``egg:wsgifile`` for PasteDeploy: a filter for any pipeline.

.. code-block:: ini

    [filter:wsgifile]
    use = egg:wsgifile
    block_size = 262144
    ranges = true
    validators = true
    read_ahead = 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from paste.deploy.converters import asbool

from .middleware import FileWrapperMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["filter_app_factory", "filter_factory"]

# What an ini may set, what it is, and how to read it. The constructor checks.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "block_size": ("int", int),
    "ranges": ("bool", asbool),
    "validators": ("bool", asbool),
    "read_ahead": ("int", int),
}


def filter_factory(
    global_conf: Mapping[str, str], **local_conf: str
) -> Callable[[WSGIApplication], FileWrapperMiddleware]:
    """A ``paste.filter_factory``: the options, later the application.

    :raises ValueError: for an option that does not exist or cannot be read.
    """
    options = _read(local_conf)

    def filter_(app: WSGIApplication) -> FileWrapperMiddleware:
        return FileWrapperMiddleware(app, **options)

    return filter_


def filter_app_factory(
    app: WSGIApplication, global_conf: Mapping[str, str], **local_conf: str
) -> FileWrapperMiddleware:
    """A ``paste.filter_app_factory``: the application and the options at once.

    :raises ValueError: for an option that does not exist or cannot be read.
    """
    return FileWrapperMiddleware(app, **_read(local_conf))


def _read(local_conf: Mapping[str, str]) -> dict[str, Any]:
    options = {}
    for name, text in local_conf.items():
        if name not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise ValueError(f"egg:wsgifile has no option {name!r}, only: {known}")
        kind, read = _OPTIONS[name]
        try:
            options[name] = read(text)
        except ValueError:
            raise ValueError(f"egg:wsgifile: {name} = {text!r} is no {kind}") from None
    return options
