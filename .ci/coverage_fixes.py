"""Mends two faults of coverage's tracer (7.17), in each process that it measures.

.ci/run puts this beside coverage, and a0_coverage_fixes.pth has Python import it at its start.
"""

from __future__ import annotations

import sys
from typing import Any

from coverage.collector import Collector

# The tracer takes a lock by a method that is written in Python. The exception of a signal's
# handler can come in there, and the lock stays locked: the process never ends. With this, the
# tracer calls the lock itself, where no such exception can come.
Collector.lock_data = property(lambda self: self.data_lock.acquire)
Collector.unlock_data = property(lambda self: self.data_lock.release)

# Told of greenlets, the tracer has one made for each thread. When a thread has ended, CPython 3.11
# drops it between two instructions of another thread, and calls a function of the tracer's
# weakref.WeakKeyDictionary. If a second thread ends meanwhile, that call never returns. So the
# tracer is told of greenlets only where the command says that there are some.
_GREENLETS = any(name in word for word in sys.orig_argv for name in ("gevent", "eventlet"))
_init = Collector.__init__


def _init_by_command(self: Collector, *args: Any, **options: Any) -> None:
    if not _GREENLETS:
        options["concurrency"] = ["thread"]
    _init(self, *args, **options)


Collector.__init__ = _init_by_command
