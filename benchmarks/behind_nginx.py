"""nginx in front of a Python server: files through it, or left to it by X-Accel-Redirect.

nginx has the configuration of ``examples/``. "direct" is the same server without nginx.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import measure
from report import Parser, Target, begin, finish, ratios, run, some_of, spread, table
from servers import (
    GIB,
    KIB,
    MIB,
    ROOT,
    SERVERS,
    Measured,
    free_port,
    make_files,
    measured,
    module,
    running,
    scratch,
)

sys.path.insert(0, os.path.join(ROOT, "examples"))
import offload

#: By name: the application's contender, and whether nginx is in front.
WAYS = {"direct": ("ours", False), "proxied": ("ours", True), "offloaded": ("offload", True)}
SIZES = (4 * KIB, 100 * KIB, 10 * MIB)


@contextlib.contextmanager
def fronted(server: Measured, files: str) -> Iterator[Measured]:
    """A server with nginx in front: nginx has the port, the server the CPU time."""
    with scratch() as directory:
        port = free_port()
        command = offload.command("nginx", files, port, [server.port], directory)
        with measured(command, port, Path(directory, "log"), {}):
            yield replace(server, port=port)


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    both = ["waitress", "gunicorn_gthread"]
    add("--servers", type=some_of(SERVERS), default=both, metavar="A,B", help=",".join(both))
    add("--connections", type=int, default=16, metavar="N", help="of wrk (16)")
    add("--seconds", type=int, default=2, metavar="S", help="of each run of wrk (2)")
    add("--size", type=int, default=GIB, metavar="BYTES", help="of the large file (1 GiB)")
    args = parser.parse(size=64 * MIB, seconds=1, repeats=2)
    results = begin(args, map(module, args.servers))
    values = results["values"] = {}
    with make_files([*SIZES, args.size]) as files:
        os.chmod(files, 0o755)  # nginx's workers are not root.
        for server in args.servers:
            with contextlib.ExitStack() as stack:
                ways = {}
                for name, (contender, through) in WAYS.items():
                    way = stack.enter_context(running(server, contender, files))
                    ways[name] = stack.enter_context(fronted(way, files)) if through else way
                cases = {measure.label(args.size, 1): partial(measure.big, size=args.size)}
                for size in SIZES:
                    cases[measure.label(size, args.connections)] = partial(
                        measure.small,
                        size=size,
                        connections=args.connections,
                        seconds=args.seconds,
                    )
                values[server] = {
                    case: measure.in_turn(f"{server}, {case}", args.repeats, ways, one)
                    for case, one in cases.items()
                }
    big, small, targets = [], [], []
    for server, cases in values.items():
        for case, got in cases.items():
            for name, figures in got.items():
                row = [server, case, name]
                if "requests_per_s" in figures:
                    shown = ("requests_per_s", "cpu_us", "p99_ms")
                    small.append(row + [spread(figures[figure]) for figure in shown])
                else:
                    shown = ("gb_per_s", "cpu_s_per_gb")
                    big.append(row + [spread(figures[figure]) for figure in shown])
            for figure in ("requests_per_s", "cpu_us", "gb_per_s", "cpu_s_per_gb"):
                if figure in got["offloaded"]:
                    found = ratios(got["offloaded"][figure], got["proxied"][figure])
                    what = f"{server}, {case}: {figure}, offloaded / proxied"
                    targets.append(Target("", what, found))
    print("\nFiles through nginx; CPU time of the Python server alone\n")
    print(table(("server", "file", "", "requests/s", "CPU us/request", "p99 ms"), small))
    print()
    print(table(("server", "file", "", "GB/s", "CPU s/GB"), big))
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
