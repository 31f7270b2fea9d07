"""Start a server and measure what it takes: for the soak and the benchmarks. Linux only.

A server may start other processes. Each figure is that of all of them together.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ports import Address, wait_until_listening


@dataclass(frozen=True)
class Measured:
    process: subprocess.Popen[bytes]
    address: Address
    #: What it prints.
    log: Path
    #: The server that stands in front of it, if one does, and has the address.
    front: Measured | None = None

    @property
    def port(self) -> int:
        assert isinstance(self.address, int)
        return self.address

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
        """CPU seconds so far, user and system, to the microsecond.

        What the kernel does to send in the server's name is among them.
        """
        seconds = 0.0
        for pid, reaped in _tree(self.process.pid):
            # The clock of another process with all its threads: clock_getcpuclockid(3).
            with suppress(OSError):
                seconds += reaped + time.clock_gettime(~pid << 3 | 2)
        return seconds

    def memory(self) -> float:
        """MiB resident; of a page that processes share, each counts its part (PSS)."""
        kib = 0
        for pid, _ in _tree(self.process.pid):
            with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as rollup:
                kib += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        return kib / 1024

    def held(self) -> tuple[int, int, int]:
        """The number of processes, of open descriptors and of threads."""
        processes = descriptors = threads = 0
        for pid, _ in _tree(self.process.pid):
            with suppress(OSError):
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
                threads += len(os.listdir(f"/proc/{pid}/task"))
                processes += 1
        return processes, descriptors, threads


@contextmanager
def measured(
    command: list[str], address: Address, log: Path, environ: Mapping[str, str]
) -> Iterator[Measured]:
    """Have this command listen on the address, with these variables added to its environment."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the program that measures, which then stops the server.
            start_new_session=True,
        )
    try:
        wait_until_listening(address, process, log)
        yield Measured(process, address, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # With all that it has started.
            process.wait()


def _tree(root: int) -> list[tuple[int, float]]:
    """A process and its descendants, each with the CPU seconds of children that have ended."""
    tick = os.sysconf("SC_CLK_TCK")
    children: dict[int, list[int]] = {}
    reaped: dict[int, float] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError), open(f"/proc/{name}/stat") as stat:
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
