"""Clients that stop reading: who is served beside them, and who gets the whole file.

Four measurements, most of them ours beside the server's own wrapper or a loop ("by_hand"):

beside   a small request beside many clients that have stopped; afterwards they read the rest
table    one client that stops for a while, or reads slowly: does it get the whole file?
never    clients that never read, many times over: what is left of them?
queue    a small request beside ever more slow downloads, on one sync worker of gunicorn
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import selectors
import socket
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

from clients import bytes_waiting, connect, request
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
    table,
)
from servers import HOST, MIB, Measured, ServerError, launch, launched, make_files, nginx

CONTENDERS = ("by_hand", "ours")
#: The servers of "beside" and "never", by their names in launch.py, with two threads if any.
FEW: dict[str, dict[str, Any]] = {
    "gunicorn": {},
    "gunicorn_gthread": {"threads": 2},
    "cheroot": {"threads": 2},
    "uwsgi": {"threads": 2},
    "werkzeug": {},
    "wsgiref": {},
}
#: Servers behind nginx that keeps no file on disk: its configuration, and the server's options.
FRONTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nginx_gunicorn": (
        "gunicorn",
        "proxy_max_temp_file_size 0; proxy_pass http://{};",
        {},
    ),
    "nginx_uwsgi": (
        "uwsgi",
        "uwsgi_max_temp_file_size 0; uwsgi_pass {};"
        " uwsgi_param REQUEST_METHOD $request_method; uwsgi_param PATH_INFO $document_uri;"
        " uwsgi_param SERVER_NAME $host; uwsgi_param SERVER_PORT $server_port;"
        " uwsgi_param SERVER_PROTOCOL $server_protocol; uwsgi_param QUERY_STRING $query_string;",
        {"socket": ["--socket"]},
    ),
}
ALL = [*launch.SERVERS, *FRONTED]
#: The figures of "beside".
BESIDE = ["idle p50", "idle p99", "beside p50", "beside p99"]
BESIDE += ["connected", "whole", "MiB grown", "threads", "descriptors", "left"]
#: Seconds after which a small request counts as not answered.
PATIENCE = 5.0
#: Clients that never read, at once.
BATCH = 50


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__, repeats=3)
    add = parser.add_argument
    add("--servers", type=some_of(ALL), metavar="A,B", help="table: all; others: six")
    add("--only", choices=MEASUREMENTS, help="only this measurement")
    add("--size", type=int, default=24 * MIB, metavar="BYTES", help="of the file (24 MiB)")
    add("--clients", type=int, default=200, metavar="N", help="beside: that stop (200)")
    add("--requests", type=int, default=1000, metavar="N", help="beside: small ones (1000)")
    add("--stops", default="5,12,45", metavar="S,S", help="table: seconds to stop (5,12,45)")
    add("--slow", type=float, default=45, metavar="S", help="table: of a slow download (45)")
    add("--at-once", type=int, default=4, metavar="N", help="table, never: servers (4)")
    add("--times", type=int, default=1000, metavar="N", help="never: clients (1000)")
    add("--downloads", type=int, default=50, metavar="N", help="queue: slow downloads (50)")
    add("--rate", type=int, default=2 * MIB, metavar="BYTES", help="queue: a second (2 MiB)")
    add("--plots", metavar="DIR", help="queue: draw an SVG file there (needs matplotlib)")
    return parser.parse(
        clients=30, requests=100, stops="5,12", slow=12, times=100, downloads=5, repeats=1
    )


def installed(server: str) -> bool:
    return launch.SERVERS[FRONTED[server][0] if server in FRONTED else server].installed()


@contextlib.contextmanager
def started(server: str, contender: str, files: str, **options: Any) -> Iterator[Measured]:
    """A server by its name in launch.py or above, warm: the first request imports things."""
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        if server in FRONTED:
            name, location, options = FRONTED[server]
            behind = start(launched(name, contender, files, **options))
            one = start(nginx(location.format(f"{HOST}:{behind.port}")))
        else:
            one = start(launched(server, contender, files, **options))
        small(one.port)
        yield one


@cache
def crc(path: str) -> int:
    with open(path, "rb") as file:
        return zlib.crc32(file.read())


class Client:
    """A download over a small window."""

    def __init__(self, port: int, files: str, size: int) -> None:
        self.path = os.path.join(files, str(size))
        self.size = size
        self.got = self.crc = 0
        self.head: bytes | None = b""
        self.sock = connect(port, 64 << 10)
        self.sock.sendall(request(f"/{size}"))

    def read(self) -> bool:
        """Read once. Whether there may be more."""
        try:
            data = block = self.sock.recv(1 << 16)
        except OSError:
            return False
        if self.head is not None:
            self.head, end, block = (self.head + data).partition(b"\r\n\r\n")
            if end:
                self.head = None
        self.got += len(block)
        self.crc = zlib.crc32(block, self.crc)
        return bool(data) and self.got < self.size

    def whole(self) -> bool:
        """Whether it has got exactly the file."""
        return self.got == self.size and self.crc == crc(self.path)


def small(port: int, patience: float = PATIENCE) -> float | None:
    """Milliseconds of one small request; None: no answer."""
    began = time.perf_counter()
    try:
        with socket.create_connection((HOST, port), patience) as sock:
            sock.sendall(request("/small", "Connection: close"))
            if not sock.recv(1000):
                return None
    except OSError:
        return None
    return 1000 * (time.perf_counter() - began)


def percentiles(name: str, port: int, requests: int) -> dict[str, float]:
    """Of the small requests; none if one of them got no answer."""
    times = []
    for _ in range(requests):
        milliseconds = small(port)
        if milliseconds is None:
            return {}
        times.append(milliseconds)
    times.sort()
    return {f"{name} p{n}": times[n * len(times) // 100] for n in (50, 99)}


def connected(port: int, files: str, size: int, count: int, pause: float = 0.0) -> list[Client]:
    """The clients, up to the first that the server's backlog has no place for."""
    clients: list[Client] = []
    with contextlib.suppress(OSError):
        while len(clients) < count:
            clients.append(Client(port, files, size))
            time.sleep(pause)
    return clients


