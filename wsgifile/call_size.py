"""The size of a call of os.sendfile that costs the least processor time on this machine.

If the client runs on the same machine, small calls can have each page reach the client while
it is still in the processor's cache. One processor sends twice as fast in calls of 18 KiB as in
calls of 1 MiB, and another one a third as fast. So the process tries several sizes while it
sends, and keeps to the best.
"""

from __future__ import annotations

__all__ = ["LARGEST", "CallSize"]

#: What is tried, in bytes.
SIZES = (2 << 20, 256 << 10, 64 << 10, 18 << 10)
#: Where it starts. The largest size that is worth a call of its own.
LARGEST = SIZES[0]
#: Number of bytes to send in calls of one size to measure it.
_SAMPLE = 8 << 20
#: Number of samples of each size before the first choice.
_FIRST = 3
#: Number of bytes to send by the best size, before each is measured once more: at first, and in
#: the end. It doubles in between.
_KEEP, _KEEP_LONG = 128 << 20, 4 << 30
#: The least weight of a new sample in the mean. It takes the mean, because the kernel may do the
#: work of the receiving end in the server's thread or in the client's, for a whole download. So a
#: size may cost the server five times as much in one download as in the next.
_NEW = 0.1
#: A smaller size has to cost this much less than the largest, because samples vary.
_WORTH = 0.75


class CallSize:
    """Finds the size as bytes are sent. Threads may share it: at worst, a sample is lost."""

    def __init__(self) -> None:
        #: Number of bytes to send in one call.
        self.size: int = LARGEST
        #: The mean of the seconds for a byte, by size.
        self._costs: dict[int, float] = {}
        #: Number of samples to take before the next choice. The sizes take turns, so what happens
        #: meanwhile happens to all.
        self._left = _FIRST * len(SIZES) + 1
        #: Number of samples taken. The first one does not count: it fills the sockets' buffers,
        #: which costs little by any size.
        self._samples = -1
        self._keep = _KEEP
        self._sent = 0
        self._seconds = 0.0

    def add(self, count: int, seconds: float) -> None:
        """Take note of count bytes, sent in calls of this size in seconds of processor time."""
        # Another thread may set these to zero at any moment, so they are read only here.
        sent, seconds, left = self._sent + count, self._seconds + seconds, self._left
        self._sent, self._seconds = sent, seconds
        if sent < (_SAMPLE if left else self._keep):
            return
        self._sent, self._seconds = 0, 0.0
        if left:
            if self._samples >= 0:
                mean = self._costs.get(self.size, 0.0)
                weight = max(_NEW, 1 / (self._samples // len(SIZES) + 1))
                self._costs[self.size] = mean + weight * (seconds / sent - mean)
            self._samples += 1
            left -= 1
        else:
            left = len(SIZES)
            self._keep = min(2 * self._keep, _KEEP_LONG)
        self._left = left
        self.size = SIZES[-left % len(SIZES)] if left else min(SIZES, key=self._weighted)

    def _weighted(self, size: int) -> float:
        return self._costs.get(size, float("inf")) * (_WORTH if size == LARGEST else 1)
