"""Half an hour of everything at once: does a server stay what it was, and each byte true?

waitress and gunicorn (threads), each with its own clients, side by side: files of all
kinds and sizes, ranges, conditions, pipelining, clients that leave or are slow, files
that are truncated while they are sent, sources that fail. Exit status 1 if a byte is
wrong, a response is none that has to be, or a server does not give back what it took.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clients import connect
from report import machine, machine_text, number, progress, run, table
from serve import HOST
from servers import KIB, MIB, SERVERS, Running, some_of
from soak_app import CONTENT, begins
from soak_load import LARGE, QUICK, SLOW, SMALL, Client, Tally, request

#: Of each server.
THREADS = 8
#: Seconds of load before the first look at what a server needs, and between two samples.
WARM, EVERY = 60.0, 5.0
#: Seconds without load before a look: idle threads of wsgifile end after 10.
PAUSE = 14.0
#: How long what clients have left may take to be given back.
PATIENCE = 30.0

#: MiB by which a server may grow: by the line through its samples under load, and from
#: the first look to the last. Of the 95,000 requests of half an hour, a KiB left by every
#: tenth would be more, and a block of 256 KiB by every thousandth.
GROWTH = 6.0
#: Python's blocks of memory, from the first look to the last. An object left by every
#: fiftieth request would be more; modules that are only imported for the first error,
#: and what is remembered of the source for tracebacks, are less.
BLOCKS = 1000
#: Otherwise malloc() keeps freed blocks, those of each thread apart, and what a server
#: has resident goes up for long and by 50 MiB and more, though it has given all back.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}

#: What the last lines of the tracebacks begin with that the clients have provoked, one each;
TOLD = (
    "soak_app.ProvokedError",
    "wsgifile.wrapper.FileReadError",
    "wsgifile.wrapper.ShortFileError",
)
#: and of the error of a file from which such a one was made.
CAUSE = "OSError: provoked"
PROVOKED = re.compile("|".join(map(re.escape, (*TOLD, CAUSE))))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])

    add = parser.add_argument
    add("--minutes", type=float, default=30, metavar="N", help="default: %(default)s")
    both = ["waitress", "gunicorn_gthread"]
    add(
        "--servers", type=some_of(SERVERS), default=both, metavar="A,B", help=f"({','.join(both)})"
    )
    add("--rate", type=float, default=12, metavar="N", help="actions a second of a client (12)")
    return parser.parse_args()


@dataclass
class Sample:
    """What the processes of a server hold at one moment."""

    seconds: float
    processes: int
    descriptors: int
    threads: int
    mib: float


@dataclass
class Look:
    """The same when there is nothing to do, with what the application tells."""

    sample: Sample
    counts: dict[str, int]


class Soaked:
    """A server and its clients."""

    def __init__(self, name: str, running: Running, files: str, rate: float) -> None:
        self.name, self.running = name, running
        self.tally = Tally()
        self.clients = [
            Client(running.port, files, self.tally, actions, rate * share, f"{name}-{number}")
            for number, (actions, share) in enumerate(4 * [(QUICK, 1.0)] + 2 * [(SLOW, 0.1)])
        ]
        self.samples: list[Sample] = []
        self.looks: list[Look] = []

    def sample(self) -> Sample:
        return Sample(time.monotonic(), *self.running.held(), self.running.memory())

    def start_threads(self) -> None:
        """All those that a server starts as they are needed, by as many who do not read."""
        path = f"/gzip/{LARGE}"
        with contextlib.ExitStack() as stack:
            for _ in range(2 * THREADS):
                sock = stack.enter_context(connect(self.running.port, 16 * KIB))
                sock.sendall(request("GET", path))
            time.sleep(1)

    def go(self) -> None:
        for client in self.clients:
            client.going.set()

    def rest(self) -> None:
        for client in self.clients:
            client.going.clear()

    def look(self) -> None:
        """When the clients rest: until it is as at the last look, if that comes soon."""
        for client in self.clients:
            client.idle.wait()
        end = time.monotonic() + PATIENCE
        while True:
            sample = self.sample()
            before = self.looks[-1].sample if self.looks else sample
            if not self.more(before, sample) or time.monotonic() > end:
                break
            time.sleep(1)
        connection = http.client.HTTPConnection(HOST, self.running.port, timeout=20)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/counts", headers={"Connection": "close"})
                self.looks.append(Look(sample, json.load(connection.getresponse())))
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.tally.wrong.append(f"it does not tell its counts: {error!r}")

    @staticmethod
    def more(before: Sample, now: Sample) -> list[str]:
        """What there is more of than before."""
        return [
            f"{getattr(now, name)} {name}, {getattr(before, name)} after the warm-up"
            for name in ("processes", "descriptors", "threads")
            if getattr(now, name) > getattr(before, name)
        ]

    def growth(self) -> float:
        """MiB from the first to the last sample, by the line through all of them."""
        if len(self.samples) < 3:
            return 0.0
        seconds = [sample.seconds for sample in self.samples]
        slope = statistics.linear_regression(seconds, [s.mib for s in self.samples]).slope
        return float(slope * (seconds[-1] - seconds[0]))

    def blocks(self) -> int:
        """Python's blocks of memory that there are more of, from the first look to the last."""
        return self.looks[-1].counts["blocks"] - self.looks[0].counts["blocks"]

    def faults(self) -> list[str]:
        """All that is not as it must be, at the end."""
        found = list(self.tally.wrong)
        if self.running.process.poll() is not None:
            found.append("it has ended")
        if len(self.looks) < 2:
            return [*found, "it was given up before the end"]
        before, now = self.looks[0], self.looks[-1]
        found += self.more(before.sample, now.sample)
        for growth, what in (
            (self.growth(), "by the line through the samples"),
            (now.sample.mib - before.sample.mib, "from rest to rest"),
        ):
            if growth > GROWTH:
                found.append(f"grown by {growth:.1f} MiB {what}, more than {GROWTH:.0f}")
        if self.blocks() > BLOCKS:
            found.append(f"{self.blocks():,} more blocks of Python's memory than at first")
        if now.counts["opened"] != now.counts["closed"]:
            found.append(f"{now.counts['opened']} sources, {now.counts['closed']} times closed")
        if now.counts["files"] != now.counts["sent"]:
            found.append(f"{now.counts['files']} files, {now.counts['sent']} calls of on_sent")
        logged = self.tracebacks()
        told = sum(count for line, count in logged.items() if line in TOLD)
        if told != self.tally.provoked:
            found.append(f"{self.tally.provoked} errors provoked, {told} in its log")
        for line, count in logged.items():
            if not PROVOKED.match(line):
                found.append(f"{count} times in its log: {line}")
        return found

    def tracebacks(self) -> Counter[str]:
        """The last lines of those in its log."""
        with open(self.running.log, errors="replace") as log:
            text = log.read()
        found = re.findall(r"^Traceback \(most.*\n(?:[ +|].*\n|\n)*(\S.*)", text, re.M)
        return Counter(known[0] if (known := PROVOKED.match(line)) else line for line in found)


