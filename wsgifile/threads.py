"""A few threads for calls that may block, shared by all responses of the process.

concurrent.futures would not do. The interpreter waits for its threads before it exits, and
a source that hangs must not keep a server from stopping.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from .log import logger

__all__ = ["Pool", "pool"]

#: The largest number of calls at once. Further ones wait, or their caller makes them itself.
_THREADS = 64
#: A thread ends after this number of seconds without a job.
_IDLE = 10.0


class Pool:
    """Threads that are started when they are needed.

    Under monkey patching by gevent or eventlet they are green threads. Then a source that
    waits for a socket lets others run, and only one system thread ever uses it.
    """

    def __init__(self, threads: int = _THREADS) -> None:
        self._most = threads
        self._threads = self._idle = 0
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()

    def submit(self, job: Callable[[], object]) -> bool:
        """Have a thread call job; what it raises is logged. False: no thread can be started."""
        with self._changed:
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._changed.notify()
            elif self._threads < self._most:
                try:
                    threading.Thread(target=self._work, name="wsgifile", daemon=True).start()
                except RuntimeError:
                    # The system has no more threads, or the interpreter is exiting.
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
            except (Exception, SystemExit):
                logger.exception("a job of the pool failed")
            del job  # Or what it refers to would live until the next job comes.


_pools: dict[tuple[int, str], Pool] = {}


def pool(purpose: str) -> Pool:
    """The process's pool for a purpose. What hangs for one purpose must not stop another.

    A forked process gets a pool of its own, because threads do not survive a fork.
    """
    key = os.getpid(), purpose
    return _pools.get(key) or _pools.setdefault(key, Pool())