def beside(contender: str, server: str, args: argparse.Namespace, files: str) -> dict[str, float]:
    """The small request beside the clients, what they cost, and how many get all."""
    with started(server, contender, files, **FEW.get(server, {})) as one:
        found = percentiles("idle", one.port, args.requests)
        memory, (_, descriptors, threads) = one.memory(), one.held()
        # Each one has to fall behind, and the backlog of wsgiref has room for five.
        clients = connected(one.port, files, args.size, args.clients, pause=0.15)
        time.sleep(3)
        found |= percentiles("beside", one.port, args.requests)
        took, held = one.memory() - memory, one.held()
        read_all(clients)
        time.sleep(4)
        return {
            **found,
            "connected": len(clients),
            "whole": sum(client.whole() for client in clients),
            "MiB grown": took,
            "threads": held[2] - threads,
            "descriptors": held[1] - descriptors,
            "left": one.held()[1] - descriptors,
        }


def read_all(clients: list[Client]) -> None:
    """Read until the end of each, or until nothing has come for some time."""
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.sock, selectors.EVENT_READ, client)
    while selector.get_map():
        ready = selector.select(2 * PATIENCE)
        if not ready:
            break
        for key, _ in ready:
            if not key.data.read():
                selector.unregister(key.fileobj)
                key.data.sock.close()
    for key in list(selector.get_map().values()):
        key.data.sock.close()


def download(
    server: str, contender: str, args: argparse.Namespace, files: str, stop: float | None
) -> str:
    """One client, which stops for some seconds after 1 MiB, or reads slowly."""
    try:
        with started(server, contender, files) as one:
            client = Client(one.port, files, args.size)
            if stop is None:
                read_slowly(client, args.size / args.slow)
            else:
                while client.got < MIB and client.read():
                    pass
                time.sleep(stop)
                while client.read():
                    pass
            client.sock.close()
    except ServerError as error:
        progress(f"{server}, {contender}: {error}")
        return "not started"
    if client.whole():
        return "ok"
    return "wrong bytes" if client.got >= args.size else f"cut at {client.got / MIB:.1f} MiB"


def read_slowly(client: Client, rate: float) -> None:
    """Read so many bytes in a second, from the first one on."""
    more = client.read()
    began = time.monotonic()
    while more:
        more = client.read()
        time.sleep(max(0.0, client.got / rate - (time.monotonic() - began)))


def never(server: str, args: argparse.Namespace, files: str) -> dict[str, float]:
    """What clients leave that never read, where each has a second to take something."""
    with started(server, "impatient", files, **FEW.get(server, {})) as one:
        memory, (_, descriptors, threads) = one.memory(), one.held()
        asked = queued = 0
        longest = 0.0
        while asked < args.times:
            clients = connected(one.port, files, args.size, min(BATCH, args.times - asked))
            asked += len(clients)
            began = time.monotonic()
            answered(clients)
            while one.held()[1] > descriptors and time.monotonic() < began + 30:
                time.sleep(0.1)
            longest = max(longest, time.monotonic() - began)
            queued = max(queued, bytes_waiting(one.port))
            for client in clients:
                client.sock.close()
            progress(f"{server}: {asked} clients that never read")
        time.sleep(12)  # A thread without work ends after 10.
        _, descriptors_after, threads_after = one.held()
        return {
            "clients": asked,
            "seconds": longest,
            "MiB queued": queued / MIB,
            "descriptors": descriptors,
            "descriptors after": descriptors_after,
            "threads": threads,
            "threads after": threads_after,
            "MiB": memory,
            "MiB after": one.memory(),
        }


def answered(clients: list[Client]) -> None:
    """Wait until the server has begun to answer each, without reading."""
    for client in clients:
        poll = select.poll()
        poll.register(client.sock, select.POLLIN)
        poll.poll(30_000)


