"""Clients that stop reading: who is served beside them, and who gets the whole file.

Two measurements, ours beside the server's own wrapper or a loop ("by_hand"). A small request
beside many clients that have read a little and then stopped; afterwards they read the rest.
And clients that stop for a while, or read slowly all the time: do they get the whole file?
Each server has its defaults and two threads, where it has any.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from report import Parser, Target, begin, finish, number, progress, run, some_of, table
from servers import MIB, SERVERS, installed, make_files, module, running

ASKED = ["gunicorn_sync", "gunicorn_gthread", "cheroot", "uwsgi", "werkzeug", "wsgiref"]
CONTENDERS = ("by_hand", "ours")
#: Seconds after which a small request counts as not answered.
PATIENCE = 5.0


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--servers", type=some_of(SERVERS), default=ASKED, help=f"default: {','.join(ASKED)}")
    add("--clients", type=int, default=200, metavar="N", help="that stop (200)")
    add("--size", type=int, default=24 * MIB, metavar="BYTES", help="of the file (24 MiB)")
    add("--requests", type=int, default=300, metavar="N", help="small ones (300)")
    add("--stops", default="5,12,45", metavar="S,S", help="seconds to stop (5,12,45)")
    add("--slow", type=float, default=45, metavar="S", help="seconds of a slow download (45)")
    add("--only", choices=("beside", "table"), help="only this measurement")
    return parser.parse(clients=30, requests=100, stops="5,12", slow=12)


class Client:
    """A download over a small window."""

    def __init__(self, port: int, size: int) -> None:
        self.left = size
        self.head: bytes | None = b""
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self.sock.connect(("127.0.0.1", port))
        self.sock.settimeout(60)
        self.sock.sendall(f"GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def read(self, size: int = 1 << 16) -> bool:
        """Read once. Whether there may be more."""
        try:
            data = self.sock.recv(size)
        except OSError:
            return False
        if self.head is not None and data:
            self.head += data
            if b"\r\n\r\n" in self.head:
                self.left -= len(self.head.partition(b"\r\n\r\n")[2])
                self.head = None
        else:
            self.left -= len(data)
        return bool(data) and self.left > 0


def small(port: int) -> float | None:
    """Milliseconds of one small request; None: no answer."""
    began = time.perf_counter()
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if not sock.recv(1000):
                return None
    except OSError:
        return None
    return 1000 * (time.perf_counter() - began)


def p99(port: int, requests: int) -> float | None:
    """Of the small requests; None if one of them got no answer."""
    times = []
    for _ in range(requests):
        milliseconds = small(port)
        if milliseconds is None:
            return None
        times.append(milliseconds)
    return sorted(times)[int(0.99 * len(times))]


def beside(server: str, contender: str, args: argparse.Namespace, files: str) -> dict[str, Any]:
    """The small request beside the clients, what they cost, and how many get all."""
    with running(server, contender, files) as started:
        small(started.port)
        idle = p99(started.port, args.requests)
        memory, (_, descriptors, threads) = started.memory(), started.held()
        clients = connected(started.port, args)
        time.sleep(0.1 * args.clients + 1)  # Each one has to fall behind.
        busy = p99(started.port, args.requests)
        took = started.memory() - memory
        held = started.held()
        whole = read_all(clients)
        time.sleep(4)
        after = started.held()
    return {
        "idle": idle,
        "beside": busy,
        "whole": whole,
        "MiB": took,
        "threads": held[2] - threads,
        "descriptors": held[1] - descriptors,
        "descriptors left": after[1] - descriptors,
    }


def connected(port: int, args: argparse.Namespace) -> list[Client]:
    """The clients, up to the first that the server's backlog has no place for."""
    clients: list[Client] = []
    with contextlib.suppress(TimeoutError):
        while len(clients) < args.clients:
            clients.append(Client(port, args.size))
    return clients


def read_all(clients: list[Client]) -> int:
    """The number of clients that get the whole file."""
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.sock, selectors.EVENT_READ, client)
    while selector.get_map():
        ready = selector.select(PATIENCE)
        if not ready:
            break
        for key, _ in ready:
            if not key.data.read():
                selector.unregister(key.fileobj)
                key.data.sock.close()
    for key in list(selector.get_map().values()):
        key.data.sock.close()
    return sum(client.left == 0 for client in clients)


def download(
    server: str, contender: str, args: argparse.Namespace, files: str, stop: float | None
) -> str:
    """One client, which stops for some seconds after 1 MiB, or reads slowly."""
    with running(server, contender, files) as started:
        client = Client(started.port, args.size)
        began = time.monotonic()
        more = True
        if stop is not None:
            while more and args.size - client.left < MIB:
                more = client.read()
            time.sleep(stop)
        while more:
            more = client.read()
            if stop is None:
                done = 1 - client.left / args.size
                time.sleep(max(0.0, done * args.slow - (time.monotonic() - began)))
        client.sock.close()
        return "ok" if client.left == 0 else f"cut at {(args.size - client.left) / MIB:.1f} MiB"


def main() -> None:
    args = arguments()
    servers = [server for server in args.servers if installed(server)]
    results = begin(args, [module(server) for server in servers])
    targets: list[Target] = []
    with make_files([args.size]) as files:
        if args.only != "table":
            results["beside"], targets = measure_beside(servers, args, files)
        if args.only != "beside":
            results["table"] = measure_table(servers, args, files)
    finish(args, results, targets)


def measure_beside(
    servers: list[str], args: argparse.Namespace, files: str
) -> tuple[dict[str, Any], list[Target]]:
    found: dict[str, Any] = {}
    targets = []
    for server in servers:
        for contender in CONTENDERS:
            progress(f"{server}, {contender}: {args.clients} clients that stop")
            found[f"{server} {contender}"] = beside(server, contender, args, files)
        ours = found[f"{server} ours"]
        if ours["idle"] and ours["beside"]:
            what = f"{server}: p99 beside them / idle, ours"
            targets.append(Target("", what, [ours["beside"] / ours["idle"]], at_most=2))
    head = ["server", "", *next(iter(found.values()))]
    rows = [[*name.split(), *map(number, row.values())] for name, row in found.items()]
    print(f"\n{args.clients} clients stop; p99 in ms of /small, - if one got no answer\n")
    print(table(head, rows), flush=True)
    return found, targets


def measure_table(servers: list[str], args: argparse.Namespace, files: str) -> dict[str, Any]:
    columns = {f"stops {stop} s": float(stop) for stop in args.stops.split(",")}
    cells: dict[str, float | None] = {**columns, f"slow, {args.slow:g} s": None}
    found: dict[str, dict[str, str]] = {}
    for server in servers:
        progress(f"{server}: slow downloads")
        with ThreadPoolExecutor(len(CONTENDERS) * len(cells)) as pool:
            jobs = {
                (contender, name): pool.submit(download, server, contender, args, files, stop)
                for contender in CONTENDERS
                for name, stop in cells.items()
            }
        for (contender, name), job in jobs.items():
            found.setdefault(f"{server} {contender}", {})[name] = job.result()
    print("\nOne client: does it get the whole file?\n")
    print(table(["server", "", *cells], [[*n.split(), *r.values()] for n, r in found.items()]))
    return found


if __name__ == "__main__":
    run(main)
