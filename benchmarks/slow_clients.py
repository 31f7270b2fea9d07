"""Clients that read slowly or not at all: who is served beside them, and who gets the whole file.

Five measurements, most of them ours beside the server's own wrapper or a loop ("by_hand"):

readers  a small request beside many slow readers of a large file, on waitress with 4 threads
stopped  a small request beside many clients that have stopped; afterwards they read the rest
table    one client that stops for a while, or reads slowly: does it get the whole file?
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

import servers
from clients import ClientError, Reader, latency, result, run_client, start_client
from measure import Wanted, side_by_side
from report import Parser, Target, begin, finish, number, progress, run, some_of, table
from servers import KIB, MIB, Measured

CONTENDERS = ("by_hand", "ours")
#: And ours that cuts a client off that takes nothing for a second.
THREE = (*CONTENDERS, "impatient")
#: The servers of "stopped", by their names in launch.py, with two threads if any.
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
KEEP_NOTHING = "proxy_max_temp_file_size 0; uwsgi_max_temp_file_size 0;"
ALL = [*servers.launch.SERVERS, *FRONTED]
#: The small window of a client that is to be slow.
WINDOW = 64 * KIB


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__, repeats=3)
    add = parser.add_argument
    add("--servers", type=some_of(ALL), metavar="A,B", help="not for readers and queue")
    add("--only", choices=MEASUREMENTS, help="only this measurement")
    add("--size", type=int, default=24 * MIB, metavar="BYTES", help="of the file (24 MiB)")
    add("--large", type=int, default=100 * MIB, metavar="BYTES", help="readers: that (100 MiB)")
    add("--readers", type=int, default=500, metavar="N", help="readers (500)")
    add("--clients", type=int, default=200, metavar="N", help="stopped: that stop (200)")
    add("--seconds", type=float, default=10, metavar="S", help="of small requests (10)")
    add("--stops", default="5,12,45", metavar="S,S", help="table: seconds to stop (5,12,45)")
    add("--slow", type=float, default=45, metavar="S", help="table: of a slow download (45)")
    add("--downloads", type=int, default=50, metavar="N", help="queue: slow downloads (50)")
    add("--rate", type=int, default=2 * MIB, metavar="BYTES", help="queue: a second (2 MiB)")
    add("--plots", metavar="DIR", help="queue: draw an SVG file there (needs matplotlib)")
    quick: dict[str, Any] = {"large": 20 * MIB, "readers": 100, "clients": 30, "seconds": 2}
    quick |= {"stops": "5", "slow": 5, "downloads": 5}
    return parser.parse(**quick, repeats=1)


@contextlib.contextmanager
def started(server: str, contender: str, files: str, **options: Any) -> Iterator[Measured]:
    """A server, warm: the first request imports things."""
    name = FRONTED.get(server, server)
    net = servers.LOOPBACK
    if server in FRONTED:
        net = servers.Network(unix=True, front=KEEP_NOTHING)
    with servers.running(name, contender, files, net, **{**FEW.get(name, {}), **options}) as one:
        with contextlib.suppress(ClientError):  # pyruvate waits for the next request.
            run_client("latency", one.address, "/small", seconds=0.3, patience=5)
        yield one


def percentiles(name: str, one: Measured, seconds: float) -> dict[str, float]:
    """Of small requests; none if one of them got no answer within 5 seconds."""
    try:
        got = run_client("latency", one.port, "/small", seconds=seconds, patience=5)
    except ClientError:
        return {}
    return {f"{name}_{figure}": value for figure, value in got.items()}


def beside(
    server: str,
    contender: str,
    files: str,
    size: int,
    seconds: float,
    options: dict[str, Any] | None = None,
    **slow: Any,
) -> dict[str, float]:
    """Small requests beside slow readers, and what these cost.

    Each has a server of its own, because a server keeps the memory that it once took.
    """
    with started(server, contender, files, **(options or {})) as one:
        found = percentiles("idle", one, seconds)
        memory, (_, descriptors, threads) = one.memory(), one.held()
        readers = start_client("slow", one.port, f"/{size}", **slow)
        try:
            assert readers.stderr is not None
            if readers.stderr.readline() != "ready\n":
                raise ClientError("the slow readers are not connected")
            time.sleep(3)
            cpu, begun = one.cpu_now(), time.monotonic()
            found |= percentiles("beside", one, seconds)
            found["cpu_share"] = (one.cpu_now() - cpu) / (time.monotonic() - begun)
            grown, held = one.memory() - memory, one.held()
        finally:
            seen = result(readers)
        time.sleep(4)
        return {
            **found,
            **seen,
            "grown_mib": grown,
            "threads": held[2] - threads,
            "descriptors": held[1] - descriptors,
            "left": one.held()[1] - descriptors,
        }


LATENCIES = ("idle_p50_ms", "idle_p99_ms", "beside_p50_ms", "beside_p99_ms", "grown_mib")
#: For both "readers" and "stopped".
REACHED: Wanted = [
    ("beside_p99_ms", "idle_p99_ms", {"at_most": 2}),
    ("grown_mib", "", {"at_most": 20}),
]


def measure_readers(args: argparse.Namespace, files: str) -> tuple[Any, list[Target]]:
    slow = {"size": args.large, "readers": args.readers, "rate": 64 * KIB}
    return side_by_side(
        f"/small beside {args.readers} readers of {args.large / MIB:.0f} MiB, 64 KiB/s each",
        args,
        {"waitress": CONTENDERS},
        partial(beside, files=files, seconds=args.seconds, **slow),
        [*LATENCIES, "cpu_share", "mib_per_s", "late_ms"],
        [*REACHED, ("late_ms", "", {"at_most": 250})],
    )


def measure_stopped(args: argparse.Namespace, files: str) -> tuple[Any, list[Target]]:
    slow = {"readers": args.clients, "receive_buffer": WINDOW, "finish": True}
    return side_by_side(
        f"{args.clients} clients stop; ms of /small beside them, - if one got no answer",
        args,
        dict.fromkeys(chosen(args, FEW), THREE),
        partial(beside, files=files, size=args.size, seconds=args.seconds, **slow),
        [*LATENCIES, "connected", "whole", "threads", "descriptors", "queued_mib", "left"],
        [*REACHED, ("whole", "connected", {"at_least": 1}), ("left", "", {"at_most": 0})],
    )


def download(
    server: str, contender: str, args: argparse.Namespace, files: str, stop: float | None
) -> str:
    """One client, which stops for some seconds after 1 MiB, or reads slowly."""
    try:
        with started(server, contender, files) as one:
            client = Reader(one.address, f"/{args.size}", receive_buffer=WINDOW)
            if stop is not None:
                while client.got < MIB and client.read():
                    pass
                time.sleep(stop)
            client.read_all(0 if stop is not None else args.size / args.slow)
    except (servers.ServerError, ClientError) as error:
        progress(f"{server}, {contender}: {error}")
        return "not started"
    progress(f"{server}, {contender}: {client.got} bytes")
    return "ok" if client.got == client.size else f"cut at {client.got / MIB:.1f} MiB"


def measure_table(args: argparse.Namespace, files: str) -> tuple[Any, list[Target]]:
    stops: dict[str, float | None] = {f"stops {s} s": float(s) for s in args.stops.split(",")}
    cells = {**stops, f"slow, {args.slow:g} s": None}

    # Many at the same time, each with a server of its own: nearly all of them sleep.
    with ThreadPoolExecutor(32) as pool:
        one = partial(pool.submit, download, args=args, files=files)
        jobs = {
            (server, contender): [one(server, contender, stop=stop) for stop in cells.values()]
            for server in chosen(args, ALL)
            for contender in CONTENDERS
        }
    rows = [[*key, *(job.result() for job in row)] for key, row in jobs.items()]
    print("\nOne client: does it get the whole file?\n")
    print(table(["server", "", *cells], rows), flush=True)
    cut = sum(cell != "ok" for row in rows if row[1] == "ours" for cell in row[2:])
    return rows, [Target("", "ours: cells that are not ok", [cut], at_most=0)]


def queue(contender: str, args: argparse.Namespace, files: str) -> list[float]:
    """Milliseconds of a small request sent after 0, 1, 2, ... slow downloads have begun."""
    with (
        started("gunicorn", contender, files) as one,
        ThreadPoolExecutor(2 * args.downloads + 1) as pool,
    ):
        waits, downloads = [], []
        for place in range(args.downloads + 1):
            waits.append(pool.submit(latency, one.port, "/small", 0, patience=3600))
            time.sleep(0.1)
            if place < args.downloads:
                client = Reader(one.port, f"/{args.size}", receive_buffer=WINDOW)
                client.sock.settimeout(3600)
                downloads.append(client)
                pool.submit(client.read_all, args.rate)
                time.sleep(0.1)
        found = [wait.result()["p50_ms"] for wait in waits]
    whole = sum(client.got == client.size for client in downloads)
    progress(f"{contender}: {whole} of {args.downloads} slow downloads are whole")
    return found


def measure_queue(args: argparse.Namespace, files: str) -> tuple[Any, list[Target]]:
    found = {name: queue(name, args, files) for name in CONTENDERS}
    places = [place for place in (0, 1, 2, 5, 10, 20, 50) if place <= args.downloads]
    rows = [[name, *(number(waits[place]) for place in places)] for name, waits in found.items()]
    print("\nMilliseconds until /small is answered, after this number of slow downloads\n")
    print(table(["gunicorn, one worker", *map(str, places)], rows), flush=True)
    return found, []


def measure_disk(args: argparse.Namespace, files: str) -> tuple[Any, list[Target]]:
    # Each reads another file, because what one has read is in memory for the others. None reads
    # to the end. waitress sends in the worker's thread until a client takes no more, and then
    # from its main loop. So they wait, and are fast after that.
    slow = {"size": 64 * MIB, "readers": 8, "receive_buffer": WINDOW}
    slow |= {"rate": 32 * MIB, "pause": 9, "step": MIB}

    def one(server: str, contender: str) -> dict[str, float]:
        # Such a download takes a thread on waitress.
        options = {"threads": 16} if server == "waitress" else {}
        with servers.scratch() as root, servers.slowfs.mounted(root, 0.2):
            return beside(server, contender, root, seconds=args.seconds, options=options, **slow)

    return side_by_side(
        "/small beside 8 downloads from a disk that takes 0.2 s for a read",
        args,
        # Where one thread sends to many clients.
        dict.fromkeys(chosen(args, ("waitress", "gevent", "eventlet")), CONTENDERS),
        one,
        LATENCIES,
        [("beside_p99_ms", "", {"at_most": 20})],
    )


def chosen(args: argparse.Namespace, default: Iterable[str]) -> list[str]:
    names = args.servers or default
    return [server for server in names if servers.installed(FRONTED.get(server, server))]


MEASUREMENTS = {
    "readers": measure_readers,
    "stopped": measure_stopped,
    "table": measure_table,
    "queue": measure_queue,
    "disk": measure_disk,
}


def main() -> None:
    args = arguments()
    results = begin(args, {server.module for server in servers.launch.SERVERS.values()})
    targets: list[Target] = []
    with servers.make_files([args.size, args.large]) as files:
        for name in [args.only] if args.only else MEASUREMENTS:
            results[name], found = MEASUREMENTS[name](args, files)
            targets += found
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
