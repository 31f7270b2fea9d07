"""What reading ahead gains, with a source and a client that both take their time.

In-process: it iterates what the server would iterate, because the buffers of a socket
read ahead as well. The plain loop and read_ahead take turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from report import Parser, Target, begin, finish, progress, ratios, run, spread, table
from servers import KIB

from wsgifile import FileWrapperMiddleware

BLOCK = 64 * KIB


class Source:
    """Every read takes so many seconds."""

    def __init__(self, blocks: int, seconds: float) -> None:
        self.left, self.seconds = blocks * BLOCK, seconds

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        time.sleep(self.seconds)
        self.left -= size
        return bytes(size)


def response(source: Source, read_ahead: int) -> Iterable[bytes]:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return source

    middleware = FileWrapperMiddleware(app, block_size=BLOCK, read_ahead=read_ahead)
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


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--blocks", type=int, default=100, metavar="N", help="of 64 KiB, of a download (100)")
    add("--seconds", type=float, default=0.02, metavar="S", help="of a read and a block (0.02)")
    add("--read-ahead", type=int, default=4, metavar="N", help="blocks (4)")
    args = parser.parse(blocks=20, repeats=2)
    results = begin(args)
    values: dict[str, list[float]] = {}
    results["values"] = values
    for repeat in range(args.repeats):
        progress(f"{repeat + 1}/{args.repeats}")
        got = {
            "plain loop, s": download(args.blocks, args.seconds, 0),
            "read ahead, s": download(args.blocks, args.seconds, args.read_ahead),
        }
        for name, value in got.items():
            values.setdefault(name, []).append(value)
    print(
        f"\nDownloads of {args.blocks} blocks, {args.seconds * 1e3:.0f} ms for a read and for"
        f" a block; medians of {args.repeats} (least..most)\n"
    )
    print(table(("", ""), ([name, spread(got)] for name, got in values.items())))
    seconds = ratios(values["plain loop, s"], values["read ahead, s"])
    finish(args, results, [Target("", "seconds, plain loop / read ahead", seconds, at_least=1.9)])


if __name__ == "__main__":
    run(main)
