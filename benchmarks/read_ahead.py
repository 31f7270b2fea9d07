"""What reading ahead gains, with a source and a client that both take their time.

In-process, by what the server would iterate, as the buffers of a socket are a
read-ahead of their own. The plain loop and read_ahead in turn; the first byte beside
one read of the source; and many downloads at once: how many threads, how much memory.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterable
from typing import Any

from report import Target, finish, machine, machine_text, progress, ratios, run, spread, table
from servers import KIB, MIB

from wsgifile import FileWrapperMiddleware

BLOCK = 64 * KIB


class Source:
    """Every read takes a while, and then so long again for each so many bytes."""

    def __init__(self, blocks: int, seconds: float, per_mib: float = 0.0) -> None:
        self.left = blocks * BLOCK
        self.seconds, self.per_mib = seconds, per_mib

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        time.sleep(self.seconds + self.per_mib * size / MIB)
        self.left -= size
        return bytes(size)


def response(source: Source, read_ahead: int, block_size: int = BLOCK) -> Iterable[bytes]:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return source

    middleware = FileWrapperMiddleware(app, block_size=block_size, read_ahead=read_ahead)
    return middleware({"REQUEST_METHOD": "GET"}, lambda *args: print)


def download(blocks: int, seconds: float, read_ahead: int) -> float:
    """Seconds for all of it, to a client that takes as long for each block."""
    begun = time.perf_counter()
    received = 0
    for block in response(Source(blocks, seconds), read_ahead):
        received += len(block)
        time.sleep(seconds * len(block) / BLOCK)
    assert received == blocks * BLOCK
    return time.perf_counter() - begun


def first_byte(read_ahead: int) -> float:
    begun = time.perf_counter()
    body = iter(response(Source(100, 0.005, 0.1), read_ahead, block_size=256 * KIB))
    next(body)
    return time.perf_counter() - begun


def first_read() -> float:
    """Of a read for as little as the first one is for."""
    begun = time.perf_counter()
    Source(100, 0.005, 0.1).read(16 * KIB)
    return time.perf_counter() - begun


def resident() -> float:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / MIB


def at_once(downloads: int, blocks: int, seconds: float, read_ahead: int) -> dict[str, float]:
    before, threads = resident(), threading.active_count()
    clients = [
        threading.Thread(target=download, args=(blocks, seconds, read_ahead))
        for _ in range(downloads)
    ]
    begun = time.perf_counter()
    for client in clients:
        client.start()
    most, grown = 0, 0.0
    while any(client.is_alive() for client in clients):
        most = max(most, threading.active_count() - downloads - threads)
        grown = max(grown, resident() - before)
        time.sleep(0.01)
    return {"seconds": time.perf_counter() - begun, "threads": most, "grown_mib": grown}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--blocks", type=int, default=100, metavar="N", help="of 64 KiB, of a download (100)")
    add("--seconds", type=float, default=0.02, metavar="S", help="of a read and a block (0.02)")
    add("--read-ahead", type=int, default=4, metavar="N", help="blocks (4)")
    add("--downloads", type=int, default=100, metavar="N", help="at once (100)")
    add("--repeats", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--quick", action="store_true", help="small downloads and 2 repeats, to try it out")
    add("--json", metavar="FILE", help="write all values there")
    args = parser.parse_args()
    if args.quick:
        args.blocks, args.repeats = 20, 2
    return args


def main() -> None:
    args = arguments()
    facts = machine([])
    print(machine_text(facts), flush=True)
    values: dict[str, list[float]] = {}
    for repeat in range(args.repeats):
        progress(f"{repeat + 1}/{args.repeats}")
        plain = at_once(args.downloads, args.blocks, args.seconds, 0)
        many = at_once(args.downloads, args.blocks, args.seconds, args.read_ahead)
        got = {
            "plain loop, s": download(args.blocks, args.seconds, 0),
            "read ahead, s": download(args.blocks, args.seconds, args.read_ahead),
            "first read, ms": first_read() * 1e3,
            "first byte, read ahead, ms": first_byte(args.read_ahead) * 1e3,
            "first byte, plain loop, ms": first_byte(0) * 1e3,
            "at once, plain loop, s": plain["seconds"],
            "at once, read ahead, s": many["seconds"],
            "at once, threads more": many["threads"],
            "at once, MiB grown": many["grown_mib"],
        }
        for name, value in got.items():
            values.setdefault(name, []).append(value)
    print(
        f"\nDownloads of {args.blocks} blocks, {args.seconds * 1e3:.0f} ms for a read and for"
        f" a block; {args.downloads} at once; medians of {args.repeats} (least..most)\n"
    )
    print(table(("", ""), ([name, spread(got)] for name, got in values.items())))
    bound = args.downloads * (args.read_ahead + 1) * BLOCK / MIB + 20
    targets = [
        Target(
            "",
            "seconds, plain loop / read ahead",
            ratios(values["plain loop, s"], values["read ahead, s"]),
            at_least=1.9,
        ),
        Target(
            "",
            "first byte / first read of the source",
            ratios(values["first byte, read ahead, ms"], values["first read, ms"]),
            at_most=1.2,
        ),
        Target("", "threads more", values["at once, threads more"], at_most=64),
        Target("", "MiB grown", values["at once, MiB grown"], at_most=bound),
    ]
    finish({"machine": facts, "values": values}, targets, args.json)


if __name__ == "__main__":
    run(main)