def queue(contender: str, args: argparse.Namespace, files: str) -> list[float | None]:
    """Seconds of a small request that is sent after 0, 1, 2, ... slow downloads have begun."""
    with (
        started("gunicorn", contender, files) as one,
        ThreadPoolExecutor(2 * args.downloads + 1) as pool,
    ):
        waits, downloads = [], []
        for place in range(args.downloads + 1):
            waits.append(pool.submit(small, one.port, patience=3600))
            time.sleep(0.1)
            if place < args.downloads:
                client = Client(one.port, files, args.size)
                client.sock.settimeout(3600)
                downloads.append(client)
                pool.submit(read_slowly, client, args.rate)
                time.sleep(0.1)
        for place, wait in enumerate(waits):
            progress(f"{contender}: after {place} slow downloads, {number(wait.result())} ms")
    if not all(client.whole() for client in downloads):
        progress(f"{contender}: not all downloads are whole")
    return [wait.result() for wait in waits]


def chosen(args: argparse.Namespace, default: Iterable[str]) -> list[str]:
    return [server for server in args.servers or default if installed(server)]


def measure_beside(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    found: dict[str, dict[str, Figures]] = {}
    results["beside"] = found
    for server in chosen(args, FEW):
        one = partial(beside, server=server, args=args, files=files)
        found[server] = in_turn(server, args.repeats, {c: c for c in CONTENDERS}, one)
    rows = [
        [server, contender, *(number(median(figures.get(name, []))) for name in BESIDE)]
        for server, contenders in found.items()
        for contender, figures in contenders.items()
    ]
    print(
        f"\n{args.clients} clients stop; /small in ms, - if one got no answer;"
        f" medians of {args.repeats}\n"
    )
    print(table(["server", "", *BESIDE], rows), flush=True)
    targets = []
    for server, contenders in found.items():
        ours = contenders["ours"]
        p99 = ratios(ours.get("beside p99", []), ours.get("idle p99", []))
        targets += [
            Target("2", f"{server}, ours: p99, beside / idle", p99, at_most=2),
            Target("2", f"{server}, ours: whole", ours.get("whole", []), at_least=args.clients),
            Target("2", f"{server}, ours: MiB grown", ours.get("MiB grown", []), at_most=20),
            Target("2", f"{server}, ours: descriptors left", ours.get("left", []), at_most=0),
        ]
    return targets


def measure_table(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    stops: dict[str, float | None] = {f"stops {s} s": float(s) for s in args.stops.split(",")}
    cells = {**stops, f"slow, {args.slow:g} s": None}

    def rows(server: str) -> dict[str, list[str]]:
        """All at the same time, each with a server of its own: nearly all of them sleep."""
        with ThreadPoolExecutor(len(CONTENDERS) * len(cells)) as pool:
            jobs = {
                contender: [
                    pool.submit(download, server, contender, args, files, stop)
                    for stop in cells.values()
                ]
                for contender in CONTENDERS
            }
        progress(f"{server}: slow downloads are over")
        return {contender: [job.result() for job in row] for contender, row in jobs.items()}

    servers = chosen(args, ALL)
    with ThreadPoolExecutor(args.at_once) as pool:
        found = dict(zip(servers, pool.map(rows, servers), strict=True))
    results["table"] = {"cells": [*cells], **found}
    print("\nOne client: does it get the whole file?\n")
    lines = [[server, name, *row] for server, both in found.items() for name, row in both.items()]
    print(table(["server", "", *cells], lines), flush=True)
    cut = sum(cell != "ok" for both in found.values() for cell in both["ours"])
    return [Target("1", f"ours: cells of {len(found)} servers not ok", [cut], at_most=0)]


def measure_never(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    servers = chosen(args, FEW)
    with ThreadPoolExecutor(args.at_once) as pool:
        one = partial(never, args=args, files=files)
        found = results["never"] = dict(zip(servers, pool.map(one, servers), strict=True))
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


def measure_queue(results: dict[str, Any], args: argparse.Namespace, files: str) -> list[Target]:
    found = results["queue"] = {name: queue(name, args, files) for name in CONTENDERS}
    places = [place for place in (0, 1, 2, 5, 10, 20, 50) if place <= args.downloads]
    rows = [[name, *(number(waits[place]) for place in places)] for name, waits in found.items()]
    print("\nMilliseconds until /small is answered, after this number of slow downloads\n")
    print(table(["gunicorn, one worker", *map(str, places)], rows), flush=True)
    return []


MEASUREMENTS = {
    "beside": measure_beside,
    "table": measure_table,
    "never": measure_never,
    "queue": measure_queue,
}


def main() -> None:
    args = arguments()
    results = begin(args, {server.module for server in launch.SERVERS.values()})
    targets: list[Target] = []
    with make_files([args.size]) as files:
        for name in [args.only] if args.only else MEASUREMENTS:
            targets += MEASUREMENTS[name](results, args, files)
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
