"""A small request beside downloads from a slow disk: FUSE, every read of which takes a while.

waitress, gevent and eventlet, where one thread sends to many. Ours beside the
best by hand there, which is waitress's own wrapper or a loop of reads.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from typing import Any

from clients import PATIENCE, ClientError, result, run_client, start_client
from report import Target, finish, machine, machine_text, progress, run, spread, table
from servers import HERE, KIB, MIB, Running

sys.path.insert(0, os.path.join(os.path.dirname(HERE), "tests"))
import slowfs

CONTENDERS = ("by_hand", "ours")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--servers", default="waitress,gevent,eventlet", metavar="A,B")
    add("--downloads", type=int, default=8, metavar="N", help="at once (8)")
    add("--read", type=float, default=0.2, metavar="S", help="seconds of a read (0.2)")
    add("--seconds", type=float, default=6, metavar="S", help="of small requests (6)")
    add("--pause", type=float, default=8, metavar="S", help="until buffers are full (8)")
    add("--repeats", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--quick", action="store_true", help="2 repeats of 3 seconds, to try it out")
    add("--json", metavar="FILE", help="write all values there")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.repeats = 3, 2
    return args


def measure(server: str, contender: str, directory: str, args: argparse.Namespace) -> float:
    """The 99th percentile of a small request, in ms."""
    with Running(server, contender, directory) as running:
        run_client("latency", running.port, "/small", seconds=0.3)  # Warm.
        # Each another file: what one has read is in memory for the others. None is
        # received to its end. waitress sends in the worker's thread until a client
        # takes no more, and then from its main loop: so they wait, and then are fast.
        readers = [
            start_client(
                "receive",
                running.port,
                f"/{(64 + number) * MIB}",
                receive_buffer=64 * KIB,
                pause=args.pause,
            )
            for number in range(args.downloads)
        ]
        try:
            time.sleep(args.pause + 1)
            small = start_client("latency", running.port, "/small", seconds=args.seconds)
            p99: float = result(small)["p99_ms"]
        except ClientError:
            p99 = PATIENCE * 1e3  # It gave up after so long.
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
    return p99


def main() -> None:
    args = arguments()
    # A download from such a disk takes a thread on waitress.
    os.environ["BENCHMARK_THREADS"] = str(2 * args.downloads)
    servers = args.servers.split(",")
    facts = machine(servers)
    print(machine_text(facts), flush=True)
    values: dict[str, dict[str, list[float]]] = {}
    for repeat in range(args.repeats):
        for server in servers:
            for contender in CONTENDERS:
                with (
                    tempfile.TemporaryDirectory() as directory,
                    slowfs.mounted(directory, args.read),
                ):
                    p99 = measure(server, contender, directory, args)
                values.setdefault(server, {}).setdefault(contender, []).append(p99)
                progress(f"{repeat + 1}/{args.repeats} {server}, {contender}: {p99:.3g} ms")
    print(
        f"\np99 in ms of /small beside {args.downloads} downloads from a disk that takes"
        f" {args.read} s for a read\n"
    )
    rows = [[server, *map(spread, got.values())] for server, got in values.items()]
    print(table(("server", *CONTENDERS), rows))
    targets = [
        Target("", f"{server}: p99 in ms, ours", got["ours"], at_most=20)
        for server, got in values.items()
    ]
    results: dict[str, Any] = {"machine": facts, "values": values}
    finish(results, targets, args.json)


if __name__ == "__main__":
    run(main)
