"""Half an hour of mixed load: is each byte right, and does the server give back what it takes?

waitress and gunicorn (threads) run side by side, each with its own clients. Exit status
1 if anything is wrong. Linux only.

The requests are for files of 0 bytes to 20 MiB, on disk, in memory, compressed, from
pipes; for parts of them, with conditions, with HEAD, and pipelined. Clients are slow, or
leave with RST or FIN. Files are truncated, grow or are removed while they are sent.
Sources raise. Every byte received is compared, and every 5 seconds descriptors, threads
and memory are counted.

Wrong are: a byte or a status; a connection that hangs, or does not end where it has to;
a source that is not closed exactly once; an error that is missing in the log, or that
nobody provoked; more descriptors or threads than at first; and more memory, if that is
over 6 MiB or 1,000 of Python's blocks.

``soak_app.py`` is the application, ``soak_load.py`` has the clients, and ``result.txt``
is what one run printed.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import platform
import re
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
sys.path.append(os.path.join(os.path.dirname(__file__), "..", "servers"))
import launch
from measured import Measured, measured
from ports import free_port
from soak_app import content
from soak_load import KIB, LARGE, MIB, QUICK, SLOW, SMALL, Client, Connection, Tally, request

APP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "soak_app.py")
SERVERS = ("waitress", "gunicorn_gthread")
#: Threads of each server that takes a number of them.
THREADS = 8
THREADED = (*SERVERS, "cheroot", "uwsgi")
#: Seconds of load before the first look at what a server needs, and between two samples.
WARM, EVERY = 60.0, 5.0
#: Seconds without load before a look: idle threads of wsgifile end after 10.
PAUSE = 14.0
#: Seconds a server may take to give back what it needed for clients that have left.
PATIENCE = 30.0

#: MiB by which a server may grow: by the line through its samples under load, and from
#: the first look to the last. With the 95,000 requests of half an hour it would grow by
#: more if every tenth left a KiB, or every thousandth a block of 256 KiB.
GROWTH = 6.0
#: How many blocks of memory Python may have more at the last look than at the first.
#: It would have more if every fiftieth request left an object. Modules that are imported
#: for the first error, and source lines kept for tracebacks, are less.
BLOCKS = 1000
#: Without these, malloc() keeps freed blocks for each thread, and the resident memory of
#: a server that has freed everything goes up for long and by 50 MiB and more.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}

#: The clients provoke errors. The last line of the traceback of each begins with one of
#: these,
TOLD = (
    "soak_app.ProvokedError",
    "wsgifile.wrapper.FileReadError",
    "wsgifile.wrapper.ShortFileError",
)
#: and that of an error that a source raises, which leads to one of those, with this.
CAUSE = "OSError: provoked"
#: The statuses that the clients expect.
STATUSES = (200, 206, 304, 412, 416, 500)
PROVOKED = re.compile("|".join(map(re.escape, (*TOLD, CAUSE))))

#: What a server holds, in the order of Measured.held().
HELD = ("processes", "descriptors", "threads")


@dataclass
class Sample:
    """What the processes of a server hold at one moment."""

    seconds: float
    held: dict[str, int]
    mib: float


class Soaked:
    """A server and its clients."""

    def __init__(self, name: str, server: Measured, files: str, rate: float) -> None:
        self.name, self.server = name, server
        self.tally = Tally()
        self.clients = [
            Client(server.port, files, self.tally, actions, rate * share, f"{name}-{number}")
            for number, (actions, share) in enumerate(4 * [(QUICK, 1.0)] + 2 * [(SLOW, 0.1)])
        ]
        #: Under load.
        self.samples: list[Sample] = []
        #: Before and after it, with the application's counts.
        self.looks: list[tuple[Sample, dict[str, int]]] = []

    def sample(self) -> Sample:
        held = dict(zip(HELD, self.server.held(), strict=True))
        return Sample(time.monotonic(), held, self.server.memory())

    def start(self) -> None:
        """Start the clients. Before that, make the server start all its threads."""
        with contextlib.ExitStack() as stack:
            for _ in range(2 * THREADS):  # A client that does not read keeps a thread.
                connection = Connection(self.server.port, 16 * KIB)
                stack.enter_context(connection.sock)
                connection.sock.sendall(request("GET", f"/gzip/{LARGE}"))
            time.sleep(1)
        for client in self.clients:
            client.start()

    def alive(self) -> bool:
        return self.server.process.poll() is None and all(c.is_alive() for c in self.clients)

    def look(self) -> None:
        """See what the server holds while the clients rest.

        It has some time to hold no more than at the first look.
        """
        for client in self.clients:
            client.idle.wait()
        end = time.monotonic() + PATIENCE
        sample = self.sample()
        while self.looks and more(self.looks[0][0], sample) and time.monotonic() < end:
            time.sleep(1)
            sample = self.sample()
        try:
            url = f"http://{launch.HOST}:{self.server.port}/counts"
            with urllib.request.urlopen(url, timeout=20) as answer:
                self.looks.append((sample, json.load(answer)))
        except (OSError, ValueError) as error:
            self.tally.wrong.append(f"it does not tell its counts: {error!r}")

    def growth(self) -> float:
        """MiB from the first to the last sample, by the line through all of them."""
        if len(self.samples) < 3:
            return 0.0
        seconds = [sample.seconds for sample in self.samples]
        slope = statistics.linear_regression(seconds, [s.mib for s in self.samples]).slope
        return float(slope * (seconds[-1] - seconds[0]))

    def blocks(self) -> int:
        """Python's blocks of memory that there are more of than at the first look."""
        return self.looks[-1][1]["blocks"] - self.looks[0][1]["blocks"]

    def faults(self) -> list[str]:
        """All that is wrong in the end."""
        found = list(self.tally.wrong)
        if self.server.process.poll() is not None:
            found.append("it has ended")
        if len(self.looks) < 2:
            return [*found, "it was given up before the end"]
        (before, _), (now, counts) = self.looks
        found += more(before, now)
        logged, provoked = self.tracebacks(), self.tally.counts["provoked"]
        told = sum(logged[line] for line in TOLD)
        grown = now.mib - before.mib
        checks = [
            (self.growth() <= GROWTH, f"grown by {self.growth():.1f} MiB by the line"),
            (grown <= GROWTH, f"grown by {grown:.1f} MiB from rest to rest"),
            (self.blocks() <= BLOCKS, f"{self.blocks():,} more blocks of Python's memory"),
            (
                counts["opened"] == counts["closed"],
                f"{counts['opened']} sources, {counts['closed']} times closed",
            ),
            (
                counts["files"] == counts["sent"],
                f"{counts['files']} files, {counts['sent']} calls of on_sent",
            ),
            (told == provoked, f"{provoked} errors provoked, {told} in its log"),
        ]
        found += [fault for holds, fault in checks if not holds]
        unknown = {line: n for line, n in logged.items() if line not in (*TOLD, CAUSE)}
        return found + [f"{n} times in its log: {line}" for line, n in unknown.items()]

    def tracebacks(self) -> Counter[str]:
        """The last lines of those in its log."""
        text = self.server.log.read_text(errors="replace")
        found = re.findall(r"^Traceback \(most.*\n(?:[ +|].*\n|\n)*(\S.*)", text, re.M)
        return Counter(known[0] if (known := PROVOKED.match(line)) else line for line in found)

    def figures(self) -> dict[str, str]:
        """The table's column for this server."""
        tally, counts, logged = self.tally.counts, self.looks[-1][1], self.tracebacks()

        def course(value: Callable[[Sample], float]) -> str:
            most = max(map(value, self.samples), default=0)
            shown = (value(self.looks[0][0]), most, value(self.looks[-1][0]))
            return ", ".join(f"{one:.3g}" for one in shown)

        return {
            "actions": f"{self.tally.actions():,}",
            **{f"  {name}": f"{tally[name]:,}" for name in (*QUICK, *SLOW)},
            "GiB received": f"{tally['bytes'] / 2**30:.1f}",
            "requests": f"{counts['begun']:,}",
            **{f"  {status}": f"{tally[f'status {status}']:,}" for status in STATUSES},
            "errors provoked": f"{tally['provoked']:,}",
            **{f"  in the log: {line}": f"{logged[line]:,}" for line in (CAUSE, *TOLD)},
            "sources opened, closed": f"{counts['opened']:,}, {counts['closed']:,}",
            "files, calls of on_sent": f"{counts['files']:,}, {counts['sent']:,}",
            "connections made anew": f"{tally['reconnects']:,}",
            "CPU s": f"{self.server.cpu_now():.0f}",
            "after the warm-up, most, at the end": "",
            "  processes": course(lambda sample: sample.held["processes"]),
            "  descriptors": course(lambda sample: sample.held["descriptors"]),
            "  threads": course(lambda sample: sample.held["threads"]),
            "  MiB resident": course(lambda sample: sample.mib),
            "MiB grown, by the line": f"{self.growth():.1f}",
            "more blocks of Python's memory": f"{self.blocks():,}",
        }


