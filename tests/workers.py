"""``pytest -n logical``: pytest-xdist runs the tests in a worker process for each core.

A worker gets all tests that share a server which takes long to start. The largest groups come
first, and the tests that share nothing last.
"""

from __future__ import annotations

from typing import Any

import pytest


def group_of(nodeid: str) -> str:
    """The name of the group of a test, which is its own if it shares nothing."""
    from known import SERVERS

    path, _, test = nodeid.partition("::")
    first = test.partition("[")[2].rstrip("]").partition("-")[0]
    if path.startswith("tests/servers/") and first in SERVERS:
        return first
    if path == "tests/test_agents.py":
        return f"{path}[{first}]"  # An agent, in three servers.
    return path if path == "tests/test_zope.py" else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    # Its own groups, of --dist loadgroup, do nothing with pytest 9.2.
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    # "load" is what -n alone means.
    return ByServer(config, log) if config.getoption("dist") == "load" else None
