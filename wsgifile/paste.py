"""``egg:wsgifile`` for PasteDeploy: a filter for any pipeline.

.. code-block:: ini

    [filter:wsgifile]
    use = egg:wsgifile
    block_size = 262144
    ranges = true
    validators = true
    read_ahead = 2
    send_timeout = 60
    background = 200
    sendfile = true

If a proxy in front can send files, one of the first four of these, with one directory on
each line (:class:`~wsgifile.XSendfile` explains what is quoted). ``redirect`` names a function
for :class:`~wsgifile.Redirect`; a line of ``x_accel_redirect`` may name one, too:

.. code-block:: ini

    x_accel_redirect =
        /srv/files = /_files
        package.module:url_for = /_store
    x_sendfile =
        /srv/files
    x_sendfile_quoted =
        /srv/files
    x_sendfile_unquoted =
        /srv/files
    trusted_proxies = 127.0.0.1 10.0.0.0/8 unix
    redirect = package.module:url_for
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from paste.deploy.converters import asbool

from .middleware import FileWrapperMiddleware
from .offload import Redirect, XAccelRedirect, XSendfile

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["filter_factory"]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _function(name: str) -> Any:
    """What has this name, of the form package.module:function."""
    try:
        return resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be found: {error}") from error


def _x_accel_redirect(text: str) -> XAccelRedirect:
    prefixes: dict[str, str] = {}
    for line in _lines(text):
        directory, equals, location = line.rpartition("=")
        if not equals:
            raise ValueError(f"{line!r} is not of the form directory = location")
        if directory.strip() in prefixes:
            raise ValueError(f"{directory.strip()!r} is given twice")
        prefixes[directory.strip()] = location.strip()
    return XAccelRedirect(
        {
            _function(key) if ":" in key and not key.startswith("/") else key: location
            for key, location in prefixes.items()
        }
    )


# The options of an ini: the constructor's argument, and how to read it. The constructor checks.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "block_size": ("block_size", int),
    "ranges": ("ranges", asbool),
    "validators": ("validators", asbool),
    "read_ahead": ("read_ahead", int),
    "send_timeout": ("send_timeout", float),
    "background": ("background", int),
    "sendfile": ("sendfile", asbool),
    "x_accel_redirect": ("offload", _x_accel_redirect),
    "x_sendfile": ("offload", lambda text: XSendfile(_lines(text))),
    "x_sendfile_quoted": ("offload", lambda text: XSendfile(_lines(text), quoted=True)),
    "x_sendfile_unquoted": ("offload", lambda text: XSendfile(_lines(text), quoted=False)),
    "redirect": ("offload", lambda text: Redirect(_function(text))),
    "trusted_proxies": ("trusted_proxies", lambda text: text.replace(",", " ").split()),
}


def filter_factory(
    global_conf: Mapping[str, str], **local_conf: str
) -> Callable[[WSGIApplication], FileWrapperMiddleware]:
    """A ``paste.filter_factory``. It takes the options, and returns a filter.

    :raises ValueError: for an option that does not exist or cannot be read.
    """
    options = _read(local_conf)

    def filter_(app: WSGIApplication) -> FileWrapperMiddleware:
        return FileWrapperMiddleware(app, **options)

    return filter_


def _read(local_conf: Mapping[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in local_conf.items():
        if name not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise ValueError(f"egg:wsgifile has no option {name!r}, only: {known}")
        argument, read = _OPTIONS[name]
        if argument in options:
            raise ValueError(f"egg:wsgifile takes one option for a proxy, and {name} is a second")
        try:
            options[argument] = read(text)
        except ValueError as error:
            raise ValueError(f"egg:wsgifile: {name} = {text!r}: {error}") from error
    return options