@contextlib.contextmanager
def make_files() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        for size in (*SMALL, LARGE):
            content = CONTENT[begins(size) : begins(size) + size]
            path = os.path.join(directory, str(size))
            with open(path, "wb") as file, gzip.open(f"{path}.gz", "wb", 1) as zipped:
                file.write(content)
                zipped.write(content)
            # Of a second that is over, else there is no Last-Modified yet.
            os.utime(path, (1_700_000_000, 1_700_000_000))
        yield directory


def wait(soaked: list[Soaked], seconds: float, keep: bool) -> bool:
    """Have the clients go on; False if too much goes wrong for that to be of use."""
    for one in soaked:
        one.go()
    now = time.monotonic()
    end, said = now + seconds, now
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
        if any(not client.is_alive() for one in soaked for client in one.clients):
            return False
        if any(one.running.process.poll() is not None for one in soaked):
            return False
    return True


def line(one: Soaked) -> str:
    sample = one.sample()
    wrong = f", {len(one.tally.wrong)} WRONG" if one.tally.wrong else ""
    return (
        f"{one.name}: {one.tally.actions.total():,} actions, {one.tally.bytes / MIB:,.0f} MiB,"
        f" {sample.descriptors} descriptors, {sample.threads} threads, {sample.mib:.1f} MiB"
        f"{wrong}"
    )


