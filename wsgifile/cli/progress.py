"""Responses under way, shown below the access log if stderr is a terminal.

Each response that lasts longer than a second has a row. The rows are written again once a
second, and with each line of the log. The cursor stays on an empty line above them. So what
anything else writes to the terminal is not overwritten by the next rows.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from ..log import one_line
from .listing import text_of_size

__all__ = ["Progress", "as_row", "write"]

#: Seconds between two updates.
_TICK = 1.0
#: The largest number of rows, and of the terminal's lines that stay for the log at least.
_MOST, _REST = 10, 4
#: The escape sequence that erases the cursor's line and all below it.
_ERASE = "\r\x1b[J"


def write(text: str) -> None:
    """Write to stderr. If that is closed, it is no reason for a response to fail."""
    with suppress(OSError, ValueError, AttributeError):
        # One write, so that no other line gets in between. Past the buffer of
        # sys.stderr, which would fail at exit if nobody reads it.
        os.write(sys.stderr.fileno(), text.encode(errors="replace"))


class Response(Protocol):
    """A response that is under way."""

    #: As as_row() returns it; "": not to be shown yet.
    row: str

    def look(self) -> None:
        """Look again, and update the row."""
        ...


class Progress:
    """The rows below the log, on a terminal that knows escape sequences.

    :param under_way: the responses to show, the oldest first. Other threads change it.
    """

    def __init__(self, under_way: Iterable[Response]) -> None:
        self._under_way = under_way
        #: Whether there are rows on the terminal.
        self._shows = False
        # Reentrant: if the garbage collector ends a response inside write(), that writes a line.
        self._lock = threading.RLock()
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        atexit.register(self._end)

    @staticmethod
    def is_possible() -> bool:
        """Whether stderr is such a terminal."""
        if os.environ.get("TERM", "dumb") == "dumb":
            return False
        try:
            return os.isatty(sys.stderr.fileno())
        except (OSError, ValueError, AttributeError):  # It is closed.
            return False

    def write(self, line: str) -> None:
        """Write a line of the log above the rows."""
        with self._lock:
            rows = [] if self._ended.is_set() else [each.row for each in list(self._under_way)]
            drawing = _drawing([*filter(None, rows)])
            if line or drawing or self._shows:
                write(_ERASE + line + drawing)
            self._shows = drawing != ""

    def _run(self) -> None:
        while not self._ended.wait(_TICK):
            for each in list(self._under_way):
                each.look()
            self.write("")

    def _end(self) -> None:
        self._ended.set()
        self.write("")


def _drawing(rows: list[str]) -> str:
    """The rows, below the line that the cursor is on. It returns there."""
    if not rows:
        return ""
    columns, lines = _size()
    most = max(1, min(_MOST, lines - _REST))
    if len(rows) > most:
        rows = [*rows[: most - 1], f"and {len(rows) - most + 1} more"]
    # A row that is too long would take two lines. In ASCII, each character has one column.
    shown = (one_line(row).encode("ascii", "backslashreplace").decode() for row in rows)
    return "".join(f"\n{row[: columns - 1]}" for row in shown) + f"\r\x1b[{len(rows)}A"


def _size() -> tuple[int, int]:
    """Columns and lines of the terminal."""
    try:
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # It is closed by now.
        columns = lines = 0
    # A terminal that does not know its size says 0.
    return columns or 80, lines or 24


def as_row(client: str, request: str, sent: int, count: int | None, speed: float) -> str:
    """A response until now, in one line.

    :param sent: number of bytes.
    :param count: of all of them; None: it is not known.
    :param speed: bytes in a second.
    """
    percent, of = "", ""
    if count:
        percent, of = f"{sent / count:.0%}", f"of {text_of_size(count)}"
    return (
        f"{percent:>4} {text_of_size(sent):>10} {of:<13}"
        f" {text_of_size(round(speed)):>10}/s  {client}  {request}"
    )
