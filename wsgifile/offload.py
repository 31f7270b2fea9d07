"""Leaving a file to the proxy in front, by a header that names it.

The directories that the proxy may send from are configured here, and never by a request: a
client that could name them could read every file. The file that the application opened must
be the one that the proxy will find under its name, by device and inode. A file that was
renamed or deleted is sent without the proxy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, ClassVar
from urllib.parse import quote

from .recognise import KernelFile
from .transfer import Declined

__all__ = ["Offload", "Proxies", "XAccelRedirect", "XSendfile"]

Path = str | os.PathLike[str]

#: The largest length of the header's value. By default nginx takes 4 KiB for the whole header,
#: and quoting makes three bytes of one.
_LONGEST = 2000

_UNFIT = re.compile(rb"[\x00-\x1f\x7f]")


class Offload:
    """Leave whole files below some directories to a proxy.

    Use one of :class:`XAccelRedirect` and :class:`XSendfile`.
    """

    #: The header's name.
    header: ClassVar[str]

    def __init__(self, prefixes: Iterable[tuple[bytes, bytes]]) -> None:
        #: Each directory, and what stands for it in the header. Inner directories come first.
        self._prefixes = sorted(prefixes, key=lambda pair: -len(pair[0]))
        if not self._prefixes:
            raise ValueError(f"{type(self).__name__} needs at least one directory")

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


class XAccelRedirect(Offload):
    """Leave files to nginx, by ``X-Accel-Redirect``.

    :param prefixes: from each directory to the ``internal`` location whose ``alias`` it is:
        ``{"/srv/files": "/_files"}``.
    :raises TypeError: if it is not a mapping of paths to str.
    :raises ValueError: for a directory that does not exist or is not given by its absolute
        path, or for a location that is not a path beginning with a slash.
    """

    header = "X-Accel-Redirect"

    def __init__(self, prefixes: Mapping[Any, str]) -> None:
        if not isinstance(prefixes, Mapping):
            raise TypeError(
                f"XAccelRedirect takes a mapping of directories to locations, not {prefixes!r}"
            )
        pairs: dict[bytes, bytes] = {}
        for path, location in prefixes.items():
            if not isinstance(location, str):
                raise TypeError(f"the location for {path!r} must be a str, not {location!r}")
            if not location.startswith("/") or quote(location) != location:
                raise ValueError(
                    f'{location!r} is not a location: it must be a plain path beginning with "/"'
                )
            pairs[_directory(path)] = location.encode()
        super().__init__(pairs.items())


class XSendfile(Offload):
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
        super().__init__((path, path) for path in map(_directory, directories))

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
        #: What servers call the client of a Unix domain socket.
        self._names = {"", "localhost"} if "unix" in networks else set()
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
