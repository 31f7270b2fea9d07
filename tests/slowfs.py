"""A file system on which every read takes a while: ``slowfs.py MOUNTPOINT SECONDS``.

It uses FUSE (libfuse 3). The name of a file is its size in bytes, and a file of every size
exists. The program ends when the file system is unmounted, or at a signal.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TILE = random.Random(3).randbytes(1 << 16)


def content(offset: int, size: int) -> bytes:
    """Bytes of any file: all files have the same content."""
    first = offset % len(TILE)
    return (TILE * (size // len(TILE) + 2))[first : first + size]


@contextmanager
def mounted(directory: str, seconds: float) -> Iterator[None]:
    """Mount it on the directory, in a process of its own."""
    command = [sys.executable, os.path.abspath(__file__), directory, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(directory):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"it is not mounted: {process.communicate()[0]!r}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def main(directory: str, seconds: float) -> None:
    from mfusepy import FUSE, FuseOSError, Operations

    class Slow(Operations):
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            name = path[1:]
            if not name:
                return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2}
            if not name.isdigit():
                raise FuseOSError(2)
            size = int(name)
            blocks = -(-size // 512)
            mode = stat.S_IFREG | 0o444
            return {"st_mode": mode, "st_nlink": 1, "st_size": size, "st_blocks": blocks}

        def open(self, path: str, flags: int) -> int:
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            time.sleep(seconds)
            return content(offset, max(0, min(size, int(path[1:]) - offset)))

    FUSE(Slow(), directory, foreground=True, ro=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
