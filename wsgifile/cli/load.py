"""What the targets mean: the application to serve."""

from __future__ import annotations

import inspect
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["LoadError", "load", "need"]


class LoadError(Exception):
    """A target cannot be served. The message says why, in one line."""


def need(package: str) -> None:
    """Check that this package, of the extra ``serve`` or ``tls``, is there.

    :raises LoadError: if it is not; the message says how to install it.
    """
    try:
        import_module(package.lower())
    except ImportError:
        packages = package if package == "cheroot" else "waitress WebOb"
        raise LoadError(f"{package} is not installed: pip install {packages}") from None


def load(targets: list[str], **options: bool) -> tuple[WSGIApplication, str]:
    """The application that the targets mean, and the path of the URL to show for it.

    :param options: those of directory_app().
    :raises LoadError: if there is no such application, or if options are set, but none of the
        targets is a directory.
    """
    if len(targets) == 1 and not os.path.exists(targets[0]):
        _refuse_options(targets, options)
        return _load_callable(targets[0]), "/"
    if not any(map(os.path.isdir, targets)):
        _refuse_options(targets, options)
    for target in targets:
        _check(target)
    need("WebOb")
    from .directory import directory_app, file_app

    apps: list[WSGIApplication] = [
        directory_app(target, **options) if os.path.isdir(target) else file_app(target)
        for target in targets
    ]
    if len(targets) == 1:
        name = "" if os.path.isdir(targets[0]) else quote(os.fsencode(_name(targets[0])))
        return apps[0], f"/{name}"
    from .several import Several

    names = [_name(target) for target in targets]
    for name in names:
        if not name:
            raise LoadError("/ has no name, so it is served alone")
        if names.count(name) > 1:
            raise LoadError(f"two targets have the name {name}; each needs a name of its own")
    paths = map(os.path.abspath, targets)
    return Several(dict(zip(names, zip(apps, paths, strict=True), strict=True))), "/"


def _refuse_options(targets: list[str], options: dict[str, bool]) -> None:
    if any(options.values()):
        names = " ".join(targets)
        raise LoadError(f"--hidden, --follow-symlinks and --zip are for directories, not {names}")


def _name(target: str) -> str:
    return os.path.basename(os.path.abspath(target))


def _check(target: str) -> None:
    """Check that it is a directory or a file, and that it can be read."""
    is_directory = os.path.isdir(target)
    if not os.path.exists(target):
        raise LoadError(
            f"{target} does not exist; an application is served alone, and PATH is for --explain"
        )
    if not (is_directory or os.path.isfile(target)):
        raise LoadError(f"{target} is neither a file nor a directory")
    # What is in a directory can be served even if it cannot be listed.
    if not os.access(target, os.X_OK if is_directory else os.R_OK):
        raise LoadError(f"no permission to read {target}")


def _load_callable(target: str) -> WSGIApplication:
    module, colon, attributes = target.partition(":")
    if not (colon and all(part.isidentifier() for part in f"{module}.{attributes}".split("."))):
        raise LoadError(f"{target} does not exist, and is not of the form package.module:callable")
    # In the console script, sys.path begins with the script's directory instead.
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module)
    except BaseException as error:
        # The module may raise anything. Or the user pressed Ctrl-C.
        raise LoadError(f"cannot import {module}: {_in_short(error)}") from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise LoadError(f"{module} has no {attributes}") from None
        except Exception as error:  # Some are computed when they are asked for.
            raise LoadError(f"cannot get {module}:{attributes}: {_in_short(error)}") from error
    if not callable(found):
        raise LoadError(f"{module}:{attributes} is not callable, so it is no WSGI application")
    if any(map(inspect.iscoroutinefunction, (found, type(found).__call__))):
        raise LoadError(f"{module}:{attributes} is async, so it is no WSGI application")
    app: WSGIApplication = found
    return app


def _in_short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
