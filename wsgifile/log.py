"""The logger ``wsgifile``, and lines of it that nobody can forge."""

from __future__ import annotations

import logging

__all__ = ["announce", "logger", "one_line", "warn_once"]

logger: logging.Logger = logging.getLogger("wsgifile")


def one_line(text: str) -> str:
    """The text as a line of a log, in which it cannot forge another."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


_told: set[tuple[object, ...]] = set()


def _first_time(*what: object) -> bool:
    if what in _told:
        return False
    _told.add(what)
    return True


def announce(server: str, sender: str) -> None:
    """Log by which sender files leave on this server, the first time in this process."""
    if _first_time(server, sender):
        logger.info("%s: files are sent by %s", server, sender)


def warn_once(message: str, *args: object) -> None:
    """Log a warning, unless it has been in this process."""
    if _first_time(message, *map(str, args)):
        logger.warning(one_line(message % args))
