"""Real servers. Each one is started once, as a separate process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import launch
import pytest
from client import Client
from known import SERVERS
from matrix import CELL, Matrix, case_of, tidy
from ports import free_port, wait_until_listening

HERE = Path(__file__).parent
MATRIX = pytest.StashKey[Matrix]()


class Running:
    """A server in a separate process."""

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

    def save_coverage(self) -> None:
        """Have the server save its coverage, if any: not every server ends as Python does."""
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/coverage", timeout=20)

    def stop(self) -> None:
        self.save_coverage()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def begin(self) -> None:
        """Get ready for a test: start the server again if the last test has ended it."""
        if self.process.poll() is not None:
            self.start()
        self.logged = self.log.stat().st_size


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> str:
    cases.FILES = str(tmp_path_factory.mktemp("files"))
    cases.write_files()
    return cases.FILES


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ``pytest tests/servers``. pytest knows them only if given that path."""
    group = parser.getgroup("servers")
    group.addoption(
        "--matrix",
        metavar="FILE",
        help="write the table of servers and cases to FILE, as a page of reStructuredText",
    )
    group.addoption(
        "--bare",
        action="store_true",
        help="run the cases against the servers without the middleware, to see what fails",
    )


def pytest_configure(config: pytest.Config) -> None:
    Client.bare = config.getoption("bare", False)
    config.stash[MATRIX] = Matrix()
    config.pluginmanager.register(config.stash[MATRIX])


def in_bare(item: pytest.Item) -> bool:
    """Whether a test of the stack "ours" also makes sense without the middleware."""
    assert isinstance(item, pytest.Function)
    ours = item.callspec.params.get("stack") in {"ours", None}
    return ours and item.originalname not in {
        "test_conditions",
        "test_filter_is_not_bypassed_by_body",
        "test_huge",
        "test_range",
    }


def server_of(item: pytest.Item) -> str | None:
    # pytest calls the hooks for the tests of all directories.
    params = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("server") if item.path.is_relative_to(HERE) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark a test as expected to fail if known.py lists that fault of its server."""
    if Client.bare:
        # Without the middleware, the other stacks and the known faults mean nothing.
        ours = [i for i in items if server_of(i) and in_bare(i)]
        config.hook.pytest_deselected(items=[item for item in items if item not in ours])
        items[:] = ours
        return
    for item in items:
        server = server_of(item)
        if server is None:
            continue
        assert isinstance(item, pytest.Function)
        params = item.callspec.params
        tokens = set(params.values())
        if params.get("name") in cases.UNSIZED:
            tokens.add("unsized")
        known = SERVERS[server]
        always = launch.version(server) == known.release
        for faults, strict in (known.faults, always), (known.sometimes, False):
            for fault, reason in faults.items():
                function, *rest = fault.split("-")
                if item.originalname == function and set(rest) <= tokens:
                    told = reason if strict else f"{reason}, sometimes"
                    mark = pytest.mark.xfail(reason=f"{server}: {told}", strict=strict)
                    item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    server = server_of(item)
    if server is None:
        return report
    assert isinstance(item, pytest.Function)
    if report.when == "call" or (report.when == "setup" and not report.passed):
        expected = hasattr(report, "wasxfail")
        outcome = "xfailed" if expected and report.skipped else report.outcome
        reason = report.wasxfail if expected else ""
        if outcome == "skipped":
            reason = report.longrepr[2]
        case = case_of(item.originalname, item.callspec.params)
        # The matrix may be in another process, to which pytest-xdist sends the report.
        report.user_properties.append((CELL, (server, case, outcome, tidy(reason, server))))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    matrix = config.stash[MATRIX]
    if matrix.counts:
        terminalreporter.section("servers by cases")
        for line in matrix.lines():
            terminalreporter.write_line(line)
        if config.getoption("matrix"):
            Path(config.getoption("matrix")).write_text(matrix.page())


@pytest.fixture(scope="session", params=SERVERS)
def server(
    request: pytest.FixtureRequest, files: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    name = request.param
    if not launch.SERVERS[name].installed():
        pytest.skip(f"{launch.SERVERS[name].module} is not installed")
    running = Running(name, files, tmp_path_factory.mktemp(name) / "log")
    try:
        yield running
        assert running.process.poll() is None, f"the server ended:\n{running.log.read_text()}"
    finally:
        running.stop()
    log = running.log.read_text(errors="replace")
    assert "unclosed file" not in log or not SERVERS[name].closes, log
