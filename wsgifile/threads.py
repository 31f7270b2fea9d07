"""A few threads for calls that may block, shared by the responses of the process.

Not concurrent.futures, whose threads the interpreter waits for at its end: a
source that hangs must not keep a server from stopping.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from .log import logger

__all__ = ["Pool", "pool"]

#: At most so many calls at once. Others wait for their turn, or are made by who needs them.
_THREADS = 64
#: A thread that has had nothing to do for so many seconds ends.
_IDLE = 10.0


class Pool:
    """Threads, which are started as they are needed.

    Under gevent's or eventlet's monkey patching these are green ones: sources that
    wait for a socket let others run, and are only ever used by one system thread.
    """

    def __init__(self, threads: int = _THREADS) -> None:
        self._most = threads
        self._threads = self._idle = 0
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()

    def submit(self, job: Callable[[], object]) -> bool:
        """Have job called; what it raises is logged. False: there is no thread to be had."""
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._changed.notify()
            elif self._threads < self._most:
                try:
                    threading.Thread(target=self._work, name="wsgifile", daemon=True).start()
                except RuntimeError:
                    # The system has no more, or the interpreter is about to end.
                    if not self._threads:
                        self._jobs.remove(job)
                        return False
                else:
                    self._threads += 1
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    self._idle += 1
                    woken = self._changed.wait(_IDLE)
                    self._idle -= 1
                    if not woken and not self._jobs:
                        self._threads -= 1
                        return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                logger.exception("a job of the pool failed")
            del job  # What it holds is not to live until the next one comes.


_pools: dict[tuple[int, str], Pool] = {}


def pool(purpose: str) -> Pool:
    """The process's pool for a purpose: what hangs for one is not to stop another.

    After a fork there are no threads in the old one.
    """
    key = os.getpid(), purpose
    return _pools.get(key) or _pools.setdefault(key, Pool())
