"""Real servers, each started once, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cases
import pytest
from known import SERVERS
from ports import free_port, wait_until_listening

HERE = Path(__file__).parent


class Running:
    """A server, in a process of its own until it is stopped."""

    def __init__(self, name: str, files: str, log: Path) -> None:
        self.name = name
        self.files = files
        self.log = log
        #: Size of the log when the test began.
        self.logged = 0
        self.start()

    def start(self) -> None:
        self.port = free_port()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                # -X dev shows the files that nobody closed.
                [sys.executable, "-X", "dev", str(HERE / "serve.py"), self.name, str(self.port)],
                env={**os.environ, "WSGIFILE_TEST_FILES": self.files},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_until_listening(self.port, self.process, self.log)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def begin(self) -> None:
        """Get ready for a test, whatever the one before has done to it."""
        if self.process.poll() is not None:
            self.start()
        self.logged = self.log.stat().st_size


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> str:
    cases.FILES = str(tmp_path_factory.mktemp("files"))
    cases.write_files()
    return cases.FILES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the faults of servers that known.py lists."""
    for item in items:
        # The hook sees the tests of all directories.
        params = getattr(getattr(item, "callspec", None), "params", {})
        if not item.path.is_relative_to(HERE) or "server" not in params:
            continue
        for fault, reason in SERVERS[params["server"]].faults.items():
            function, *rest = fault.split("-")
            tokens = set(params.values())
            if params.get("name") in cases.UNSIZED:
                tokens.add("unsized")
            if item.originalname == function and set(rest) <= tokens:
                item.add_marker(pytest.mark.xfail(reason=f"{params['server']}: {reason}"))


@pytest.fixture(scope="session", params=SERVERS)
def server(
    request: pytest.FixtureRequest, files: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    name = request.param
    if find_spec(SERVERS[name].module.partition(".")[0]) is None:
        pytest.skip(f"{SERVERS[name].module} is not installed")
    running = Running(name, files, tmp_path_factory.mktemp(name) / "log")
    try:
        yield running
        assert running.process.poll() is None, f"it has ended:\n{running.log.read_text()}"
    finally:
        running.stop()
    log = running.log.read_text(errors="replace")
    assert "unclosed file" not in log, log
