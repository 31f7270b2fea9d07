"""Leaving a file to the proxy in front, or to the store that has it, by a header that names it.

The directories that the proxy may send from are configured here, and never by a request: a
client that could name them could read every file. The file that the application opened must
be the one that the proxy will find under its name, by device and inode. A file that was
renamed or deleted is sent without the proxy.

A file of an object store has a URL instead. A function that is configured here makes it from
the file, and sees nothing of the request.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from .blocks import check_function
from .log import logger, warn_once
from .recognise import FileRegion, KernelFile
from .transfer import Declined

__all__ = ["Offload", "Proxies", "Redirect", "XAccelRedirect", "XSendfile"]

Path = str | os.PathLike[str]

#: The largest length of the header's value. By default nginx takes 4 KiB for the whole header,
#: and quoting makes three bytes of one.
_LONGEST = 2000
#: The same where the value has a URL, which is not quoted. With a session token it is long.
_LONGEST_WITH_URL = 3000
#: The same for clients. Some accept no more than 8 KiB for the whole header.
_LONGEST_URL = 7000

#: What servers call the client of a Unix domain socket. No packet comes from 0.0.0.0.
_UNIX = frozenset({"", "0.0.0.0", "<local>", "localhost"})  # noqa: S104  # Nothing is bound.

_UNFIT = re.compile(rb"[\x00-\x1f\x7f]")

#: All characters of a URL (RFC 3986, section 2), except "#": what follows it is not sent.
_URL = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")


class Offload(ABC):
    """Leave whole files to somebody else.

    Use one of :class:`XAccelRedirect`, :class:`XSendfile` and :class:`Redirect`.
    """

    #: The header's name.
    header: ClassVar[str]

    @abstractmethod
    def leave(
        self, region: FileRegion, method: str, fields: Mapping[str, str]
    ) -> tuple[str, str] | Declined:
        """The name and the value of the header that leaves all of this file to somebody else.

        :param fields: the application's header, by lower-case names.
        """


class _ByPath(Offload):
    """Leave files on disk to a proxy: those below some directories."""

    def __init__(self, prefixes: Iterable[tuple[bytes, bytes]]) -> None:
        #: Each directory, and what stands for it in the header. Inner directories come first.
        self._prefixes = sorted(prefixes, key=lambda pair: -len(pair[0]))

    def leave(
        self, region: FileRegion, method: str, fields: Mapping[str, str]
    ) -> tuple[str, str] | Declined:
        """The header that has the proxy send this file."""
        if region.kernel is None:
            return Declined("it is not a plain file on disk, or it is empty")
        return self.field(region.kernel)

    def encode(self, path: bytes) -> str | Declined:
        """The header's value."""
        return quote(path)

    def field(self, file: KernelFile) -> tuple[str, str] | Declined:
        """The name and the value of the header that has the proxy send this file."""
        if not isinstance(file.name, (str, bytes, os.PathLike)):
            return Declined("the file was not opened by its path")
        try:
            path = os.path.realpath(os.fsencode(file.name))
        except (OSError, ValueError):
            # A relative name when the working directory is gone, or an impossible name.
            return Declined("the file is not there any more")
        for root, prefix in self._prefixes:
            # Resolved at each request: a release may change a link to the directory.
            real = os.path.join(os.path.realpath(root), b"")
            if path.startswith(real):
                name = path[len(real) :]
                try:
                    there = os.stat(os.path.join(root, name))
                except OSError:
                    return Declined("the file is not there any more")
                if not os.path.samestat(there, os.fstat(file.fileno())):
                    return Declined("another file has this name now")
                value = self.encode(prefix.rstrip(b"/") + b"/" + name)
                if isinstance(value, Declined):
                    return value
                if len(value) > _LONGEST:
                    return Declined("the name is too long for a header")
                return self.header, value
        return Declined("the file is not below a directory of the proxy")


