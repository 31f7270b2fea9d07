"""Real servers, each started once, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import cases  # noqa: E402


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


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{log.read_text()}") from None
            time.sleep(0.05)


SERVERS = ["waitress", "gunicorn", "gunicorn_gthread", "wsgiref", "werkzeug"]


@pytest.fixture(scope="session", params=SERVERS)
def server(
    request: pytest.FixtureRequest, files: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    name, port = request.param, free_port()
    log = tmp_path_factory.mktemp(name) / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", str(HERE / "serve.py"), name, str(port)],
            env={**os.environ, "WSGIFILE_TEST_FILES": files},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(port, process, log)
        yield Running(name, port, process, log)
        assert process.poll() is None, f"the server has ended:\n{log.read_text()}"
    finally:
        process.terminate()
        process.wait(20)
    # -X dev shows the files that nobody closed.
    assert "unclosed file" not in log.read_text(), log.read_text()
