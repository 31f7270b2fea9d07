"""The size of a call of os.sendfile that costs the least processor time on this machine.

If the client runs on the same machine, small calls can have each page reach the client while
it is still in the processor's cache. One processor sends 1.8 times as fast in calls of 18 KiB
as in calls of 2 MiB, and another one a third as fast. So the process tries both ends and what
lies between while it sends, and keeps to the best.
"""

from __future__ import annotations

__all__ = ["LARGEST", "CallSize"]

#: What is tried, in bytes.
SIZES = (2 << 20, 256 << 10, 64 << 10, 18 << 10)
#: Where it starts. The largest size that is worth a call of its own.
LARGEST = SIZES[0]
#: Number of bytes to send by each size, to measure it.
_SAMPLE = 8 << 20
#: Number of bytes to send by the best size, before all are measured again.
_KEEP = 8 << 30
#: A smaller size has to cost this much less than the largest. A sample varies by some percent.
_WORTH = 0.85


class CallSize:
    """Finds the size as bytes are sent. Threads may share it: what they lose is a sample."""

    def __init__(self) -> None:
        #: Number of bytes to send in one call.
        self.size: int = LARGEST
        #: Seconds for a byte, by size.
        self._costs: dict[int, float] = {}
        self._sent = 0
        self._seconds = 0.0

    def add(self, count: int, seconds: float) -> None:
        """Count bytes were sent in calls of this size, in seconds of processor time."""
        self._sent += count
        self._seconds += seconds
        measured = len(self._costs) == len(SIZES)
        if self._sent < (_KEEP if measured else _SAMPLE):
            return
        if measured:
            self._costs.clear()
        else:
            cost = self._seconds / self._sent
            self._costs[self.size] = cost * _WORTH if self.size == LARGEST else cost
        left = [size for size in SIZES if size not in self._costs]
        self.size = left[0] if left else min(self._costs, key=self._costs.__getitem__)
        self._sent, self._seconds = 0, 0.0