class XAccelRedirect(_ByPath):
    """Leave files to nginx, by ``X-Accel-Redirect``.

    :param prefixes: from each directory to the ``internal`` location whose ``alias`` it is:
        ``{"/srv/files": "/_files"}``. A function in the place of a directory makes URLs of an
        object store from files, as for :class:`Redirect`. Its location has ``proxy_pass $args``:
        ``{url_for: "/_store"}``.
    :raises TypeError: if it is not a mapping of paths, or functions, to str.
    :raises ValueError: for a directory that does not exist or is not given by its absolute
        path, or for a location that is not a path beginning with a slash.
    """

    header = "X-Accel-Redirect"

    def __init__(self, prefixes: Mapping[Any, str]) -> None:
        if not isinstance(prefixes, Mapping):
            raise TypeError(
                f"XAccelRedirect takes a mapping of directories to locations, not {prefixes!r}"
            )
        if not prefixes:
            raise ValueError("XAccelRedirect needs at least one directory or function")
        pairs: dict[bytes, bytes] = {}
        self._stores: list[tuple[_Urls, str]] = []
        for path, location in prefixes.items():
            if not isinstance(location, str):
                raise TypeError(f"the location for {path!r} must be a str, not {location!r}")
            if not location.startswith("/") or quote(location) != location:
                raise ValueError(
                    f'{location!r} is not a location: it must be a plain path beginning with "/"'
                )
            if callable(path):
                self._stores.append((_Urls(path), location))
            else:
                pairs[_directory(path)] = location.encode()
        super().__init__(pairs.items())

    def leave(
        self, region: FileRegion, method: str, fields: Mapping[str, str]
    ) -> tuple[str, str] | Declined:
        """The header that has nginx send this file from its disk, or from a store."""
        field = super().leave(region, method, fields)
        for urls, location in self._stores:
            if isinstance(field, Declined):
                url = urls.of(region, _LONGEST_WITH_URL)
                # nginx unquotes the path, but not what follows "?".
                field = url if isinstance(url, Declined) else (self.header, f"{location}?{url}")
        return field


class XSendfile(_ByPath):
    """Leave files to Apache's mod_xsendfile or to lighttpd, by ``X-Sendfile``.

    :param directories: the ones that ``XSendFilePath`` or ``x-sendfile-docroot`` allow.
    :param quoted: whether it takes quoted names, with ``%20`` for a space. lighttpd and
        mod_xsendfile 1.0 do; mod_xsendfile 0.12, which Debian has, does not. None: not
        known. Then only names that are the same either way are left to it.
    :raises TypeError: if directories is not a list of paths, or quoted not a bool.
    :raises ValueError: for a directory that does not exist or is not given by its absolute
        path.
    """

    header = "X-Sendfile"

    def __init__(self, directories: Iterable[Path], *, quoted: bool | None = None) -> None:
        if isinstance(directories, (str, bytes, Mapping)):
            raise TypeError(f"XSendfile takes a list of directories, not {directories!r}")
        if not (quoted is None or isinstance(quoted, bool)):
            raise TypeError(f"quoted must be True, False or None, not {quoted!r}")
        self._quoted = quoted
        paths = [*map(_directory, directories)]
        if not paths:
            raise ValueError("XSendfile needs at least one directory")
        super().__init__(zip(paths, paths, strict=True))

    def encode(self, path: bytes) -> str | Declined:
        """The header's value, quoted or not, as the proxy takes it."""
        value, plain = quote(path), path.decode("latin-1")
        if self._quoted or value == plain:
            return value
        if self._quoted is None:
            return Declined("the name needs quoting, and quoted= does not tell how")
        # No character that would end the header, and no space that would be stripped.
        if _UNFIT.search(path) or plain != plain.strip():
            return Declined("the name does not fit into a header")
        return plain


