"""The quick tests: ``pytest -m quick`` runs them in seconds.

They use files, but no network and no other process. One that does is made to fail here.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

#: Events of sys.audit() that start a process.
PROCESSES = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}

#: Whether they are watched. Before 3.12, CPython cannot begin to trace a thread while an audit
#: hook runs in another one: the thread ends. So they are not watched while coverage is measured.
#: .ci/try_dist.py runs them without coverage.
WATCHED = sys.version_info >= (3, 12) or threading.gettrace() is None

#: Whether a quick test is running.
_running = False


def pytest_configure() -> None:
    if WATCHED:
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _running:
        return
    network = event == "socket.__new__" and args[1] in {socket.AF_INET, socket.AF_INET6}
    if network or event in PROCESSES:
        pytest.fail(f"a quick test must not cause {event}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _running
    _running = item.get_closest_marker("quick") is not None
    try:
        return (yield)
    finally:
        _running = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """After the last test, what belongs to the whole session ends too, such as servers."""
    global _running
    _running = _running and nextitem is not None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m quick`` the other modules are not even imported, which takes longer."""
    if config.getoption("markexpr") != "quick" or collection_path.suffix != ".py":
        return None
    return "pytest.mark.quick" not in collection_path.read_text() or None
