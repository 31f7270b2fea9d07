"""A small request beside downloads from a slow disk: FUSE, where every read takes a while.

waitress, gevent and eventlet, where one thread sends to many clients. Ours beside the
best by hand there, which is waitress's own wrapper or a loop of reads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial

import measure
import slowfs
from clients import PATIENCE, ClientError, result, run_client, start_client
from report import Parser, Target, begin, finish, run, some_of, spread, table
from servers import KIB, MIB, SERVERS, module, running

CONTENDERS = ("by_hand", "ours")


def latency(contender: str, server: str, args: argparse.Namespace) -> dict[str, float]:
    """The 99th percentile of a small request, in ms."""
    # A download from such a disk takes a thread on waitress.
    threads = {"threads": 2 * args.downloads} if server == "waitress" else {}
    with (
        tempfile.TemporaryDirectory() as directory,
        slowfs.mounted(directory, args.read),
        running(server, contender, directory, **threads) as one,
    ):
        run_client("latency", one.port, "/small", seconds=0.3)  # Warm.
        # Each reads another file, because what one has read is in memory for the others.
        # None reads to the end. waitress sends in the worker's thread until a client takes
        # no more, and then from its main loop. So they wait, and are fast after that.
        readers = [
            start_client(
                "receive",
                one.port,
                f"/{(64 + number) * MIB}",
                receive_buffer=64 * KIB,
                pause=args.pause,
            )
            for number in range(args.downloads)
        ]
        try:
            time.sleep(args.pause + 1)
            small = start_client("latency", one.port, "/small", seconds=args.seconds)
            p99 = result(small)["p99_ms"]
        except ClientError:
            p99 = PATIENCE * 1e3  # The client gave up after so long.
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
    return {"p99_ms": p99}


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    all_three = ["waitress", "gevent", "eventlet"]
    add(
        "--servers",
        type=some_of(SERVERS),
        default=all_three,
        metavar="A,B",
        help=",".join(all_three),
    )
    add("--downloads", type=int, default=8, metavar="N", help="at once (8)")
    add("--read", type=float, default=0.2, metavar="S", help="seconds of a read (0.2)")
    add("--seconds", type=float, default=6, metavar="S", help="of small requests (6)")
    add("--pause", type=float, default=8, metavar="S", help="until buffers are full (8)")
    args = parser.parse(seconds=3, repeats=2)
    results = begin(args, map(module, args.servers))
    contenders = {name: name for name in CONTENDERS}
    values = results["values"] = {
        server: measure.in_turn(
            server, args.repeats, contenders, partial(latency, server=server, args=args)
        )
        for server in args.servers
    }
    print(
        f"\np99 in ms of /small beside {args.downloads} downloads from a disk that takes"
        f" {args.read} s for a read\n"
    )
    rows = [
        [server, *(spread(got[name]["p99_ms"]) for name in CONTENDERS)]
        for server, got in values.items()
    ]
    print(table(("server", *CONTENDERS), rows))
    targets = [
        Target("", f"{server}: p99 in ms, ours", got["ours"]["p99_ms"], at_most=20)
        for server, got in values.items()
    ]
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
