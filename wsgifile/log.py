"""The logger ``wsgifile``, and log lines that no name of a file can forge."""

from __future__ import annotations

import logging

__all__ = ["announce", "logger", "one_line", "warn_first", "warn_once"]

logger: logging.Logger = logging.getLogger("wsgifile")


def one_line(text: str) -> str:
    """The text with control characters escaped, so that it stays one line of a log."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


_logged: set[tuple[object, ...]] = set()


def _first_time(*what: object) -> bool:
    if what in _logged:
        return False
    _logged.add(what)
    return True


def announce(server: str, sender: str) -> None:
    """Log how files are sent on this server, once per process."""
    if _first_time(server, sender):
        logger.info("%s: files are sent by %s", server, sender)


def warn_once(message: str, *args: object) -> None:
    """Log a warning, once per process."""
    if _first_time(message, *map(str, args)):
        logger.warning(one_line(message % args))


def warn_first(message: str, *args: object) -> None:
    """Log a warning, once per process, whatever its arguments are."""
    if _first_time(message):
        logger.warning(one_line(message % args))
