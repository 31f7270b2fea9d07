"""Is the next part of a file in memory, or would whoever sends it wait for a disk?

Asked where one thread serves many clients: waitress sends from its main loop, and
all of gevent and eventlet is one. Linux tells by preadv2(2) with RWF_NOWAIT, for the
common file systems of local disks.
"""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["Lookout", "bring_in", "lets_wait"]

#: File systems that cannot tell, and are in memory, or on disks of this machine as a
#: rule: there one waits for milliseconds, not for somebody else's computer.
_LOCAL = frozenset(
    {
        "aufs",
        "devtmpfs",
        "ecryptfs",
        "erofs",
        "exfat",
        "iso9660",
        "ntfs3",
        "overlay",
        "ramfs",
        "squashfs",
        "tmpfs",
        "udf",
        "vfat",
        "zfs",
    }
)
#: At every so manyth byte it is looked for: what is in memory of a file are long
#: stretches, and the question has the kernel read where it finds nothing.
_STEP = 4 << 20
#: And at most so many bytes ahead, as who asks pauses, and that costs more than the
#: question. 1 GiB by waitress: looking 64 MiB far costs 0 to 0.6 % of the throughput,
#: 16 MiB 5 to 7 %.
_FAR = 64 << 20

#: For a byte of which only it matters that it is there.
_BYTE = [bytearray(1)]

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)

#: What was found out, by device.
_remote: dict[int, bool] = {}


def _is_cached(fd: int, offset: int) -> bool | None:
    """Whether the page at offset is in memory; None: the file system cannot tell."""
    try:
        os.preadv(fd, _BYTE, offset, _NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def lets_wait(fd: int) -> bool:
    """Whether its file system lets readers wait, and nobody can tell when.

    So is FUSE, for one. What cannot be found out is taken for a disk.
    """
    if not _NOWAIT or _is_cached(fd, 0) is not None:
        return False
    device = os.fstat(fd).st_dev
    if device not in _remote:
        kind = _file_system(fd)
        _remote[device] = kind is not None and kind not in _LOCAL
    return _remote[device]


def _file_system(fd: int) -> str | None:
    """The type of the file system, by proc(5); None: not known."""
    with suppress(OSError, ValueError):
        with open(f"/proc/self/fdinfo/{fd}") as info:
            mount = next((line.split()[1] for line in info if line.startswith("mnt_id:")), "")
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                # Number of the mount, ..., a hyphen, the type, ...
                if line.startswith(f"{mount} "):
                    return line.partition(" - ")[2].split()[0]
    return None


def missing(fd: int, offset: int, count: int) -> bool:
    """Whether something of these bytes of a file is not in memory, count being at least 1."""
    if not _NOWAIT:
        return False
    # At the end, too: the beginning alone may have been looked at before.
    positions = (*range(offset, offset + count, _STEP), offset + count - 1)
    return any(_is_cached(fd, position) is False for position in positions)


class Lookout:
    """Looks ahead of who sends a file, the further the longer nothing was missing."""

    def __init__(self, offset: int) -> None:
        #: Up to here the file is in memory.
        self.until: int = offset
        self._window = _STEP

    def finds(self, fd: int, offset: int, count: int, *, near: bool) -> bool:
        """Whether what comes next is in memory; if so, until tells how much of it.

        near: not to look far, as it takes its time until that is sent.
        """
        count = min(count, _STEP if near else self._window)
        if missing(fd, offset, count):
            self._window = _STEP
            return False
        self._window = min(2 * self._window, _FAR)
        self.until = offset + count
        return True


def bring_in(fd: int, offset: int, count: int) -> None:
    """Wait until these bytes are in memory; errors are for who sends them to meet."""
    with suppress(OSError):
        os.posix_fadvise(fd, offset, count, os.POSIX_FADV_WILLNEED)
        buffer = bytearray(min(count, 128 << 10))
        end = offset + count
        while offset < end and (got := os.preadv(fd, [buffer], offset)):
            offset += got