def look(soaked: list[Soaked]) -> bool:
    """At what each of them needs when there is nothing to do; False if one does not tell."""
    for one in soaked:
        one.rest()
    time.sleep(PAUSE)
    for one in soaked:
        one.look()
    return all(one.looks for one in soaked)


def show(soaked: list[Soaked]) -> None:
    rows: list[list[str]] = []

    def row(what: str, *values: str) -> None:
        rows.append([what, *values])

    def each(value: Any) -> list[str]:
        return [value(one) for one in soaked]

    def counts(text: str) -> Any:
        return lambda one: text.format(**one.looks[-1].counts)

    row("actions", *each(lambda one: f"{one.tally.actions.total():,}"))
    for name in (*QUICK, *SLOW):
        row(f"  {name}", *each(lambda one, name=name: f"{one.tally.actions[name]:,}"))
    row("GiB received", *each(lambda one: f"{one.tally.bytes / 2**30:.1f}"))
    row("requests", *each(counts("{begun:,}")))
    statuses = sorted({status for one in soaked for status in one.tally.statuses})
    for status in statuses:
        row(f"  {status}", *each(lambda one, status=status: f"{one.tally.statuses[status]:,}"))
    row("errors provoked", *each(lambda one: f"{one.tally.provoked:,}"))
    for last in sorted({last for one in soaked for last in one.tracebacks()}):
        shown = f"  in the log: {last}"
        row(shown, *each(lambda one, last=last: f"{one.tracebacks()[last]:,}"))
    row("sources opened, closed", *each(counts("{opened:,}, {closed:,}")))
    row("files, calls of on_sent", *each(counts("{files:,}, {sent:,}")))
    row("connections made anew", *each(lambda one: f"{one.tally.reconnects:,}"))
    row("CPU s", *each(lambda one: f"{one.running.cpu_now():.0f}"))
    rows.append(["after the warm-up, most, at the end", *["" for _ in soaked]])
    for name in ("processes", "descriptors", "threads", "mib"):

        def course(one: Soaked, name: str = name) -> str:
            first, last = (
                number(getattr(look.sample, name)) for look in (one.looks[0], one.looks[-1])
            )
            most = max((getattr(sample, name) for sample in one.samples), default=None)
            return f"{first}, {number(most)}, {last}"

        row(f"  {'MiB resident' if name == 'mib' else name}", *each(course))
    row("MiB grown, by the line", *each(lambda one: f"{one.growth():.1f}"))
    row("more blocks of Python's memory", *each(lambda one: f"{one.blocks():,}"))
    print(table(("", *[one.name for one in soaked]), rows), flush=True)


def main() -> None:
    args = arguments()
    print(machine_text(machine(SERVERS[name] for name in args.servers)), flush=True)
    seconds = args.minutes * 60
    warm = min(WARM, seconds / 4)
    os.environ.update(MALLOC, BENCHMARK_THREADS=str(THREADS))
    with make_files() as files, contextlib.ExitStack() as stack:
        soaked = []
        for name in args.servers:
            running = stack.enter_context(Running(name, "soak", files))
            soaked.append(Soaked(name, running, files, args.rate))
        for one in soaked:
            one.start_threads()
            for client in one.clients:
                client.start()
        if wait(soaked, warm, keep=False) and look(soaked):
            progress("warm")
            wait(soaked, max(EVERY, seconds - warm - 2 * PAUSE), keep=True)
            look(soaked)
        for one in soaked:
            for client in one.clients:
                client.ended = True
        faults = [f"{one.name}: {fault}" for one in soaked for fault in one.faults()]
        if all(one.looks for one in soaked):
            print()
            show(soaked)
    if faults:
        print("\nFAILED:", *faults, sep="\n", flush=True)
        sys.exit(1)
    print("\nNothing wrong.")


if __name__ == "__main__":
    run(main)
