"""The main table: files by every server and contender, side by side.

For each server the contenders are started together, and measured in turn within
each repeat, nginx and the bare socket.sendfile loop ("floor") among them. Prints
medians (least..most) and the ratios that are to be reached; a ratio is that of two
neighbours of one repeat. Exit status 0 whether they are reached or not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
from typing import Any

from clients import ClientError, run_client
from report import (
    Target,
    finish,
    known,
    machine,
    machine_text,
    number,
    progress,
    ratios,
    run,
    spread,
    table,
)
from servers import (
    CONTENDERS,
    GB,
    GIB,
    HERE,
    HOST,
    KIB,
    MIB,
    REFERENCES,
    SERVERS,
    Running,
    ServerError,
    make_files,
    missing,
    some_of,
)

SMALL = (4 * KIB, 100 * KIB, 10 * MIB)
CONNECTIONS = (1, 16)
#: By lines a GB takes 40 s of CPU: it gets a smaller large file, and no 10 MiB one.
BY_LINES = "bare"
CORES = sorted(os.sched_getaffinity(0))
#: Without a wrapper of their own.
NO_WRAPPER = ("cheroot", "gevent", "eventlet", "werkzeug")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])

    add = parser.add_argument
    add("--servers", type=some_of(SERVERS), default=list(SERVERS), metavar="A,B")
    add("--contenders", type=some_of(CONTENDERS), default=list(CONTENDERS), metavar="A,B")
    add("--repeats", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--size", type=int, default=GIB, metavar="BYTES", help="of the large file (1 GiB)")
    by_lines = "the same for the contender that is iterated by lines (64 MiB)"
    add("--lines-size", type=int, default=64 * MIB, metavar="BYTES", help=by_lines)
    add("--seconds", type=int, default=2, metavar="S", help="of each run of wrk (2)")
    add("--only", choices=("big", "small"), help="only the large file, or only the small ones")
    add("--pin", action="store_true", help="servers on one core, clients on the others")
    add("--quick", action="store_true", help="small sizes and 2 repeats, to try it out")
    add("--json", metavar="FILE", help="write all values there")
    add("--plots", metavar="DIR", help="draw SVG files there (needs matplotlib)")
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.size, args.lines_size, args.seconds = 2, 64 * MIB, 2 * MIB, 1
    args.lines_size = min(args.size, args.lines_size)
    if args.pin and len(CORES) < 2:
        parser.error("--pin needs two cores")
    return args


def start_all(
    stack: contextlib.ExitStack, server: str, contenders: list[str], files: str, pin: bool
) -> dict[str, Running]:
    """Those of the contenders that come up, warm: the first request imports things."""
    running = {}
    if pin:  # Processes inherit it.
        os.sched_setaffinity(0, CORES[:1])
    for contender in contenders:
        reference = contender in REFERENCES
        try:
            one = Running(contender if reference else server, contender, files)
            stack.enter_context(one)
            run_client("receive", one.port, f"/{SMALL[0]}", count=20)
            running[contender] = one
        except (ServerError, ClientError) as error:
            progress(f"{server}, {contender}: {error}")
    if pin:
        os.sched_setaffinity(0, CORES[1:])
    return running


def measure_big(running: Running, size: int) -> dict[str, float]:
    """One client that receives a file."""
    before = running.cpu()
    seen = run_client("receive", running.port, f"/{size}")
    cpu = running.cpu() - before
    if seen["bytes"] != size:
        raise ClientError(f"{seen['bytes']} bytes, not {size}")
    return {
        "cpu_s_per_gb": cpu / size * GB,
        # On the loopback interface one side may do the kernel's work for the other:
        # whose it is depends on who runs where, the sum does not.
        "client_cpu_s_per_gb": seen["cpu"] / size * GB,
        "gb_per_s": size / seen["seconds"] / GB,
        "memory_mib": running.memory(),
    }


def measure_small(running: Running, size: int, connections: int, seconds: int) -> dict[str, float]:
    """As many requests for one file as wrk can make."""
    url = f"http://{HOST}:{running.port}/{size}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", f"{HERE}/wrk.lua", url]
    before = running.cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    cpu = running.cpu() - before
    try:
        seen = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        raise ClientError(f"wrk failed: {done.stdout[-200:]}{done.stderr[-200:]}") from None
    if seen["errors"] or not seen["requests"]:
        raise ClientError(f"{seen['errors']} errors, {seen['requests']} requests")
    return {
        "requests_per_s": seen["requests"] / seen["seconds"],
        "cpu_us": cpu / seen["requests"] * 1e6,
        "p99_ms": seen["p99_ms"],
    }


def in_turn(
    label: str, repeats: int, contenders: dict[str, Running], measure: Any
) -> dict[str, dict[str, list[float | None]]]:
    """Values by contender and figure. One that fails has None in that repeat."""
    values: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for repeat in range(1, repeats + 1):
        # There and back again, so that it does not matter after whom one comes.
        for name, running in list(contenders.items())[:: 1 if repeat % 2 else -1]:
            try:
                got = measure(name, running)
                shown = ", ".join(f"{key} {number(value)}" for key, value in got.items())
            except (ClientError, OSError, subprocess.TimeoutExpired) as error:
                got, shown = {}, f"failed: {error}"
            values[name].append(got)
            progress(f"{label} {repeat}/{repeats} {name}: {shown}")
    result = {}
    for name, got in values.items():
        figures = dict.fromkeys(figure for one in got for figure in one)
        result[name] = {figure: [one.get(figure) for one in got] for figure in figures}
    return result


def measure_server(server: str, args: argparse.Namespace, files: str) -> dict[str, Any]:
    contenders = [name for name in args.contenders if not missing(name)]
    result: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        running = start_all(stack, server, contenders, files, args.pin)
        if args.only != "small":
            result["big"] = in_turn(
                f"{server}, large file",
                args.repeats,
                running,
                lambda name, one: measure_big(one, big_size(name, args)),
            )
        if args.only != "big":
            result["small"] = {
                label(size, connections): in_turn(
                    f"{server}, {label(size, connections)}",
                    args.repeats,
                    {n: one for n, one in running.items() if n != BY_LINES or size < MIB},
                    lambda name, one, size=size, connections=connections: measure_small(
                        one, size, connections, args.seconds
                    ),
                )
                for size in SMALL
                for connections in CONNECTIONS
            }
    return result


def big_size(contender: str, args: argparse.Namespace) -> int:
    return args.lines_size if contender == BY_LINES else args.size


def label(size: int, connections: int) -> str:
    shown = f"{size // KIB} KiB" if size < MIB else f"{size // MIB} MiB"
    return f"{shown} x{connections}"


def show(results: dict[str, Any], args: argparse.Namespace) -> None:
    big, small = [], []
    for server, result in results["servers"].items():
        for contender, figures in result.get("big", {}).items():
            names = ("cpu_s_per_gb", "client_cpu_s_per_gb", "gb_per_s")
            columns = [figures.get(name, []) for name in names]
            # The last one: after all downloads.
            memory = (known(figures.get("memory_mib", [])) or [None])[-1]
            big.append([server, contender, *map(spread, columns), number(memory)])
        for case, contenders in result.get("small", {}).items():
            for contender, figures in contenders.items():
                names = ("requests_per_s", "cpu_us", "p99_ms")
                columns = [figures.get(name, []) for name in names]
                small.append([server, case, contender, *map(spread, columns)])
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


def targets(results: dict[str, Any]) -> list[Target]:
    """The ratios to reach, as far as both sides of them were measured."""
    found = []

    def compare(
        line: str, server: str, case: str, figure: str, upper: str, lower: str, **wanted: float
    ) -> None:
        result = results["servers"][server]
        figures = result.get("big", {}) if case == "big" else result.get("small", {}).get(case, {})
        if upper in figures and lower in figures:
            values = ratios(*(figures[name].get(figure, []) for name in (upper, lower)))
            what = f"{server}, {case}: {figure}, {upper} / {lower}"
            found.append(Target(line, what, values, **wanted))

    cpu, throughput = "cpu_s_per_gb", "gb_per_s"
    for server in results["servers"]:
        much = 40 if server in ("waitress", "cheroot") else 15
        compare("1", server, "big", cpu, "bare", "ours", at_least=much)
    for server in results["servers"]:
        compare("2", server, "big", cpu, "ours", "by_hand", at_most=1.05)
        compare("2", server, "big", throughput, "ours", "by_hand", at_least=0.95)
        if server in NO_WRAPPER:
            compare("2", server, "big", cpu, "ours", "loop64", at_most=0.8)
    for server in results["servers"]:
        if server == "waitress":
            compare("3", server, "big", throughput, "ours", "nginx", at_least=1.0)
            compare("3", server, "big", throughput, "ours", "floor", at_least=0.85)
    for server in results["servers"]:
        for size in SMALL[:2]:
            for connections in CONNECTIONS:
                case = label(size, connections)
                for own in ("ours", "plain"):
                    compare("4", server, case, "requests_per_s", own, "by_hand", at_least=0.9)
                if connections == 1:
                    # No request waits for a delayed acknowledgement of 40 ms.
                    answered = results["servers"][server].get("small", {}).get(case, {})
                    if figures := answered.get("ours"):
                        what = f"{server}, {case}: ms per request, ours (a stall is 40)"
                        values = [1000 / rate for rate in known(figures.get("requests_per_s", []))]
                        found.append(Target("4", what, values, at_most=10))
        if server == "gevent":
            case = label(SMALL[0], 1)
            compare("4", server, case, "requests_per_s", "ours", "bare", at_least=100)
    return found


def main() -> None:
    args = arguments()
    if args.only != "big" and not shutil.which("wrk"):
        progress("no small files: wrk is not installed")
        args.only = "big"
    facts = machine([*SERVERS.values(), "whitenoise"])
    print(machine_text(facts), flush=True)
    results: dict[str, Any] = {"machine": facts, "options": vars(args), "servers": {}}
    with make_files(sorted({args.size, args.lines_size, *SMALL})) as files:
        for server in args.servers:
            if module := missing(server):
                progress(f"{server} is left out: {module} is not installed")
                continue
            results["servers"][server] = measure_server(server, args, files)
    show(results, args)
    results["options"] = {k: v for k, v in vars(args).items() if k not in ("json", "plots")}
    finish(results, targets(results), args.json)
    if args.plots:
        os.makedirs(args.plots, exist_ok=True)
        try:
            from plots import draw
        except ImportError as error:
            progress(f"no plots: {error}")
        else:
            draw(results, args.plots)


if __name__ == "__main__":
    run(main)
