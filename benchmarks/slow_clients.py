"""Slow and small-window clients of waitress (4 threads): latency, memory, CPU, bytes read.

Three measurements, ours beside waitress's own wrapper ("by_hand"), in turn: a
small request beside many slow readers of a large file; downloads in parallel with
a small receive buffer; and one receiver that throws the bytes away in the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Mapping
from functools import partial

import measure
from clients import ClientError, result, run_client, start_client
from report import Parser, Target, begin, finish, median, ratios, run, spread, table
from servers import GIB, KIB, MIB, make_files, running

SERVER = "waitress"
CONTENDERS = ("by_hand", "ours")


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--readers", type=int, default=500, metavar="N", help="slow readers (500)")
    add("--rate", type=int, default=64 * KIB, metavar="BYTES", help="a second, of each (64 KiB)")
    add("--seconds", type=float, default=12, metavar="S", help="that they read (12)")
    add("--slow-size", type=int, default=100 * MIB, metavar="BYTES", help="of the file (100 MiB)")
    add("--parallel", type=int, default=12, metavar="N", help="downloads at once (12)")
    add("--buffer", type=int, default=64 * KIB, metavar="BYTES", help="their SO_RCVBUF (64 KiB)")
    add("--size", type=int, default=64 * MIB, metavar="BYTES", help="of their file (64 MiB)")
    add("--discard-size", type=int, default=GIB, metavar="BYTES", help="thrown away (1 GiB)")
    add("--only", choices=("slow", "parallel", "discard"), help="only this measurement")
    return parser.parse(
        readers=100,
        seconds=4,
        slow_size=20 * MIB,
        size=8 * MIB,
        discard_size=128 * MIB,
        repeats=2,
    )


def slow(how: tuple[str, bool], args: argparse.Namespace, files: str) -> dict[str, float]:
    """A contender, with or without ranges, beside slow readers.

    Each has a server of its own, because a server keeps the memory that it once took.
    """
    contender, ranges = how
    with running(SERVER, contender, files) as server:
        seconds = max(1.0, args.seconds - 2)
        run_client("latency", server.port, "/small", seconds=1)  # Warm.
        idle = run_client("latency", server.port, "/small", seconds=seconds)
        before = most = server.memory()
        readers = start_client(
            "slow",
            server.port,
            f"/{args.slow_size}",
            seconds=args.seconds,
            readers=args.readers,
            rate=args.rate,
            ranges=ranges,
            server=server.process.pid,
        )
        try:
            assert readers.stderr is not None
            if readers.stderr.readline() != "ready\n":
                result(readers)
                raise ClientError("the slow readers are not connected")
            time.sleep(min(1.0, args.seconds / 4))
            small = start_client("latency", server.port, "/small", seconds=seconds)
            try:
                cpu = server.cpu_now()
                begun = time.monotonic()
                while small.poll() is None:
                    most = max(most, server.memory())
                    time.sleep(0.5)
                cpu = (server.cpu_now() - cpu) / (time.monotonic() - begun)
            finally:
                beside = result(small)
        finally:
            seen = result(readers)
    return {
        **{f"idle_{name}": value for name, value in idle.items()},
        **{f"beside_{name}": value for name, value in beside.items()},
        "grown_mib": most - before,
        "cpu_share": cpu,
        "mib_per_s": seen["received"] / args.seconds / MIB,
        "read_per_sent": seen["read"] / seen["sent"],
        "late_ms": seen["late"] * 1e3,
    }


def receive(
    args: argparse.Namespace, files: str, size: int, **options: object
) -> dict[str, measure.Figures]:
    """Downloads by each contender."""
    with contextlib.ExitStack() as stack:
        servers = {c: stack.enter_context(running(SERVER, c, files)) for c in CONTENDERS}
        for server in servers.values():
            measure.big(server, size)  # Warm.
        one = partial(measure.big, size=size, **options)
        return measure.in_turn(str(options), args.repeats, servers, one)


def show(title: str, values: Mapping[str, measure.Figures], *figures: str) -> None:
    print(f"\n{title}\n")
    rows = [[name, *(spread(got[name]) for got in values.values())] for name in figures]
    print(table(("", *values), rows), flush=True)


def main() -> None:
    args = arguments()
    results = begin(args, [SERVER])
    targets: list[Target] = []
    late = None
    with make_files(sorted({args.slow_size, args.size, args.discard_size})) as files:
        if args.only in (None, "slow"):
            ways = {
                "by_hand": ("by_hand", False),
                "ours": ("ours", False),
                "ours, ranges": ("ours", True),
            }
            measure_slow = partial(slow, args=args, files=files)
            values = results["slow"] = measure.in_turn(
                "slow readers", args.repeats, ways, measure_slow
            )
            show(
                f"/small beside {args.readers} readers of {args.slow_size / MIB:.0f} MiB,"
                f" {args.rate / KIB:.0f} KiB/s each",
                values,
                *values["ours"],
            )
            for name in ("ours", "ours, ranges"):
                got = values[name]
                p99 = ratios(got["beside_p99_ms"], got["idle_p99_ms"])
                targets += [
                    Target("6", f"{name}: p99 of /small, beside / idle", p99, at_most=2),
                    Target("6", f"{name}: MiB grown", got["grown_mib"], at_most=20),
                    Target("7", f"{name}: bytes read / sent", got["read_per_sent"], at_most=1.01),
                ]
            late = median(values["ours"]["late_ms"])
        if args.only in (None, "parallel"):
            options = {"parallel": args.parallel, "receive_buffer": args.buffer}
            values = results["parallel"] = receive(args, files, args.size, **options)
            show(
                f"{args.parallel} downloads of {args.size / MIB:.0f} MiB at once,"
                f" SO_RCVBUF {args.buffer / KIB:.0f} KiB",
                values,
                "cpu_s_per_gb",
                "gb_per_s",
            )
            cpu = ratios(*(values[c]["cpu_s_per_gb"] for c in ("ours", "by_hand")))
            targets.append(Target("7", "small windows: CPU, ours / by_hand", cpu, at_most=0.25))
        if args.only in (None, "discard"):
            values = results["discard"] = receive(args, files, args.discard_size, discard=True)
            show(
                f"{args.discard_size / MIB:.0f} MiB, thrown away by recv(MSG_TRUNC)",
                values,
                "cpu_s_per_gb",
                "gb_per_s",
            )
            speed = ratios(*(values[c]["gb_per_s"] for c in ("ours", "by_hand")))
            targets.append(Target("7", "thrown away: GB/s, ours / by_hand", speed, at_least=1.6))
    if late is not None and late > 250:
        print(f"\nThe slow readers were up to {late:.0f} ms late: this machine is too busy.")
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
