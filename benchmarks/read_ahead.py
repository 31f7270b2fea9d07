"""What reading ahead gains, with a source and a client that both take their time.

In-process: it iterates what the server would iterate, because the buffers of a socket
read ahead as well. The plain loop and read_ahead in turn; the first byte beside one
read of the source; and many downloads at once: how many threads, how much memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from report import Parser, Target, begin, finish, progress, ratios, run, spread, table
from servers import KIB, MIB

from wsgifile import FileWrapperMiddleware

BLOCK = 64 * KIB


class Source:
    """Every read takes so many seconds, and some more for each MiB."""

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
    """Seconds of a download by a client that takes as long for each block as a read."""
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
    """Seconds of a read of as little as the first one reads."""
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


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--blocks", type=int, default=100, metavar="N", help="of 64 KiB, of a download (100)")
    add("--seconds", type=float, default=0.02, metavar="S", help="of a read and a block (0.02)")
    add("--read-ahead", type=int, default=4, metavar="N", help="blocks (4)")
    add("--downloads", type=int, default=100, metavar="N", help="at once (100)")
    args = parser.parse(blocks=20, repeats=2)
    results = begin(args)
    values: dict[str, list[float]] = {}
    results["values"] = values
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
    seconds = ratios(values["plain loop, s"], values["read ahead, s"])
    first = ratios(values["first byte, read ahead, ms"], values["first read, ms"])
    targets = [
        Target("", "seconds, plain loop / read ahead", seconds, at_least=1.9),
        Target("", "first byte / first read of the source", first, at_most=1.2),
        Target("", "threads more", values["at once, threads more"], at_most=64),
        Target("", "MiB grown", values["at once, MiB grown"], at_most=bound),
    ]
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
