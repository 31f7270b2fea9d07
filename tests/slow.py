"""For tests with slow clients: servers with the application of slow_app.py, and clients."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ports import connect, free_port, running
from slow_app import SIZE

__all__ = ["DATA", "SIZE"]

#: Another byte at each place within 251 of them. More than all buffers up to a client.
DATA = (bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]

BIN = Path(sys.executable).parent

#: A port of the loopback address, or the path of a unix socket.
Address = int | str
Command = Callable[[Address], list[str]]

#: Those of the test that is running.
clients: list[socket.socket] = []


def text_of(address: Address) -> str:
    return f"127.0.0.1:{address}" if isinstance(address, int) else address


def gunicorn(*options: str, app: str = "app:app") -> Command:
    command = [str(BIN / "gunicorn"), "--no-control-socket", *options]

    def bound(address: Address) -> list[str]:
        unix = "unix:" if isinstance(address, str) else ""
        return [*command, "--bind", unix + text_of(address), app]

    return bound


def uwsgi(*options: str, socket: str = "--http-socket", app: str = "app:app") -> Command:
    command = [str(BIN / "uwsgi"), "--module", app, "--need-app", "--die-on-term"]
    return lambda address: [*command, *options, socket, text_of(address)]


def script(name: str, *arguments: str) -> Command:
    return lambda port: [sys.executable, "app.py", name, str(port), *arguments]


@contextmanager
def started(
    tmp_path: Path,
    command: Command,
    module: str,
    stop: int = signal.SIGTERM,
    address: Address | None = None,
) -> Iterator[tuple[Any, subprocess.Popen[Any], Path]]:
    """The server's address, by default a free port; its process, and its log."""
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    shutil.copy(Path(__file__).with_name("slow_app.py"), tmp_path / "app.py")
    (tmp_path / "data").write_bytes(DATA)
    address, log = address or free_port(), tmp_path / "log"
    with running(command(address), address, log, stop, cwd=tmp_path) as process:
        try:
            yield address, process, log
        finally:
            # If the test has failed. The server would wait for them.
            while clients:
                clients.pop().close()


def without_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """For uWSGI, if a signal ends it.

    Python would crash as it ends: coverage's tracer asks greenlet, whose variables uWSGI's
    exit() has destroyed by then.
    """
    for variable in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(variable, raising=False)


def begin(
    address: Address,
    path: str,
    version: str = "1.0",
    *fields: str,
    after: bytes = b"",
    wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock,
) -> socket.socket:
    """A client with a small window that has read the header, and nothing of the body.

    :param after: what it sends after the request's header.
    """
    sock = wrap(connect(address, 30, window=1 << 16))
    clients.append(sock)
    lines = [f"GET {path} HTTP/{version}", "Host: localhost", *fields, "", ""]
    sock.sendall("\r\n".join(lines).encode() + after)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"the connection has ended: {head!r}"
        head += byte
    assert head.split()[1] == b"200", rest(sock)
    return sock


def rest(sock: socket.socket) -> bytes:
    """What comes up to the end of the connection."""
    blocks = []
    with sock:
        while block := sock.recv(1 << 16):
            blocks.append(block)
    return b"".join(blocks)


def gets_all(sock: socket.socket) -> None:
    """The body is exact, and the connection ends with it."""
    body = rest(sock)
    assert len(body) == SIZE
    exact = body == DATA
    assert exact  # pytest would take minutes to compare them.


def ask(address: Address, path: str) -> str:
    """What the application answers, once the server has ended the connection."""
    return rest(begin(address, path)).decode()


def logged(log: Path, *texts: str, times: int = 1) -> str:
    """Wait until one of these is in the log that many times, and return which."""
    deadline = time.monotonic() + 30
    while True:
        told = log.read_text(errors="replace")
        for text in texts:
            if told.count(text) >= times:
                return text
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