def more(before: Sample, now: Sample) -> list[str]:
    """What a server holds more of than before."""
    return [
        f"{now.held[name]} {name}, {before.held[name]} after the warm-up"
        for name in HELD
        if now.held[name] > before.held[name]
    ]


@contextlib.contextmanager
def make_files() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        for size in (*SMALL, LARGE):
            path = os.path.join(directory, str(size))
            with open(path, "wb") as file, gzip.open(f"{path}.gz", "wb", 1) as zipped:
                file.write(content(size))
                zipped.write(content(size))
            # A file modified within the current second gets no Last-Modified.
            os.utime(path, (1_700_000_000, 1_700_000_000))
        yield directory


def progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def line(one: Soaked) -> str:
    sample = one.sample()
    wrong = f", {len(one.tally.wrong)} WRONG" if one.tally.wrong else ""
    return (
        f"{one.name}: {one.tally.actions():,} actions, {one.tally.counts['bytes'] / MIB:,.0f} MiB,"
        f" {sample.held['descriptors']} descriptors, {sample.held['threads']} threads,"
        f" {sample.mib:.1f} MiB{wrong}"
    )


def load(soaked: list[Soaked], seconds: float, keep: bool) -> bool:
    """Have the clients act; False if a server or a client has ended before the time."""
    for one in soaked:
        for client in one.clients:
            client.going.set()
    now = said = time.monotonic()
    end = now + seconds
    while now < end:
        time.sleep(max(0.0, min(EVERY, end - now)))
        now = time.monotonic()
        for one in soaked:
            sample = one.sample()
            if keep:
                one.samples.append(sample)
        if now - said >= 30 or now >= end:
            said = now
            progress(" | ".join(map(line, soaked)))
        if not all(one.alive() for one in soaked):
            return False
    return True


