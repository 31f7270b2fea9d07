"""The main table: files by every server and contender, side by side.

For each server the contenders are started together, and measured in turn within
each repeat, nginx and the bare socket.sendfile loop ("floor") among them. Prints
medians (least..most) and the ratios to reach; a ratio is that of two neighbours of
one repeat. Exit status 0 whether they are reached or not.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
from functools import partial
from typing import Any

import measure
from clients import ClientError, run_client
from report import (
    Parser,
    Target,
    begin,
    finish,
    known,
    number,
    progress,
    ratios,
    run,
    some_of,
    spread,
    table,
)
from servers import (
    CONTENDERS,
    GIB,
    KIB,
    MIB,
    REFERENCES,
    SERVERS,
    WORKER,
    Measured,
    ServerError,
    installed,
    make_files,
    module,
    running,
)

SMALL = (4 * KIB, 100 * KIB, 10 * MIB)
CONNECTIONS = (1, 16)
SMALL_CASES = [(size, connections) for size in SMALL for connections in CONNECTIONS]
#: By lines a GB takes 40 s of CPU. So it gets a smaller large file, and none of 10 MiB.
BY_LINES = "bare"
CORES = sorted(os.sched_getaffinity(0))
#: Servers without a wrapper of their own.
NO_WRAPPER = ("cheroot", "gevent", "eventlet", "werkzeug")


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--servers", type=some_of(SERVERS), default=list(SERVERS), metavar="A,B")
    some = some_of((*CONTENDERS, WORKER))
    add("--contenders", type=some, default=list(CONTENDERS), metavar="A,B")
    add("--size", type=int, default=GIB, metavar="BYTES", help="of the large file (1 GiB)")
    by_lines = "the same for the contender that is iterated by lines (64 MiB)"
    add("--lines-size", type=int, default=64 * MIB, metavar="BYTES", help=by_lines)
    add("--seconds", type=int, default=2, metavar="S", help="of each run of wrk (2)")
    add("--only", choices=("big", "small"), help="only the large file, or only the small ones")
    add("--pin", action="store_true", help="servers on one core, clients on the others")
    add("--plots", metavar="DIR", help="draw SVG files there (needs matplotlib)")
    args = parser.parse(size=64 * MIB, lines_size=2 * MIB, seconds=1, repeats=2)
    args.lines_size = min(args.size, args.lines_size)
    if args.pin and len(CORES) < 2:
        parser.error("--pin needs two cores")
    if args.only != "big" and not shutil.which("wrk"):
        progress("no small files: wrk is not installed")
        args.only = "big"
    return args


def start_all(
    stack: contextlib.ExitStack, server: str, args: argparse.Namespace, files: str
) -> dict[str, Measured]:
    """Those of the contenders that come up, warm: the first request imports things."""
    started = {}
    if args.pin:  # Processes inherit it.
        os.sched_setaffinity(0, CORES[:1])
    for contender in filter(installed, args.contenders):
        try:
            one = stack.enter_context(
                running(contender if contender in REFERENCES else server, contender, files)
            )
            run_client("receive", one.port, f"/{SMALL[0]}", count=20)
            started[contender] = one
        except (ServerError, ClientError) as error:
            progress(f"{server}, {contender}: {error}")
    if args.pin:
        os.sched_setaffinity(0, CORES[1:])
    return started


def measure_server(server: str, args: argparse.Namespace, files: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        started = start_all(stack, server, args, files)
        if args.only != "small":
            sized = {
                name: (one, args.lines_size if name == BY_LINES else args.size)
                for name, one in started.items()
            }
            result["big"] = measure.in_turn(
                f"{server}, large file", args.repeats, sized, lambda pair: measure.big(*pair)
            )
        if args.only != "big":
            result["small"] = {}
            for size, connections in SMALL_CASES:
                case = measure.label(size, connections)
                result["small"][case] = measure.in_turn(
                    f"{server}, {case}",
                    args.repeats,
                    {name: one for name, one in started.items() if name != BY_LINES or size < MIB},
                    partial(
                        measure.small, size=size, connections=connections, seconds=args.seconds
                    ),
                )
    return result


def show(results: dict[str, Any], args: argparse.Namespace) -> None:
    big, small = [], []
    for server, result in results["servers"].items():
        for contender, got in result.get("big", {}).items():
            figures = ("cpu_s_per_gb", "client_cpu_s_per_gb", "gb_per_s")
            # Memory is the last value: after all downloads.
            memory = number((known(got["memory_mib"]) or [None])[-1])
            big.append([server, contender, *(spread(got[name]) for name in figures), memory])
        for case, contenders in result.get("small", {}).items():
            for contender, got in contenders.items():
                figures = ("requests_per_s", "cpu_us", "p99_ms")
                small.append([server, case, contender, *(spread(got[name]) for name in figures)])
    if big:
        print(
            f"\nOne client, one file of {args.size / MIB:,.0f} MiB"
            f" ({args.lines_size / MIB:,.0f} MiB for {BY_LINES}, which is iterated by lines);"
            f" medians of {args.repeats} (least..most); GB = 10^9 bytes\n"
        )
        head = ("server", "contender", "CPU s/GB", "client's", "GB/s", "MiB resident")
        print(table(head, big))
    if small:
        print(
            f"\nSmall files, wrk with 1 or 16 connections for {args.seconds} s"
            f" (no 10 MiB for {BY_LINES});"
            f" medians of {args.repeats} (least..most)\n"
        )
        head = ("server", "file", "contender", "requests/s", "CPU us/request", "p99 ms")
        print(table(head, small))


def figures_of(results: dict[str, Any], server: str, case: str) -> dict[str, measure.Figures]:
    """By contender, as far as they were measured."""
    result: dict[str, dict[str, Any]] = results["servers"][server]
    return result.get("big", {}) if case == "big" else result.get("small", {}).get(case, {})


def compare(
    results: dict[str, Any],
    line: str,
    server: str,
    case: str,
    figure: str,
    upper: str,
    lower: str,
    **wanted: float,
) -> list[Target]:
    """The ratio of two contenders to reach, if both were measured."""
    got = figures_of(results, server, case)
    if upper not in got or lower not in got:
        return []
    values = ratios(got[upper][figure], got[lower][figure])
    what = f"{server}, {case}: {figure}, {upper} / {lower}"
    return [Target(line, what, values, **wanted)]


def big_targets(results: dict[str, Any]) -> list[Target]:
    found, big = [], partial(compare, results, case="big")
    cpu, throughput = "cpu_s_per_gb", "gb_per_s"
    for server in results["servers"]:
        much = 40 if server in ("waitress", "cheroot") else 15
        found += big("1", server, figure=cpu, upper="bare", lower="ours", at_least=much)
    for server in results["servers"]:
        both = {"upper": "ours", "lower": "by_hand"}
        found += big("2", server, figure=cpu, **both, at_most=1.05)
        found += big("2", server, figure=throughput, **both, at_least=0.95)
        if server in NO_WRAPPER:
            found += big("2", server, figure=cpu, upper="ours", lower="loop64", at_most=0.8)
    if "waitress" in results["servers"]:
        fast = partial(big, "3", "waitress", figure=throughput, upper="ours")
        found += fast(lower="nginx", at_least=1.0) + fast(lower="floor", at_least=0.85)
    return found


def small_targets(results: dict[str, Any]) -> list[Target]:
    found, requests = [], partial(compare, results, "4", figure="requests_per_s")
    for server in results["servers"]:
        for size, connections in SMALL_CASES[:4]:  # Not the file of 10 MiB.
            case = measure.label(size, connections)
            for own in ("ours", "plain"):
                found += requests(server, case, upper=own, lower="by_hand", at_least=0.9)
            ours = figures_of(results, server, case).get("ours")
            if connections == 1 and ours:
                # No request waits for a delayed acknowledgement of 40 ms.
                what = f"{server}, {case}: ms per request, ours (a stall is 40)"
                values = [1000 / rate for rate in known(ours["requests_per_s"])]
                found.append(Target("4", what, values, at_most=10))
        if server == "gevent":
            case = measure.label(*SMALL_CASES[0])
            found += requests(server, case, upper="ours", lower="bare", at_least=100)
    return found


def background_targets(results: dict[str, Any]) -> list[Target]:
    """The background costs nothing where the client keeps up."""
    found = []
    cases = ["big", *(measure.label(*case) for case in SMALL_CASES)]
    for server, case in itertools.product(results["servers"], cases):
        cpu, speed = (
            ("cpu_s_per_gb", "gb_per_s") if case == "big" else ("cpu_us", "requests_per_s")
        )
        both = partial(compare, results, "8", server, case, upper="ours", lower=WORKER)
        found += both(figure=cpu, at_most=1.05) + both(figure=speed, at_least=0.95)
    return found


def main() -> None:
    args = arguments()
    results = begin(args, [*map(module, SERVERS), "whitenoise"])
    results["servers"] = {}
    with make_files(sorted({args.size, args.lines_size, *SMALL})) as files:
        for server in args.servers:
            if not installed(server):
                progress(f"{server} is left out: {module(server)} is not installed")
                continue
            results["servers"][server] = measure_server(server, args, files)
    show(results, args)
    targets = big_targets(results) + small_targets(results) + background_targets(results)
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
