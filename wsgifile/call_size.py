"""The size of a call of os.sendfile that costs the least processor time on this machine.

If the client runs on the same machine, small calls can have each page reach the client while
it is still in the processor's cache. One processor sends 1.8 times as fast in calls of 18 KiB
as in calls of 1 MiB, and another one a third as fast. So the process tries several sizes while
it sends, and keeps to the best.
"""

from __future__ import annotations

__all__ = ["LARGEST", "CallSize"]

#: What is tried, in bytes.
SIZES = (2 << 20, 256 << 10, 64 << 10, 18 << 10)
#: Where it starts. The largest size that is worth a call of its own.
LARGEST = SIZES[0]
#: Number of bytes to send in calls of one size to measure it, and how often. One sample takes
#: only a millisecond or two, so anything else that runs then distorts it.
_SAMPLE, _SAMPLES = 8 << 20, 3
#: Number of bytes to send by the best size, before all are measured again.
_KEEP = 8 << 30
#: A smaller size has to cost this much less than the largest, because samples vary.
_WORTH = 0.75


class CallSize:
    """Finds the size as bytes are sent. Threads may share it: at worst, a sample is lost."""

    def __init__(self) -> None:
        #: Number of bytes to send in one call.
        self.size: int = LARGEST
        #: The least seconds for a byte in the samples, by size.
        self._costs: dict[int, float] = {}
        #: Number of samples. The sizes take turns, so what happens meanwhile happens to all.
        self._samples = 0
        self._sent = 0
        self._seconds = 0.0

    def add(self, count: int, seconds: float) -> None:
        """Take note of count bytes, sent in calls of this size in seconds of processor time."""
        # Another thread may set these to zero at any moment, so they are read only here.
        sent, seconds = self._sent + count, self._seconds + seconds
        self._sent, self._seconds = sent, seconds
        kept = self._samples >= _SAMPLES * len(SIZES)
        if sent < (_KEEP if kept else _SAMPLE):
            return
        if kept:
            self._costs, self._samples = {}, 0
        else:
            self._costs[self.size] = min(self._cost(self.size), seconds / sent)
            self._samples += 1
        self._sent, self._seconds = 0, 0.0
        if self._samples < _SAMPLES * len(SIZES):
            self.size = SIZES[self._samples % len(SIZES)]
        else:
            self.size = min(SIZES, key=self._weighted)

    def _cost(self, size: int) -> float:
        return self._costs.get(size, float("inf"))

    def _weighted(self, size: int) -> float:
        return self._cost(size) * (_WORTH if size == LARGEST else 1)
