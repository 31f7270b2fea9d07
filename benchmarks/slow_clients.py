"""Slow and small-window clients of waitress (4 threads): latency, memory, CPU, bytes read.

Three measurements, ours beside waitress's own wrapper ("by_hand"), in turn: a
small request beside many slow readers of a large file; downloads in parallel with
a small receive buffer; and one receiver that throws the bytes away in the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

from clients import ClientError, result, run_client, start_client
from report import (
    Target,
    finish,
    machine,
    machine_text,
    median,
    number,
    progress,
    ratios,
    run,
    spread,
    table,
)
from servers import GB, GIB, KIB, MIB, Running, make_files

SERVER = "waitress"
CONTENDERS = ("by_hand", "ours")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--readers", type=int, default=500, metavar="N", help="slow readers (500)")
    add("--rate", type=int, default=64 * KIB, metavar="BYTES", help="a second, of each (64 KiB)")
    add("--seconds", type=float, default=12, metavar="S", help="that they read (12)")
    add("--slow-size", type=int, default=100 * MIB, metavar="BYTES", help="of the file (100 MiB)")
    add("--parallel", type=int, default=12, metavar="N", help="downloads at once (12)")
    add("--buffer", type=int, default=64 * KIB, metavar="BYTES", help="their SO_RCVBUF (64 KiB)")
    add("--size", type=int, default=64 * MIB, metavar="BYTES", help="of their file (64 MiB)")
    add("--discard-size", type=int, default=GIB, metavar="BYTES", help="thrown away (1 GiB)")
    add("--repeats", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--only", choices=("slow", "parallel", "discard"), help="only this measurement")
    add("--quick", action="store_true", help="small sizes and 2 repeats, to try it out")
    add("--json", metavar="FILE", help="write all values there")
    args = parser.parse_args()
    if args.quick:
        args.readers, args.seconds, args.slow_size = 100, 4, 20 * MIB
        args.size, args.discard_size, args.repeats = 8 * MIB, 128 * MIB, 2
    return args


def slow(contender: str, ranges: bool, args: argparse.Namespace, files: str) -> dict[str, float]:
    """A server of its own, as memory that was taken is not given back."""
    with Running(SERVER, contender, files) as running:
        seconds = max(1.0, args.seconds - 2)
        run_client("latency", running.port, "/small", seconds=1)  # Warm.
        idle = run_client("latency", running.port, "/small", seconds=seconds)
        before = most = running.memory()
        readers = start_client(
            "slow",
            running.port,
            f"/{args.slow_size}",
            seconds=args.seconds,
            readers=args.readers,
            rate=args.rate,
            ranges=int(ranges),
            server=running.process.pid,
        )
        try:
            assert readers.stderr is not None
            if readers.stderr.readline() != "ready\n":
                result(readers)
                raise ClientError("the slow readers are not connected")
            time.sleep(min(1.0, args.seconds / 4))
            small = start_client("latency", running.port, "/small", seconds=seconds)
            try:
                cpu = running.cpu_now()
                begun = time.monotonic()
                while small.poll() is None:
                    most = max(most, running.memory())
                    time.sleep(0.5)
                cpu = (running.cpu_now() - cpu) / (time.monotonic() - begun)
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


def receive(running: Running, size: int, **options: object) -> dict[str, float]:
    before = running.cpu()
    seen = run_client("receive", running.port, f"/{size}", **options)
    gigabytes = seen["bytes"] / GB
    return {
        "cpu_s_per_gb": (running.cpu() - before) / gigabytes,
        "gb_per_s": gigabytes / seen["seconds"],
    }


Values = dict[str, dict[str, list[float]]]


def keep(values: Values, contender: str, got: dict[str, float]) -> None:
    for name, value in got.items():
        values.setdefault(contender, {}).setdefault(name, []).append(value)
    progress(f"{contender}: " + ", ".join(f"{k} {number(v)}" for k, v in got.items()))


def measure_slow(args: argparse.Namespace, files: str) -> Values:
    values: Values = {}
    for repeat in range(args.repeats):
        for contender, ranges in (("by_hand", False), ("ours", False), ("ours", True)):
            name = f"{contender}, ranges" if ranges else contender
            progress(f"slow readers {repeat + 1}/{args.repeats}: {name}")
            keep(values, name, slow(contender, ranges, args, files))
    return values


def measure_receive(args: argparse.Namespace, files: str, size: int, **options: object) -> Values:
    values: Values = {}
    with contextlib.ExitStack() as stack:
        servers = {c: stack.enter_context(Running(SERVER, c, files)) for c in CONTENDERS}
        for running in servers.values():
            receive(running, size)  # Warm.
        for repeat in range(args.repeats):
            progress(f"{options} {repeat + 1}/{args.repeats}")
            for contender, running in list(servers.items())[:: -1 if repeat % 2 else 1]:
                keep(values, contender, receive(running, size, **options))
    return values


def show(title: str, values: Values) -> None:
    print(f"\n{title}\n")
    figures = list(next(iter(values.values())))
    rows = [[figure, *(spread(got[figure]) for got in values.values())] for figure in figures]
    print(table(("", *values), rows), flush=True)


def main() -> None:
    args = arguments()
    facts = machine([SERVER])
    print(machine_text(facts), flush=True)
    results: dict[str, Any] = {"machine": facts, "options": {**vars(args), "json": None}}
    targets: list[Target] = []
    with make_files(sorted({args.slow_size, args.size, args.discard_size})) as files:
        if args.only in (None, "slow"):
            values = results["slow"] = measure_slow(args, files)
            show(
                f"/small beside {args.readers} readers of {args.slow_size / MIB:.0f} MiB,"
                f" {args.rate / KIB:.0f} KiB/s each",
                values,
            )
            for name in ("ours", "ours, ranges"):
                got = values[name]
                p99 = ratios(got["beside_p99_ms"], got["idle_p99_ms"])
                targets += [
                    Target("6", f"{name}: p99 of /small, beside / idle", p99, at_most=2),
                    Target("6", f"{name}: MiB grown", got["grown_mib"], at_most=20),
                    Target("7", f"{name}: bytes read / sent", got["read_per_sent"], at_most=1.01),
                ]
        if args.only in (None, "parallel"):
            options = {"parallel": args.parallel, "receive_buffer": args.buffer}
            values = results["parallel"] = measure_receive(args, files, args.size, **options)
            show(
                f"{args.parallel} downloads of {args.size / MIB:.0f} MiB at once,"
                f" SO_RCVBUF {args.buffer / KIB:.0f} KiB",
                values,
            )
            cpu = ratios(*(values[c]["cpu_s_per_gb"] for c in ("ours", "by_hand")))
            targets.append(Target("7", "small windows: CPU, ours / by_hand", cpu, at_most=0.25))
        if args.only in (None, "discard"):
            values = results["discard"] = measure_receive(
                args, files, args.discard_size, discard=1
            )
            show(f"{args.discard_size / MIB:.0f} MiB, thrown away by recv(MSG_TRUNC)", values)
            speed = ratios(*(values[c]["gb_per_s"] for c in ("ours", "by_hand")))
            targets.append(Target("7", "thrown away: GB/s, ours / by_hand", speed, at_least=1.6))
    late = median(results.get("slow", {}).get("ours", {}).get("late_ms", []))
    if late is not None and late > 250:
        print(f"\nThe slow readers were up to {late:.0f} ms late: this machine is too busy.")
    finish(results, targets, args.json)


if __name__ == "__main__":
    run(main)
