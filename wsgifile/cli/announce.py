"""What the user is told at the start: the URLs, a QR code for a phone, and the browser.

A server that listens on 0.0.0.0 or :: listens on every address of the machine. No browser opens
those two, so the addresses of the network interfaces are shown instead.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

__all__ = ["announce", "say", "tell"]

#: Of Linux, for ioctl(): the flags and the IPv4 address of a network interface. If the system
#: does not know them, only the address that leads to other networks is found.
_SIOCGIFFLAGS, _SIOCGIFADDR = 0x8913, 0x8915
#: The interface is up, and a network is at its other end.
_RUNNING = 0x40
#: The IPv6 addresses of Linux.
_IF_INET6 = Path("/proc/net/if_inet6")
#: Addresses for documentation, RFC 5737 and 3849. Nothing is sent there.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def announce(
    listening: list[tuple[str, int]],
    target: str,
    path: str,
    *,
    scheme: str,
    open_it: bool,
    anybody: str,
) -> bool:
    """Print a URL for each address, and a QR code for the first that other machines can open.

    Return whether other machines can reach the server.

    :param path: of the URLs.
    :param open_it: whether to open the first URL in the browser of this machine.
    :param anybody: for whom it is.
    """
    phone, anyone = "", False
    for host, port in listening:
        exposed = not ip_address(host).is_loopback
        anyone = anyone or exposed
        if exposed:
            say(f"{target} is open to {anybody} who can reach {host} port {port}")
        for shown in _reachable(host):
            url = _url(scheme, shown, port) + path
            if exposed and not ip_address(shown).is_loopback:
                phone = phone or url
            tell(f"Serving {target} on {url}")
    if phone and sys.stdout.isatty():
        _print_qr_code(phone)
    if open_it:
        host, port = listening[0]
        url = _url(scheme, _LOOPBACK.get(host, host), port) + path
        # In a thread: some wait until the browser ends, and the browser waits for the server.
        threading.Thread(target=_open, args=(url,), daemon=True).start()
    return anyone


def tell(line: str) -> None:
    """A line on stdout. If nobody reads that any more, it is no reason to stop.

    What its encoding has not is escaped.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError:
        # Otherwise Python would write it again at exit, and complain.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def say(message: str) -> None:
    """A line on stderr."""
    print(f"wsgifile: {message}", file=sys.stderr, flush=True)


#: The address of this machine for a browser on it, where the server listens on all of them.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def _reachable(host: str) -> list[str]:
    """Addresses at which a browser can open what listens on this one; the best one first."""
    if host not in _LOOPBACK:
        return [host]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = [_towards_others(family), *(_ipv6() if ":" in host else _ipv4())]
    addresses = [ip_address(each) for each in dict.fromkeys(found) if each]
    usable = [str(each) for each in addresses if not (each.is_loopback or each.is_link_local)]
    return usable or [_LOOPBACK[host]]


def _towards_others(family: socket.AddressFamily) -> str:
    """This machine's address for what it sends to other networks; "" if it has no route."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((_ELSEWHERE[family], 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


def _ipv4() -> Iterator[str]:
    """The IPv4 address of each network interface that runs."""
    with suppress(ImportError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        from fcntl import ioctl

        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            with suppress(OSError):  # It has no such address.
                flags = struct.unpack_from("H", ioctl(sock, _SIOCGIFFLAGS, asked), 16)[0]
                if flags & _RUNNING:
                    yield socket.inet_ntoa(ioctl(sock, _SIOCGIFADDR, asked)[20:24])


def _ipv6() -> Iterator[str]:
    """The IPv6 addresses that other machines can use."""
    with suppress(OSError):
        for line in _IF_INET6.read_text().splitlines():
            yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0]))


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _print_qr_code(url: str) -> None:
    """Print it, if segno is installed and the terminal has the characters for it."""
    with suppress(ImportError, UnicodeEncodeError):
        import segno

        segno.make(url, micro=False, error="l").terminal(compact=True, border=2)
        sys.stdout.flush()


def _open(url: str) -> None:
    with suppress(webbrowser.Error):
        if webbrowser.open(url):
            return
    say(f"no browser has opened {url}")
