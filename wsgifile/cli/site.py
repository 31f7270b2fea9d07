"""What of a directory is served, and how it is opened.

These are not served and not listed, as if they did not exist: targets of symbolic links
outside the directory, names that begin with a dot and everything below them (also outside the
directory, and also if a link gives them another name), and anything that is neither a file nor
a directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from .listing import Entry

__all__ = ["Site", "entries_of", "open_below", "path_of"]

#: If not, as on Windows, files are opened by their path.
_BY_DESCRIPTOR = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
#: These also open a directory that can be entered but not listed.
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


class Site(NamedTuple):
    root: str
    hidden: bool
    follow_symlinks: bool

    def find(self, wanted: str) -> tuple[str, str]:
        """Where this path is: a directory, and a path below it without symbolic links.

        :raises FileNotFoundError: if it must not be served.
        """
        # At each request: root may be a link that is changed to release a new version.
        root = os.path.realpath(self.root)
        path = os.path.abspath(os.path.join(root, wanted.lstrip("/")))
        self._below(root, path)
        return self.served(root, os.path.realpath(path))

    def served(self, root: str, real: str) -> tuple[str, str]:
        """The same for a path without symbolic links."""
        if self.follow_symlinks and not _is_below(root, real):
            # Its whole path counts. The last name alone would not show that ~/.ssh/key is
            # hidden. The user of the command line named root, but not the way to this.
            self._refuse_hidden(real)
            return real, ""
        return root, self._below(root, real)

    def lists(self, name: str) -> bool:
        """Whether a listing may have this name."""
        return self.hidden or not name.startswith(".")

    def _below(self, root: str, path: str) -> str:
        """The path relative to root."""
        if not _is_below(root, path):
            raise FileNotFoundError(errno.ENOENT, "outside")
        name = os.path.join(path, "")[len(os.path.join(root, "")) : -1]
        self._refuse_hidden(name)
        return name

    def _refuse_hidden(self, name: str) -> None:
        if not all(map(self.lists, name.split(os.sep))):
            raise FileNotFoundError(errno.ENOENT, "hidden")


def _is_below(root: str, path: str) -> bool:
    """Whether path is root, or below it."""
    return os.path.join(path, "").startswith(os.path.join(root, ""))


def path_of(root: str, name: str) -> str:
    """The path of what Site.find() returns. A slash at its end would mean a directory."""
    return os.path.join(root, name) if name else root


def open_below(root: str, name: str, is_wanted: Callable[[int], bool]) -> int | str:
    """A descriptor of the file or directory, if its mode is what is_wanted.

    No symbolic link is followed on the way from root, so a link that was put there after the
    check leads nowhere. Nothing of another kind is opened: a pipe would wait, and opening a
    device may have any effect. If the system cannot open relative to a directory, this is the
    path instead of a descriptor.
    """
    if not _BY_DESCRIPTOR:
        found = path_of(root, name)
        _check(os.stat(found), is_wanted)
        return found
    *through, last = [root, *name.split(os.sep)] if name else [root]
    at = None
    try:
        for part in through:
            outer, at = at, os.open(part, _THROUGH | _NO_FOLLOW, dir_fd=at)
            if outer is not None:
                os.close(outer)
        _check(os.stat(last, dir_fd=at, follow_symlinks=False), is_wanted)
        fd = os.open(last, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW, dir_fd=at)
    finally:
        if at is not None:
            os.close(at)
    try:
        _check(os.stat(fd), is_wanted)
    except FileNotFoundError:
        os.close(fd)
        raise
    return fd


def _check(status: os.stat_result, is_wanted: Callable[[int], bool]) -> None:
    if not is_wanted(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "another kind of file")


def entries_of(site: Site, directory: str, found: Iterable[os.DirEntry[str]]) -> Iterator[Entry]:
    """Those that are served, while the directory is open."""
    root = os.path.realpath(site.root)
    for entry in found:
        try:
            if entry.is_symlink():
                site.served(root, os.path.realpath(os.path.join(directory, entry.name)))
            status = entry.stat()
        except OSError:  # It is gone, or a link to nothing that is served.
            continue
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory or stat.S_ISREG(status.st_mode):
            yield Entry(entry.name, is_directory, status.st_size, status.st_mtime)
