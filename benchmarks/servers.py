"""Start a server, and measure it: shared by all benchmarks.

CPU seconds are user + system of its whole tree of processes, to the
microsecond, and what the kernel does to send in their name is among them. What
the clients take is not: they are processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

from serve import HOST, find_nginx

HERE = os.path.dirname(os.path.abspath(__file__))
KIB, MIB, GIB, GB = 2**10, 2**20, 2**30, 10**9

#: The servers that take a WSGI application, and what has to be importable.
SERVERS = {
    "waitress": "waitress",
    "gunicorn_sync": "gunicorn",
    "gunicorn_gthread": "gunicorn",
    "cheroot": "cheroot",
    "gevent": "gevent",
    "eventlet": "eventlet",
    "werkzeug": "werkzeug",
    "wsgiref": "wsgiref",
    "uwsgi": "pyuwsgi",
    "granian": "granian",
}
#: What stands beside them for comparison, without an application.
REFERENCES = ("nginx", "floor")
CONTENDERS = ("bare", "by_hand", "loop64", "ours", "plain", "whitenoise", *REFERENCES)


def missing(server: str) -> str | None:
    """What is not installed of a server or reference."""
    if server == "nginx":
        return None if find_nginx() else "nginx"
    module = SERVERS.get(server)
    return module if module is not None and find_spec(module) is None else None


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """For argparse: some of these names, with commas between them."""

    def parse(text: str) -> list[str]:
        wanted = text.split(",")
        if unknown := set(wanted) - set(names):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(names)}")
        return wanted

    return parse


class ServerError(Exception):
    """The server does not come up, or has ended."""


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


class Running:
    """A server with one contender for its application, in a process of its own until stop()."""

    def __init__(self, server: str, contender: str, files: str) -> None:
        self.scratch = tempfile.mkdtemp(prefix="benchmark-")
        self.log = os.path.join(self.scratch, "log")
        self.port = free_port()
        environ = {
            **os.environ,
            "BENCHMARK_SERVER": server,
            "BENCHMARK_CONTENDER": contender,
            "BENCHMARK_FILES": files,
            "BENCHMARK_SCRATCH": self.scratch,
        }
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, os.path.join(HERE, "serve.py"), server, str(self.port)],
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the benchmark, which then stops the server.
                start_new_session=True,
            )
        try:
            self.wait_until_listening()
        except BaseException:
            self.stop()
            raise

    def wait_until_listening(self) -> None:
        """Return once it accepts connections.

        :raises ServerError: if it does not come up.
        """
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError:
                ended = self.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    with open(self.log, errors="replace") as log:
                        said = log.read()[-2000:]
                    raise ServerError(f"it does not listen:\n{said}") from None
                time.sleep(0.05)

    def cpu(self) -> float:
        """CPU seconds so far, once it has nothing left to do."""
        before = self.cpu_now()
        for _ in range(100):
            time.sleep(0.02)
            now = self.cpu_now()
            if now - before < 0.0005:
                break
            before = now
        return now

    def cpu_now(self) -> float:
        """CPU seconds so far."""
        seconds = 0.0
        for pid, reaped in _tree(self.process.pid):
            # The clock of another process, see clock_getcpuclockid(3): all its threads.
            with contextlib.suppress(OSError):
                seconds += reaped + time.clock_gettime(~pid << 3 | 2)
        return seconds

    def memory(self) -> float:
        """MiB resident, of which shared pages are counted in part (PSS)."""
        kib = 0
        for pid, _ in _tree(self.process.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as rollup:
                kib += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        return kib / 1024

    def held(self) -> tuple[int, int, int]:
        """How many processes, open descriptors and threads."""
        processes = descriptors = threads = 0
        for pid, _ in _tree(self.process.pid):
            with contextlib.suppress(OSError):
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
                threads += len(os.listdir(f"/proc/{pid}/task"))
                processes += 1
        return processes, descriptors, threads

    def stop(self) -> None:
        """End it, with what it has started."""
        pids = [pid for pid, _ in _tree(self.process.pid)]
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)
            self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def _tree(root: int) -> list[tuple[int, float]]:
    """A process and its descendants, each with the CPU seconds of children that have ended."""
    tick = os.sysconf("SC_CLK_TCK")
    children: dict[int, list[int]] = {}
    reaped: dict[int, float] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stat:
            # After the command's name, which may hold anything: state, ppid, ...
            fields = stat.read().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(name))
            reaped[int(name)] = (int(fields[13]) + int(fields[14])) / tick
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        if pid in reaped:
            found.append((pid, reaped[pid]))
        queue += children.get(pid, [])
    return found


@contextlib.contextmanager
def make_files(sizes: list[int], *, sparse: bool = False) -> Iterator[str]:
    """A temporary directory with a file of each size, by which it is named, in the page cache.

    Of random bytes, so that there is a line end every 256 bytes on average, or sparse.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        block = random.Random(1).randbytes(MIB)
        buffer = bytearray(MIB)
        for size in sizes:
            with open(os.path.join(directory, str(size)), "w+b") as file:
                if sparse:
                    file.truncate(size)
                else:
                    for at in range(0, size, MIB):
                        file.write(block[: size - at])
                    file.flush()
                    os.fsync(file.fileno())
                file.seek(0)
                while file.readinto(buffer):
                    pass
        yield directory
