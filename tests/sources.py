"""A file-like object that does what it is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from wsgifile.blocks import FileReadError

#: What read() gives or raises when there is nothing left, and what becomes of it.
ENDINGS: dict[str, tuple[Any, type[Exception] | None]] = {
    "end": (b"", None),
    "nothing yet": (None, TypeError),
    "text": ("text", TypeError),
    "no more": (StopIteration, None),
    "a failure": (OSError, FileReadError),
    "an error": (LookupError, LookupError),
}


class Scripted:
    """Gives a piece for each read(), as much of it as was asked for, and then its ending."""

    def __init__(
        self, pieces: Iterable[bytes], ending: str = "end", kind: Callable[[bytes], Any] = bytes
    ) -> None:
        self._pieces = deque(pieces)
        self._ending = ENDINGS[ending][0]
        self._kind = kind
        self.closes = 0

    def read(self, size: int) -> Any:
        assert self.closes == 0, "read after close()"
        assert size > 0
        if self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > size:
                self._pieces.appendleft(piece[size:])
            return self._kind(piece[:size])
        if isinstance(self._ending, type):
            raise self._ending("as told")
        return self._ending

    def fileno(self) -> int:
        raise AssertionError("a descriptor says nothing of what read() gives")

    def close(self) -> None:
        self.closes += 1


class ScriptedBuffer(Scripted):
    """Has a read1() as well, which as that of buffered readers makes nothing of None."""

    def read1(self, size: int) -> Any:
        return super().read(size) or b""

    def read(self, size: int) -> Any:
        return super().read(size)
