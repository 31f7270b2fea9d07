"""For tests that start a server."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import waitress
from waitress import wasyncore

#: A port of the loopback address, the path of a unix socket, or an address of another network.
Address = int | str | tuple[str, int]


class ServerError(Exception):
    """The server does not come up."""


def _ports() -> Iterator[int]:
    """Ports for the servers of this process, in turn.

    Another process may take a free port before the server does. So the workers of pytest-xdist
    have different ports, and none is of those that the system gives to connections, if any is
    left.
    """
    first, last = 32768, 65535
    with suppress(OSError):
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    every = range(10_000, 65_536)
    ports = [port for port in every if not first <= port <= last] or [*every]
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = ports[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    # Two runs at the same time begin at different places.
    begin = os.getpid() * 997 % len(ports)
    return itertools.cycle(ports[begin:] + ports[:begin])


_next_ports = _ports()


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    while True:
        port = next(_next_ports)
        with suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


def connect(address: Address, timeout: float, window: int = 0) -> socket.socket:
    """Connect to this address.

    :param window: the size of the buffer for what is received; 0: as the system has it.
    """
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.settimeout(timeout)
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.connect(("127.0.0.1", address) if isinstance(address, int) else address)
    except BaseException:
        sock.close()
        raise
    return sock


def wait_until_listening(
    address: Address, process: subprocess.Popen[Any], log: Path | None = None
) -> None:
    """Return once the server accepts connections.

    :raises ServerError: if it does not come up.
    """
    deadline = time.monotonic() + 20
    while True:
        try:
            connect(address, 1).close()
            return
        except OSError:
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                said = log.read_text(errors="replace") if log else ""
                what = "has ended" if ended else "does not listen"
                raise ServerError(f"the server {what}:\n{said}") from None
            time.sleep(0.05)


def wait_until_full(sock: socket.socket) -> None:
    """Return once no more arrives, as the client does not read and all buffers are full."""
    sock.recv(1, socket.MSG_PEEK)
    deadline = time.monotonic() + 20
    queued: list[bytes] = []
    while len(queued) < 10 or len(set(queued[-10:])) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        queued.append(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))


@contextmanager
def running(
    command: list[str],
    address: int | str,
    log: Path,
    stop: int = signal.SIGTERM,
    **options: Any,
) -> Iterator[subprocess.Popen[Any]]:
    """Have this command listen on the port or unix socket; append what it prints to log."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts a job in the background so, and what we start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, **options)
    try:
        wait_until_listening(address, process, log)
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def serving(app: Any, **settings: Any) -> Iterator[int]:
    """Have waitress serve app in this process, on the port that it gives."""
    server = waitress.create_server(app, host="127.0.0.1", port=0, **settings)
    loop = threading.Thread(target=server.run, daemon=True)
    loop.start()
    yield int(server.effective_port)
    server.task_dispatcher.shutdown(timeout=0.1)

    def close() -> None:
        for channel in list(server.active_channels.values()):
            channel.handle_close()  # This also closes the temporary files of its buffer.
        server.trigger.del_channel()  # This thread may still have to write to it.
        wasyncore.dispatcher.close(server)  # Its own close() also closes the trigger.
        wasyncore.close_all(server._map)

    # The loop does it itself: it does not expect others to close what it waits for.
    server.trigger.pull_trigger(close)
    loop.join(20)
    server.trigger.close()
    assert not loop.is_alive()