class Redirect(Offload):
    """Leave files to the object store that has them: the client gets a 302 to a URL there.

    :param url_for: a function from the file that the application returned to a URL by which
        the client may get it for some time, such as a presigned one. None: the file is sent
        from here.
    :param head: whether that URL is good for HEAD, too. Otherwise HEAD is answered from here:
        a URL that is presigned for S3 is good for one method.
    :param with_headers: whether url_for gets the application's header as a second argument, a
        dict by lower-case names, because the store can be asked for the same Content-Type and
        Content-Disposition.
    :raises TypeError: if url_for cannot be called or is an async function, or if another
        argument is not a bool.
    """

    header = "Location"

    def __init__(
        self,
        url_for: Callable[..., str | None],
        *,
        head: bool = False,
        with_headers: bool = False,
    ) -> None:
        for name, value in (("head", head), ("with_headers", with_headers)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")
        self._urls = _Urls(url_for)
        self._head = head
        self._with_headers = with_headers

    def leave(
        self, region: FileRegion, method: str, fields: Mapping[str, str]
    ) -> tuple[str, str] | Declined:
        """The header that sends the client to the store."""
        if method == "HEAD" and not self._head:
            return Declined("the URL is for GET")
        more = (dict(fields),) if self._with_headers else ()
        url = self._urls.of(region, _LONGEST_URL, *more)
        return url if isinstance(url, Declined) else (self.header, url)


class _Urls:
    """The URLs of files in an object store, by a function that is not trusted to be right."""

    def __init__(self, url_for: Callable[..., str | None]) -> None:
        check_function("url_for", url_for)
        self._url_for = url_for

    def of(self, region: FileRegion, longest: int, *more: object) -> str | Declined:
        """The URL of this file."""
        if _has_begun(region):
            return Declined("the application has read from the file, or sought in it")
        try:
            url = self._url_for(region.filelike, *more)
        except Exception:
            logger.exception("offload: url_for failed, so the file is sent from here")
            return Declined("url_for failed")
        if url is None:
            return Declined("url_for has no URL for this file")
        fault = _fault(url, longest)
        if fault is None:
            return url
        # Without the URL, because whoever reads it may read the file.
        warn_once("offload: the file is sent from here, because what url_for returned %s", fault)
        return Declined(f"what url_for returned {fault}")


def _has_begun(region: FileRegion) -> bool:
    """Whether the file no longer stands at its first byte, as far as it can tell."""
    # tell may be a property that does more: that of django-storages downloads the file.
    if region.seek or not callable(getattr(type(region.filelike), "tell", None)):
        return False
    try:
        return bool(region.filelike.tell())  # type: ignore[attr-defined]
    except Exception:
        return False


def _fault(url: object, longest: int) -> str | None:
    """Why a client or nginx must not get this as a URL; None: there is no reason."""
    if not isinstance(url, str):
        return f"is no str, but of type {type(url).__name__}"
    if not _URL.fullmatch(url):
        return "is empty, or has a character that must be quoted"
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        complete = False
    if not complete:
        return "does not begin with http:// or https:// and a host"
    return None if len(url) <= longest else "is too long for a header"


def _directory(path: Path) -> bytes:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"offload: a directory must be a str or a path, not {path!r}")
    if not os.path.isabs(path):
        raise ValueError(f"offload: {os.fspath(path)!r} is not the absolute path of a directory")
    if not os.path.isdir(path):
        raise ValueError(f"offload: there is no directory {os.fspath(path)!r}")
    # normpath() would drop "link/..", which may be another directory.
    return os.fsencode(path).rstrip(b"/") or b"/"


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(
            f'trusted_proxies takes addresses, networks and "unix", not {text!r}: {error}'
        ) from None


class Proxies:
    """The addresses that requests through the proxy come from.

    :param networks: addresses or networks, such as ``"127.0.0.1"`` or ``"10.0.0.0/8"``, and
        ``"unix"`` for Unix domain sockets.
    :raises TypeError: if it is not a list of str.
    :raises ValueError: for a str that is neither an address nor a network.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, (str, bytes)):
            raise TypeError(f"trusted_proxies takes a list of networks, not {networks!r}")
        networks = list(networks)
        for network in networks:
            if not isinstance(network, str):
                raise TypeError(f"trusted_proxies takes a list of str, not {network!r} in it")
        self._names = _UNIX if "unix" in networks else frozenset()
        self._networks = [_network(network) for network in networks if network != "unix"]

    def include(self, peer: str) -> bool:
        """Whether a request with this ``REMOTE_ADDR`` came through the proxy; "" for none."""
        if peer in self._names:
            return True
        try:
            addresses = [ip_address(peer)]
        except ValueError:
            return False
        mapped = getattr(addresses[0], "ipv4_mapped", None)
        if mapped is not None:  # From a socket that takes IPv4 and IPv6.
            addresses.append(mapped)
        return any(address in network for address in addresses for network in self._networks)
