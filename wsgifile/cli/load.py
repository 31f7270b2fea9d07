"""What TARGET means: the application to serve."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["LoadError", "load", "need"]


class LoadError(Exception):
    """TARGET cannot be served. The message says why, in one line."""


def need(package: str) -> None:
    """Check that this package of the extra ``serve`` is there.

    :raises LoadError: if it is not; the message says how to install it.
    """
    try:
        import_module(package.lower())
    except ImportError:
        raise LoadError(f"{package} is not installed: pip install waitress WebOb") from None


def load(target: str, **options: bool) -> tuple[WSGIApplication, str]:
    """The application that TARGET means, and the path of the URL to show for it.

    :param options: those of directory_app().
    :raises LoadError: if there is no such application, or if options are set for anything
        but a directory.
    """
    if os.path.isdir(target):
        need("WebOb")
        from .directory import directory_app

        return directory_app(target, **options), "/"
    if any(options.values()):
        raise LoadError(f"--hidden and --follow-symlinks are for directories, not {target}")
    if os.path.isfile(target):
        if not os.access(target, os.R_OK):
            raise LoadError(f"no permission to read {target}")
        need("WebOb")
        from .directory import file_app

        return file_app(target), "/" + quote(os.fsencode(os.path.basename(target)))
    if os.path.exists(target):
        raise LoadError(f"{target} is neither a file nor a directory")
    module, colon, attributes = target.partition(":")
    if not (colon and all(part.isidentifier() for part in f"{module}.{attributes}".split("."))):
        raise LoadError(f"{target} does not exist, and is not of the form package.module:callable")
    return _load_callable(module, attributes), "/"


def _load_callable(module: str, attributes: str) -> WSGIApplication:
    # In the console script, sys.path begins with the script's directory instead.
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module)
    except BaseException as error:
        # The module may raise anything. Or the user pressed Ctrl-C.
        reason = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise LoadError(f"cannot import {module}: {reason}") from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise LoadError(f"{module} has no {attributes}") from None
    if not callable(found):
        raise LoadError(f"{module}:{attributes} is not callable, so it is no WSGI application")
    app: WSGIApplication = found
    return app