def look(soaked: list[Soaked]) -> bool:
    """See what each server holds with nothing to do; False if one does not tell."""
    for one in soaked:
        for client in one.clients:
            client.going.clear()
    time.sleep(PAUSE)
    for one in soaked:
        one.look()
    return all(one.looks for one in soaked)


def table(soaked: list[Soaked]) -> str:
    columns = [{"": one.name, **one.figures()} for one in soaked]
    lines = [[name, *[column[name] for column in columns]] for name in columns[0]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["=" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def soak(servers: list[str], minutes: float, rate: float) -> list[str]:
    """Print what happened, and return what is wrong."""
    seconds = minutes * 60
    warm = min(WARM, seconds / 4)
    with make_files() as files, contextlib.ExitStack() as stack:
        soaked = []
        for name in servers:
            port = free_port()
            options = {"threads": THREADS} if name in THREADED else {}
            command = launch.command(name, APP, port, access_log=False, **options)
            log = Path(files, f"{name}.log")
            environ = {**MALLOC, "SOAK_FILES": files}
            server = stack.enter_context(measured(command, port, log, environ))
            soaked.append(Soaked(name, server, files, rate))
        for one in soaked:
            one.start()
        if load(soaked, warm, keep=False) and look(soaked):
            progress("warm")
            load(soaked, max(EVERY, seconds - warm - 2 * PAUSE), keep=True)
            look(soaked)
        for one in soaked:
            for client in one.clients:
                client.ended = True
        faults = [f"{one.name}: {fault}" for one in soaked for fault in one.faults()]
        if all(one.looks for one in soaked):
            print(f"\n{table(soaked)}", flush=True)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=30, metavar="N", help="default: %(default)s")
    add("--servers", nargs="+", choices=launch.SERVERS, default=SERVERS, metavar="NAME")
    add("--rate", type=float, default=12, metavar="N", help="actions a second of a client (12)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # So that servers are stopped.
    versions = ", ".join(f"{name} {launch.version(name)}" for name in args.servers)
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {platform.platform()}, Python {platform.python_version()}")
    print(f"{versions}, wsgifile {version('wsgifile')}", flush=True)
    faults = soak(args.servers, args.minutes, args.rate)
    if faults:
        print("\nFAILED:", *faults, sep="\n", flush=True)
        sys.exit(1)
    print("\nNothing wrong.")


if __name__ == "__main__":
    main()
