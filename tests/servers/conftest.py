"""Real servers, each started once, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cases
import pytest
from known import SERVERS
from ports import free_port, wait_until_listening

HERE = Path(__file__).parent


@dataclass
class Running:
    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    #: Size of the log when the test began.
    logged: int = 0


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
    name, port = request.param, free_port()
    if find_spec(SERVERS[name].module.partition(".")[0]) is None:
        pytest.skip(f"{SERVERS[name].module} is not installed")
    log = tmp_path_factory.mktemp(name) / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", str(HERE / "serve.py"), name, str(port)],
            env={**os.environ, "WSGIFILE_TEST_FILES": files},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_listening(port, process, log)
        yield Running(name, port, process, log)
        assert process.poll() is None, f"the server has ended:\n{log.read_text()}"
    finally:
        process.terminate()
        process.wait(20)
    # -X dev shows the files that nobody closed.
    assert "unclosed file" not in log.read_text(), log.read_text()
