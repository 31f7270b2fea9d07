"""The pool of threads, for calls that may block."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from wsgifile import threads
from wsgifile.threads import Pool, pool


def test_as_many_as_are_needed_and_no_more() -> None:
    let = threading.Event()
    seen = []
    few = Pool(3)

    def job() -> None:
        seen.append(threading.current_thread())
        let.wait(10)

    for _ in range(10):
        assert few.submit(job)
    deadline = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(seen) == 3
    let.set()
    while len(seen) < 10 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (len(seen), len(set(seen))) == (10, 3)


def test_a_thread_serves_again() -> None:
    few = Pool(8)
    seen = []
    deadline = time.monotonic() + 10
    for number in range(1, 6):
        few.submit(lambda: seen.append(threading.current_thread()))
        # It has to come back, or the pool starts another one.
        while (len(seen) < number or not few._idle) and time.monotonic() < deadline:
            time.sleep(0.001)
    assert (len(seen), len(set(seen))) == (5, 1)


def test_a_job_that_ends_its_thread() -> None:
    """It does not. Otherwise the pool would count a thread that it no longer has."""
    one, done = Pool(1), threading.Event()
    one.submit(sys.exit)
    one.submit(done.set)
    assert done.wait(10)


def test_two_jobs_for_one_idle_thread() -> None:
    """Neither job waits for the other."""
    few, together = Pool(8), threading.Barrier(3)
    few.submit(lambda: None)
    time.sleep(0.05)
    few.submit(lambda: together.wait(10))
    few.submit(lambda: together.wait(10))
    together.wait(10)


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_IDLE", 0.02)
    few = Pool(8)
    seen = []
    few.submit(lambda: seen.append(threading.current_thread()))
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        time.sleep(0.001)
    seen[0].join(10)
    assert not seen[0].is_alive()
    done = threading.Event()
    few.submit(done.set)
    assert done.wait(10)


def test_what_is_done_is_let_go() -> None:
    """A thread that waits for the next job keeps nothing of the last one."""

    class Held:
        def job(self) -> None:
            done.set()

    done = threading.Event()
    few, held = Pool(1), Held()
    gone = weakref.ref(held)
    few.submit(held.job)
    del held
    assert done.wait(10)
    deadline = time.monotonic() + 10
    while gone() is not None and time.monotonic() < deadline:
        gc.collect()
    assert gone() is None


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    few = Pool(2)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert not few.submit(print)
    monkeypatch.undo()
    done = threading.Event()
    assert few.submit(done.set)
    assert done.wait(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_after_a_fork() -> None:
    """The child has no threads. Servers that load the application before the fork do this."""
    code = """
import os, threading, warnings
from wsgifile.threads import pool
warnings.simplefilter("ignore")
done = threading.Event()
pool("x").submit(done.set)
assert done.wait(10)
child = os.fork()
if not child:
    done = threading.Event()
    pool("x").submit(done.set)
    os._exit(0 if done.wait(10) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_interpreter_ends_all_the_same() -> None:
    """A source that hangs does not keep it from exiting."""
    code = (
        "import time\nfrom wsgifile.threads import pool\npool('x').submit(lambda: time.sleep(60))"
    )
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert time.monotonic() - begun < 20


def test_one_of_the_process() -> None:
    assert pool("x") is pool("x") is not pool("y")


def test_no_more_threads_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The existing threads do the job, later."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    few, go, done = Pool(2), threading.Event(), threading.Event()
    assert few.submit(go.wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert few.submit(done.set)
    assert not done.wait(0.05)
    go.set()
    assert done.wait(10)
