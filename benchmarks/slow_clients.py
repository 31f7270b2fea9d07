"""Clients that read slowly or not at all: who is served beside them, and who gets the whole file.

Six measurements, most of them ours beside the server's own wrapper or a loop ("by_hand"):

readers  a small request beside many slow readers of a large file, on waitress with 4 threads
stopped  a small request beside many clients that have stopped; afterwards they read the rest
table    one client that stops for a while, or reads slowly: does it get the whole file?
never    clients that never read, many times over: what is left of them?
queue    a small request beside ever more slow downloads, on one sync worker of gunicorn
disk     a small request beside downloads from a disk (FUSE) where every read takes a while
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import slowfs
from clients import ClientError, Reader, bytes_waiting, latency, result, run_client, start_client
from measure import Figures, in_turn
from report import (
    Parser,
    Target,
    begin,
    finish,
    median,
    number,
    progress,
    ratios,
    run,
    some_of,
    spread,
    table,
)
from servers import (
    KIB,
    LOOPBACK,
    MIB,
    Measured,
    Network,
    ServerError,
    installed,
    launch,
    make_files,
    running,
    scratch,
)

CONTENDERS = {"by_hand": {"contender": "by_hand"}, "ours": {"contender": "ours"}}
RANGES = {"ours, ranges": {"contender": "ours", "ranges": True}}
#: The servers of "stopped" and "never", by their names in launch.py, with two threads if any.
FEW: dict[str, dict[str, Any]] = {
    "gunicorn": {},
    "gunicorn_gthread": {"threads": 2},
    "cheroot": {"threads": 2},
    "uwsgi": {"threads": 2},
    "werkzeug": {"threaded": False},
    "wsgiref": {},
}
#: Servers behind nginx that keeps no file on disk.
FRONTED = {"nginx_gunicorn": "gunicorn", "nginx_uwsgi": "uwsgi"}
BEHIND = Network(unix=True, front="proxy_max_temp_file_size 0; uwsgi_max_temp_file_size 0;")
ALL = [*launch.SERVERS, *FRONTED]
#: Clients that never read, at once.
BATCH = 50


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--servers", type=some_of(ALL), metavar="A,B", help="stopped, table, never, disk")
    add("--only", choices=MEASUREMENTS, help="only this measurement")
    add("--size", type=int, default=24 * MIB, metavar="BYTES", help="of the file (24 MiB)")
    add("--large", type=int, default=100 * MIB, metavar="BYTES", help="readers: that (100 MiB)")
    add("--readers", type=int, default=500, metavar="N", help="readers (500)")
    add("--clients", type=int, default=200, metavar="N", help="stopped: that stop (200)")
    add("--seconds", type=float, default=10, metavar="S", help="of small requests (10)")
    add("--stops", default="5,12,45", metavar="S,S", help="table: seconds to stop (5,12,45)")
    add("--slow", type=float, default=45, metavar="S", help="table: of a slow download (45)")
    add("--at-once", type=int, default=4, metavar="N", help="table, never: servers (4)")
    add("--times", type=int, default=1000, metavar="N", help="never: clients (1000)")
    add("--downloads", type=int, default=50, metavar="N", help="queue: slow downloads (50)")
    add("--rate", type=int, default=2 * MIB, metavar="BYTES", help="queue: a second (2 MiB)")
    add("--read", type=float, default=0.2, metavar="S", help="disk: seconds of a read (0.2)")
    add("--plots", metavar="DIR", help="queue: draw an SVG file there (needs matplotlib)")
    quick: dict[str, Any] = {"large": 20 * MIB, "readers": 100, "clients": 30, "seconds": 2}
    quick |= {"stops": "5", "slow": 5, "times": 100, "downloads": 5}
    return parser.parse(**quick, repeats=1)


@contextlib.contextmanager
def started(server: str, contender: str, files: str, **options: Any) -> Iterator[Measured]:
    """A server, warm: the first request imports things."""
    name = FRONTED.get(server, server)
    net = BEHIND if server in FRONTED else LOOPBACK
    with running(name, contender, files, net, **{**FEW.get(name, {}), **options}) as one:
        run_client("latency", one.address, "/small", seconds=0.3)
        yield one


@contextlib.contextmanager
def readers(one: Measured, size: int, seen: dict[str, Any], **options: Any) -> Iterator[None]:
    """Slow readers of a file, which end with the block. What they saw is in seen then."""
    pid = one.process.pid
    process = start_client("slow", one.port, f"/{size}", server=pid, **options)
    try:
        assert process.stderr is not None
        if process.stderr.readline() != "ready\n":
            raise ClientError("the slow readers are not connected")
        yield
        seen.update(result(process))
    finally:
        process.kill()
        process.communicate()


def percentiles(name: str, one: Measured, seconds: float) -> dict[str, float]:
    """Of small requests; none if one of them got no answer within 5 seconds."""
    try:
        got = run_client("latency", one.port, "/small", seconds=seconds, patience=5)
    except ClientError:
        return {}
    return {f"{name}_{figure}": value for figure, value in got.items()}


def beside(
    contender: str, server: str, args: argparse.Namespace, files: str, size: int, **slow: Any
) -> dict[str, float]:
    """Small requests beside slow readers, and what these cost.

    Each has a server of its own, because a server keeps the memory that it once took.
    """
    seen: dict[str, float] = {}
    with started(server, contender, files) as one:
        found = percentiles("idle", one, args.seconds)
        memory, (_, descriptors, threads) = one.memory(), one.held()
        with readers(one, size, seen, **slow):
            # Each one has to fall behind, if it reads nothing.
            time.sleep(1 if slow.get("rate") else 0.15 * args.clients + 1)
            cpu, begun = one.cpu_now(), time.monotonic()
            found |= percentiles("beside", one, args.seconds)
            cpu = (one.cpu_now() - cpu) / (time.monotonic() - begun)
            grown, held = one.memory() - memory, one.held()
        if slow.get("rate"):
            return {
                **found,
                "grown_mib": grown,
                "cpu_share": cpu,
                "mib_per_s": seen["received"] / MIB,
                "read_per_sent": seen["read"] / seen["sent"],
                "late_ms": seen["late"] * 1e3,
            }
        time.sleep(4)
        return {
            **found,
            "connected": seen["connected"],
            "whole": seen["whole"],
            "grown_mib": grown,
            "threads": held[2] - threads,
            "descriptors": held[1] - descriptors,
            "left": one.held()[1] - descriptors,
        }


def measure_readers(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    one = partial(beside, server="waitress", args=args, files=files, size=args.large)
    one = partial(one, readers=args.readers, rate=64 * KIB)
    found = in_turn("readers", args.repeats, {**CONTENDERS, **RANGES}, lambda way: one(**way))
    results["readers"] = found
    print(f"\n/small beside {args.readers} readers of {args.large / MIB:.0f} MiB, 64 KiB/s each\n")
    rows = [[figure, *(spread(got[figure]) for got in found.values())] for figure in found["ours"]]
    print(table(("", *found), rows), flush=True)
    targets = []
    for name in ("ours", "ours, ranges"):
        got = found[name]
        p99 = ratios(got["beside_p99_ms"], got["idle_p99_ms"])
        targets += [
            Target("6", f"{name}: p99 of /small, beside / idle", p99, at_most=2),
            Target("6", f"{name}: MiB grown", got["grown_mib"], at_most=20),
            Target("7", f"{name}: bytes read / sent", got["read_per_sent"], at_most=1.01),
        ]
    if (median(found["ours"]["late_ms"]) or 0) > 250:
        print("\nThe slow readers were late: this machine is too busy.")
    return targets


def measure_stopped(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    found: dict[str, dict[str, Figures]] = {}
    results["stopped"] = found
    slow = {"readers": args.clients, "files": files, "receive_buffer": 64 * KIB}
    for server in chosen(args, FEW):
        one = partial(beside, server=server, args=args, files=files, size=args.size, **slow)
        found[server] = in_turn(server, args.repeats, CONTENDERS, lambda way, one=one: one(**way))
    figures = list(next(iter(found.values()))["ours"])
    rows = [
        [server, contender, *(number(median(got[name])) for name in figures)]
        for server, contenders in found.items()
        for contender, got in contenders.items()
    ]
    print(
        f"\n{args.clients} clients stop; - if a request got no answer; medians of {args.repeats}\n"
    )
    print(table(["server", "", *figures], rows), flush=True)
    targets = []
    for server, contenders in found.items():
        ours = contenders["ours"]
        p99 = ratios(ours["beside_p99_ms"], ours["idle_p99_ms"])
        targets += [
            Target("2", f"{server}, ours: p99, beside / idle", p99, at_most=2),
            Target("2", f"{server}, ours: whole", ours["whole"], at_least=args.clients),
            Target("2", f"{server}, ours: MiB grown", ours["grown_mib"], at_most=20),
            Target("2", f"{server}, ours: descriptors left", ours["left"], at_most=0),
        ]
    return targets


def download(
    server: str, contender: str, args: argparse.Namespace, files: str, stop: float | None
) -> str:
    """One client, which stops for some seconds after 1 MiB, or reads slowly."""
    try:
        with started(server, contender, files) as one:
            client = Reader(one.address, f"/{args.size}", receive_buffer=64 * KIB)
            if stop is not None:
                while client.got < MIB and client.read():
                    pass
                time.sleep(stop)
            client.read_all(0 if stop is not None else args.size / args.slow)
    except (ServerError, ClientError) as error:
        progress(f"{server}, {contender}: {error}")
        return "not started"
    if client.whole(files):
        return "ok"
    return "wrong bytes" if client.got >= args.size else f"cut at {client.got / MIB:.1f} MiB"


def measure_table(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    stops: dict[str, float | None] = {f"stops {s} s": float(s) for s in args.stops.split(",")}
    cells = {**stops, f"slow, {args.slow:g} s": None}

    def rows(server: str) -> dict[str, list[str]]:
        """All at the same time, each with a server of its own: nearly all of them sleep."""
        with ThreadPoolExecutor(len(CONTENDERS) * len(cells)) as pool:
            one = partial(download, server, args=args, files=files)
            jobs = {
                contender: [pool.submit(one, contender, stop=stop) for stop in cells.values()]
                for contender in CONTENDERS
            }
        progress(f"{server}: slow downloads are over")
        return {contender: [job.result() for job in row] for contender, row in jobs.items()}

    found = at_once(rows, chosen(args, ALL), args)
    results["table"] = {"cells": [*cells], **found}
    print("\nOne client: does it get the whole file?\n")
    lines = [[server, name, *row] for server, both in found.items() for name, row in both.items()]
    print(table(["server", "", *cells], lines), flush=True)
    cut = sum(cell != "ok" for both in found.values() for cell in both["ours"])
    return [Target("1", f"ours: cells of {len(found)} servers not ok", [cut], at_most=0)]


def never(server: str, args: argparse.Namespace, files: str) -> dict[str, float]:
    """What clients leave that never read, where each has a second to take something."""
    slow = {"readers": BATCH, "receive_buffer": 64 * KIB, "answered": True}
    with started(server, "impatient", files) as one:
        memory, (_, descriptors, threads) = one.memory(), one.held()
        longest, queued = 0.0, 0
        for batch in range(1, args.times // BATCH + 1):
            with readers(one, args.size, {}, **slow):
                began = time.monotonic()
                while one.held()[1] > descriptors and time.monotonic() < began + 30:
                    time.sleep(0.1)
                longest = max(longest, time.monotonic() - began)
                queued = max(queued, bytes_waiting(one.port))
            progress(f"{server}: {batch * BATCH} clients that never read")
        time.sleep(12)  # A thread without work ends after 10.
        _, descriptors_after, threads_after = one.held()
        return {
            "clients": batch * BATCH,
            "seconds": longest,
            "MiB queued": queued / MIB,
            "descriptors": descriptors,
            "descriptors after": descriptors_after,
            "threads": threads,
            "threads after": threads_after,
            "MiB": memory,
            "MiB after": one.memory(),
        }


def measure_never(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    found = at_once(partial(never, args=args, files=files), chosen(args, FEW), args)
    results["never"] = found
    print(
        f"\nClients that never read, {BATCH} at once, ours with send_timeout=1: seconds until"
        " all are gone,\nMiB in the kernel for them then, and what there was before and after\n"
    )
    head = next(iter(found.values()))
    print(table(["server", *head], [[n, *map(number, row.values())] for n, row in found.items()]))
    targets = []
    for server, row in found.items():
        left = row["descriptors after"] - row["descriptors"]
        targets.append(Target("4", f"{server}: descriptors left", [left], at_most=0))
        targets.append(Target("4", f"{server}: MiB queued", [row["MiB queued"]], at_most=1))
    return targets


def queue(contender: str, args: argparse.Namespace, files: str) -> list[float]:
    """Milliseconds of a small request that is sent after 0, 1, 2, ... slow downloads have begun."""
    with (
        started("gunicorn", contender, files) as one,
        ThreadPoolExecutor(2 * args.downloads + 1) as pool,
    ):
        waits, downloads = [], []
        for place in range(args.downloads + 1):
            waits.append(pool.submit(latency, one.port, "/small", 0, patience=3600))
            time.sleep(0.1)
            if place < args.downloads:
                client = Reader(one.port, f"/{args.size}", receive_buffer=64 * KIB)
                client.sock.settimeout(3600)
                downloads.append(client)
                pool.submit(client.read_all, args.rate)
                time.sleep(0.1)
        for place, wait in enumerate(waits):
            took = number(wait.result()["p50_ms"])
            progress(f"{contender}: after {place} slow downloads, {took} ms")
    if not all(client.whole(files) for client in downloads):
        progress(f"{contender}: not all downloads are whole")
    return [wait.result()["p50_ms"] for wait in waits]


def measure_queue(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    found = results["queue"] = {name: queue(name, args, files) for name in CONTENDERS}
    places = [place for place in (0, 1, 2, 5, 10, 20, 50) if place <= args.downloads]
    rows = [[name, *(number(waits[place]) for place in places)] for name, waits in found.items()]
    print("\nMilliseconds until /small is answered, after this number of slow downloads\n")
    print(table(["gunicorn, one worker", *map(str, places)], rows), flush=True)
    return []


def disk(contender: str, server: str, args: argparse.Namespace) -> dict[str, float]:
    """The 99th percentile of a small request, in ms, beside 8 downloads from a slow disk."""
    # Such a download takes a thread on waitress.
    threads = {"threads": 16} if server == "waitress" else {}
    with (
        scratch() as directory,
        slowfs.mounted(directory, args.read),
        running(server, contender, directory, **threads) as one,
        contextlib.ExitStack() as stack,
    ):
        run_client("latency", one.port, "/small", seconds=0.3)  # Warm.
        # Each reads another file, because what one has read is in memory for the others.
        # None reads to the end. waitress sends in the worker's thread until a client takes
        # no more, and then from its main loop. So they wait, and are fast after that.
        options = {"receive_buffer": 64 * KIB, "pause": 8}
        for size in range(64, 72):
            reader = start_client("receive", one.port, f"/{size * MIB}", **options)
            stack.callback(reader.communicate)
            stack.callback(reader.kill)
        time.sleep(9)
        try:
            small = run_client("latency", one.port, "/small", seconds=args.seconds)
        except ClientError:
            return {"p99_ms": 60_000}  # The client gave up after so long.
        return {"p99_ms": small["p99_ms"]}


def measure_disk(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    found = results["disk"] = {}
    for server in chosen(args, ["waitress", "gevent", "eventlet"]):
        one = partial(disk, server=server, args=args)
        found[server] = in_turn(server, args.repeats, {name: name for name in CONTENDERS}, one)
    print(f"\np99 in ms of /small beside 8 downloads from a disk: {args.read} s for a read\n")
    rows = [
        [server, *(spread(one["p99_ms"]) for one in got.values())] for server, got in found.items()
    ]
    print(table(("server", *CONTENDERS), rows), flush=True)
    return [
        Target("", f"{server}: p99 in ms, ours", got["ours"]["p99_ms"], at_most=20)
        for server, got in found.items()
    ]


def chosen(args: argparse.Namespace, default: Iterable[str]) -> list[str]:
    names = args.servers or default
    return [server for server in names if installed(FRONTED.get(server, server))]


def at_once(one: Any, servers: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """What this gives for some servers at a time."""
    with ThreadPoolExecutor(args.at_once) as pool:
        return dict(zip(servers, pool.map(one, servers), strict=True))


MEASUREMENTS = {
    "readers": measure_readers,
    "stopped": measure_stopped,
    "table": measure_table,
    "never": measure_never,
    "queue": measure_queue,
    "disk": measure_disk,
}


def main() -> None:
    args = arguments()
    results = begin(args, {server.module for server in launch.SERVERS.values()})
    targets: list[Target] = []
    with make_files([args.size, args.large]) as files:
        for name in [args.only] if args.only else MEASUREMENTS:
            targets += MEASUREMENTS[name](results, args, files)
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
