"""Is the next part of a file in memory, or would the sender wait for a disk?

The question matters where one thread serves many clients: the main loop of waitress, and
everything on gevent and eventlet. Linux answers it by preadv2(2) with RWF_NOWAIT, on the
usual file systems of local disks.

And does the memory of the kernel hold what the file holds? os.sendfile sends from there.
"""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["Lookahead", "is_stale", "may_block", "prefetch"]

#: File systems that cannot answer but are in memory, or usually on a local disk. There a
#: reader waits for milliseconds, not for another computer.
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
#: File systems on which the kernel sends the bytes that it has in memory, even if the file has
#: changed since: the shared folders of VirtualBox (its tickets 9069 and 12597). read() gives the
#: present ones.
_STALE = frozenset({"vboxsf"})
#: Probe one page every _STEP bytes. A file is in memory in long stretches, and a probe of a page
#: that is not there makes the kernel read.
_STEP = 4 << 20
#: The largest number of bytes to look ahead. Nothing is sent meanwhile, and that pause costs
#: more than the probes. When waitress sends 1 GiB, looking 64 MiB ahead costs 0 to 0.6 % of the
#: throughput, and 16 MiB 5 to 7 %.
_FAR = 64 << 20

#: For a probed byte, whose value does not matter.
_BYTE = [bytearray(1)]

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)

#: The type of the file system, by device; None: not known.
_types: dict[int, str | None] = {}


def _is_cached(fd: int, offset: int) -> bool | None:
    """Whether the page at offset is in memory; None: the file system cannot tell."""
    try:
        os.preadv(fd, _BYTE, offset, _NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def may_block(fd: int) -> bool:
    """Whether readers may wait on this file system for longer than a disk takes.

    FUSE is an example. A file system that cannot be identified counts as a disk.
    """
    if not _NOWAIT or _is_cached(fd, 0) is not None:
        return False
    kind = _type_of(fd, os.fstat(fd).st_dev)
    return kind is not None and kind not in _LOCAL


def is_stale(fd: int, device: int) -> bool:
    """Whether the kernel itself may send old bytes of this file.

    :param device: that of the file, as fstat() has it.
    """
    return _type_of(fd, device) in _STALE


def _type_of(fd: int, device: int) -> str | None:
    if device not in _types:
        _types[device] = _file_system(fd)
    return _types[device]


def _file_system(fd: int) -> str | None:
    """The type of the file system, by proc(5); None: not known."""
    with suppress(OSError, ValueError):
        with open(f"/proc/self/fdinfo/{fd}") as info:
            mount = next((line.split()[1] for line in info if line.startswith("mnt_id:")), "")
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                # The mount's number, ..., a hyphen, the type, ...
                if line.startswith(f"{mount} "):
                    return line.partition(" - ")[2].split()[0]
    return None


def is_resident(fd: int, offset: int, count: int) -> bool:
    """Whether these bytes of a file are in memory, as far as the probes tell; count >= 1."""
    if not _NOWAIT:
        return True
    # The last page too: an earlier call may have probed the first one only.
    positions = (*range(offset, offset + count, _STEP), offset + count - 1)
    return all(_is_cached(fd, position) is not False for position in positions)


class Lookahead:
    """Looks ahead of the sender of a file, further each time nothing is missing."""

    def __init__(self, offset: int) -> None:
        #: Up to here the file is in memory.
        self.until: int = offset
        self._window = _STEP

    def check(self, fd: int, offset: int, count: int, *, near: bool) -> bool:
        """Whether what comes next is in memory. If so, until tells up to where.

        :param near: do not look far, because the client takes a while for what is near.
        """
        count = min(count, _STEP if near else self._window)
        if not is_resident(fd, offset, count):
            self._window = _STEP
            return False
        self._window = min(2 * self._window, _FAR)
        self.until = offset + count
        return True


def prefetch(fd: int, offset: int, count: int) -> None:
    """Wait until these bytes are in memory. Errors are left for the sender to meet."""
    with suppress(OSError):
        # As many again, so that the disk goes on while these bytes are sent.
        os.posix_fadvise(fd, offset, 2 * count, os.POSIX_FADV_WILLNEED)
        buffer = bytearray(min(count, 128 << 10))
        end = offset + count
        while offset < end and (got := os.preadv(fd, [buffer], offset)):
            offset += got
