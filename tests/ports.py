"""For tests that start a server in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_until_listening(
    port: int, process: subprocess.Popen[Any], log: Path | None = None
) -> None:
    """Return once the server accepts connections; fail if it does not come up."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            said = log.read_text() if log else ""
            assert process.poll() is None, f"the server has ended:\n{said}"
            assert time.monotonic() < deadline, f"the server does not listen:\n{said}"
            time.sleep(0.05)
