"""nginx in front of a Python server: files through it, or left to it by X-Accel-Redirect.

By the configuration of ``examples/``. "direct" is the same server without nginx.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from typing import Any

from report import Target, finish, machine, machine_text, progress, ratios, run, spread, table
from run import label, measure_big, measure_small
from servers import GIB, HERE, KIB, MIB, Running, free_port, make_files

sys.path.insert(0, os.path.join(os.path.dirname(HERE), "examples"))
import offload

#: By name: the application's contender, and whether nginx is in front.
WAYS = {"direct": ("ours", False), "proxied": ("ours", True), "offloaded": ("offload", True)}
SIZES = (4 * KIB, 100 * KIB, 10 * MIB)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--servers", default="waitress,gunicorn_gthread", metavar="A,B")
    add("--connections", type=int, default=16, metavar="N", help="of wrk (16)")
    add("--seconds", type=int, default=2, metavar="S", help="of each run of wrk (2)")
    add("--size", type=int, default=GIB, metavar="BYTES", help="of the large file (1 GiB)")
    add("--repeats", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--quick", action="store_true", help="64 MiB, 2 repeats of 1 s, to try it out")
    add("--json", metavar="FILE", help="write all values there")
    args = parser.parse_args()
    if args.quick:
        args.size, args.seconds, args.repeats = 64 * MIB, 1, 2
    return args


class Front(Running):
    """nginx in front of an application on port."""

    def __init__(self, files: str, port: int) -> None:
        self.scratch = tempfile.mkdtemp(prefix="benchmark-")
        self.log = os.path.join(self.scratch, "log")
        self.port = free_port()
        command = offload.command("nginx", files, self.port, [port], self.scratch)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.wait_until_listening()


class Way:
    """A server, or one with nginx in front, to be asked like one."""

    def __init__(self, server: Running, front: Front | None) -> None:
        self.server = server
        self.port = server.port if front is None else front.port
        self.cpu, self.memory = server.cpu, server.memory


def measure(server: str, files: str, args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, dict[str, dict[str, list[float]]]] = {}
    with contextlib.ExitStack() as stack:
        ways = {}
        for name, (contender, through) in WAYS.items():
            running = stack.enter_context(Running(server, contender, files))
            front = stack.enter_context(Front(files, running.port)) if through else None
            ways[name] = Way(running, front)
        for repeat in range(args.repeats):
            for name, way in list(ways.items())[:: 1 if repeat % 2 else -1]:
                cases = {label(args.size, 1): measure_big(way, args.size)}
                for size in SIZES:
                    got = measure_small(way, size, args.connections, args.seconds)
                    cases[label(size, args.connections)] = got
                for case, figures in cases.items():
                    for figure, value in figures.items():
                        at = result.setdefault(case, {}).setdefault(name, {})
                        at.setdefault(figure, []).append(value)
                progress(f"{server} {repeat + 1}/{args.repeats} {name}")
    return result


def main() -> None:
    args = arguments()
    servers = args.servers.split(",")
    facts = machine(servers)
    print(machine_text(facts))
    values, targets = {}, []
    with make_files([*SIZES, args.size]) as files:
        os.chmod(files, 0o755)
        for server in servers:
            values[server] = measure(server, files, args)
    small, big = [], []
    for server, cases in values.items():
        for case, by_way in cases.items():
            for name, got in by_way.items():
                if "requests_per_s" in got:
                    shown = (got["requests_per_s"], got["cpu_us"], got["p99_ms"])
                    small.append([server, case, name, *map(spread, shown)])
                else:
                    shown = (got["gb_per_s"], got["cpu_s_per_gb"])
                    big.append([server, case, name, *map(spread, shown)])
            offloaded, proxied = by_way["offloaded"], by_way["proxied"]
            for figure in ("requests_per_s", "cpu_us", "gb_per_s", "cpu_s_per_gb"):
                if figure in offloaded:
                    found = ratios(offloaded[figure], proxied[figure])
                    what = f"{server}, {case}: {figure}, offloaded / proxied"
                    targets.append(Target("", what, found))
    print("\nFiles through nginx; CPU time of the Python server alone\n")
    print(table(("server", "file", "", "requests/s", "CPU us/request", "p99 ms"), small))
    print()
    print(table(("server", "file", "", "GB/s", "CPU s/GB"), big))
    finish({"machine": facts, "values": values}, targets, args.json)


if __name__ == "__main__":
    run(main)
