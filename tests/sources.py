"""File-like objects that do what the test tells them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from wsgifile.blocks import FileReadError

#: What read() returns or raises after the last piece, and the error that follows from it.
ENDINGS: dict[str, tuple[Any, type[Exception] | None]] = {
    "end": (b"", None),
    "nothing yet": (None, TypeError),
    "text": ("text", TypeError),
    "too much": (b"x" * 10**6, ValueError),
    "no more": (StopIteration, None),
    "a failure": (OSError, FileReadError),
    "an error": (LookupError, LookupError),
}


class Scripted:
    """Returns one piece for each read(), at most size bytes of it, and then its ending."""

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
        raise AssertionError("fileno() says nothing about what read() returns")

    def close(self) -> None:
        self.closes += 1


class ScriptedBuffer(Scripted):
    """Also has a read1(). Like that of buffered readers, it turns None into b""."""

    def read1(self, size: int) -> Any:
        return super().read(size) or b""

    def read(self, size: int) -> Any:
        return super().read(size)
