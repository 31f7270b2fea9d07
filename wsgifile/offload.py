"""Leaving a file to the proxy in front, by a header that tells it which one.

What the proxy may send is configured here, by directory, and never by a request: a
client that says where files are is a client that reads them all. The file that
the application has opened must be the one that the proxy will find under its name, by
device and inode; one that was renamed or deleted is sent by ourselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, ClassVar
from urllib.parse import quote

from .recognise import KernelFile
from .transfer import Declined

__all__ = ["Offload", "Proxies", "XAccelRedirect", "XSendfile"]

Path = str | os.PathLike[str]

#: Longer values are not left to it: quoting makes three bytes of one, and nginx has 4 KiB
#: for the whole header, as long as nobody tells it otherwise.
_LONGEST = 2000

_UNFIT = re.compile(rb"[\x00-\x1f\x7f]")


class Offload:
    """Leave whole files below some directories to a proxy.

    :class:`XAccelRedirect` and :class:`XSendfile` are the ones to use.
    """

    #: The header's name.
    header: ClassVar[str]

    def __init__(self, prefixes: Iterable[tuple[bytes, bytes]]) -> None:
        #: Directory, and what stands for it in the header. The inner ones first.
        self._prefixes = sorted(prefixes, key=lambda pair: -len(pair[0]))
        if not self._prefixes:
            raise ValueError(f"{type(self).__name__} needs a directory at least")

    def encode(self, path: bytes) -> str | Declined:
        """The header's value."""
        return quote(path)

    def field(self, file: KernelFile) -> tuple[str, str] | Declined:
        """Name and value of the header that has the proxy send this file."""
        if not isinstance(file.name, (str, bytes, os.PathLike)):
            return Declined("the file was not opened by its path")
        try:
            path = os.path.realpath(os.fsencode(file.name))
        except (OSError, ValueError):
            # A relative name, when the working directory is gone; a name that was set.
            return Declined("the file is not there any more")
        for root, prefix in self._prefixes:
            # Now, as a directory may be a link that is changed to release something.
            real = os.path.join(os.path.realpath(root), b"")
            if path.startswith(real):
                name = path[len(real) :]
                try:
                    there = os.stat(os.path.join(root, name))
                except OSError:
                    return Declined("the file is not there any more")
                if not os.path.samestat(there, os.fstat(file.fileno())):
                    return Declined("another file is there by now")
                value = self.encode(prefix.rstrip(b"/") + b"/" + name)
                if isinstance(value, Declined):
                    return value
                if len(value) > _LONGEST:
                    return Declined("the name is too long for a header")
                return self.header, value
        return Declined("the file is below none of the directories of the proxy")


class XAccelRedirect(Offload):
    """Leave files to nginx, by ``X-Accel-Redirect``.

    :param prefixes: by directory, the path of the ``internal`` location whose
        ``alias`` it is: ``{"/srv/files": "/_files"}``.
    :raises TypeError: if it is no mapping of paths to str.
    :raises ValueError: for a directory that is not given by its absolute path, or a
        location that does not begin with a slash or is no path.
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
                    f'{location!r} is no location: it must begin with "/" and be a plain path'
                )
            pairs[_directory(path)] = location.encode()
        super().__init__(pairs.items())


class XSendfile(Offload):
    """Leave files to Apache's mod_xsendfile or to lighttpd, by ``X-Sendfile``.

    :param directories: those that ``XSendFilePath`` or ``x-sendfile-docroot`` allow.
    :param quoted: whether it takes quoted names, with ``%20`` for a space: lighttpd and
        mod_xsendfile 1.0 do, mod_xsendfile 0.12, which Debian has, does not. None: not
        known, so that only names without a character that is quoted are left to it.
    :raises TypeError: if it is no list of paths, or quoted no bool.
    :raises ValueError: for a directory that is not given by its absolute path.
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
        """Quoted or not, as the proxy wants it."""
        value, plain = quote(path), path.decode("latin-1")
        if self._quoted or value == plain:
            return value
        if self._quoted is None:
            return Declined("the name would be quoted, and whether to is not known")
        # Nothing that would end the header, or be cut off.
        if _UNFIT.search(path) or plain != plain.strip():
            return Declined("the name does not fit into a header")
        return plain


def _directory(path: Path) -> bytes:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"a directory must be a str or a path, not {path!r}")
    if not os.path.isabs(path):
        raise ValueError(f"{os.fspath(path)!r} is no absolute path of a directory")
    # Not by normpath(), which takes "link/.." for nothing.
    return os.fsencode(path).rstrip(b"/") or b"/"


class Proxies:
    """Where requests come from that came through the proxy.

    :param networks: addresses or networks, as ``"127.0.0.1"`` or ``"10.0.0.0/8"``; and
        ``"unix"`` for Unix domain sockets.
    :raises TypeError: if it is no list of str.
    :raises ValueError: for what is no network.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        if isinstance(networks, (str, bytes)):
            raise TypeError(f"trusted_proxies takes a list of networks, not {networks!r}")
        networks = list(networks)
        for network in networks:
            if not isinstance(network, str):
                raise TypeError(f"a network must be a str, not {network!r}")
        #: What servers say of a Unix domain socket; waitress says localhost.
        self._names = {"", "localhost"} if "unix" in networks else set()
        self._networks = [ip_network(network) for network in networks if network != "unix"]

    def include(self, peer: str) -> bool:
        """Whether a request comes from there, by its ``REMOTE_ADDR``; "" if it has none."""
        if peer in self._names:
            return True
        try:
            addresses = [ip_address(peer)]
        except ValueError:
            return False
        mapped = getattr(addresses[0], "ipv4_mapped", None)
        if mapped is not None:  # By a socket for both.
            addresses.append(mapped)
        return any(address in network for address in addresses for network in self._networks)
