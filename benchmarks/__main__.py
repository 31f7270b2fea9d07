"""The main table: files by every server and contender, side by side, in ten minutes.

For each server the contenders are started together, and measured in turn within each repeat,
nginx and the bare socket.sendfile loop ("floor") among them. It prints medians (least..most) and
the ratios to reach; a ratio is that of two neighbours of one repeat. The exit status is 0
whether they are reached or not.

The other programs, which have a --help of their own:

  benchmarks/slow_clients.py  clients that read slowly or not at all; slow disks
  benchmarks/overhead.py      what is added to a response that is no file, in-process
  benchmarks/small_file.py    a file of 4 KiB, in-process
  benchmarks/read_ahead.py    sources and clients that both take their time, in-process
  benchmarks/object_stores.py files of S3 and of web servers, by six libraries
  benchmarks/plots.py         draws the JSON of this program and of slow_clients.py
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import sys
from functools import partial
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import measure
import servers
from clients import ClientError, run_client
from report import Parser, Target, begin, finish, progress, ratios, run, some_of
from servers import GIB, KIB, MIB, REFERENCES, SERVERS, Measured, ServerError, installed

SHORT = ("ours", "by_hand", *REFERENCES)
#: In the long run.
LONG = ("bare", "by_hand", "ours", "plain", "whitenoise", *REFERENCES)
#: Only if asked for: ours without the background, and ours that leaves files to nginx.
CONTENDERS = (*LONG, "worker", "offload")
#: What the client does, by the way to receive.
RECEIVERS: dict[str, dict[str, object]] = {
    "loopback": {},
    "discard": {"discard": True},
    "windows": {"parallel": 12, "receive_buffer": 64 * KIB},
    "unix": {},
    "unix-nginx": {},
    "veth": {},
}
SMALL_CASES = [(size, number) for size in (4 * KIB, 100 * KIB, 10 * MIB) for number in (1, 16)]
#: By lines a GB takes 40 s of CPU. So it gets a smaller large file, and none of 10 MiB.
BY_LINES = "bare"
#: The ratios to reach. That to nginx is for one large file on some servers.
RATIOS = [(own, "by_hand") for own in ("ours", "plain")]
RATIOS += [("ours", "nginx"), ("ours", "worker"), ("offload", "ours")]
BESIDE_NGINX = ("waitress", "gunicorn_sync", "gunicorn_gthread", "cheroot")
COST, SPEED = {"at_most": 1.05}, {"at_least": 0.95}
BIG = {"cpu_s_per_gb": COST, "all_cpu_s_per_gb": COST, "gb_per_s": SPEED}
SMALL = {"requests_per_s": SPEED, "cpu_us": COST}


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--long", action="store_true", help="all contenders, 1 GiB, all small files: an hour")
    add("--servers", type=some_of(SERVERS), metavar="A,B", help=",".join(SERVERS))
    add("--contenders", type=some_of(CONTENDERS), metavar="A,B", help=",".join(CONTENDERS))
    ways = some_of(RECEIVERS)
    add("--receiver", type=ways, default=["loopback"], metavar="A,B", help=",".join(RECEIVERS))
    add("--call-size", type=numbers, default=[], metavar="A,B", help="ours also by such calls")
    add("--size", type=numbers, metavar="BYTES,BYTES", help="of the large file (256 MiB)")
    add("--seconds", type=int, default=1, metavar="S", help="of each run of wrk (1)")
    add("--only", choices=("big", "small"), help="only the large file, or only the small ones")
    add("--cold", action="store_true", help="the large file is not in memory")
    add("--plots", metavar="DIR", help="draw SVG files there (needs matplotlib)")
    args = parser.parse(size=[64 * MIB], repeats=2)
    args.servers = args.servers or [one for one in SERVERS if args.long or one != "granian"]
    args.contenders = [*(args.contenders or (LONG if args.long else SHORT))]
    args.contenders += [f"ours, {size}" for size in args.call_size]
    args.size = args.size or [GIB if args.long else 256 * MIB]
    # The shorter run has two of the cases.
    args.cases = SMALL_CASES if args.long or args.only == "small" else SMALL_CASES[1:3]
    if args.only != "big" and not shutil.which("wrk"):
        progress("no small files: wrk is not installed")
        args.only = "big"
    return args


def numbers(text: str) -> list[int]:
    return list(map(int, text.split(",")))


def part(size: int) -> int:
    """The size for those that would take too long: by lines, and 12 at once."""
    return max(MIB, size // 16)


def start_all(
    stack: contextlib.ExitStack, server: str, receiver: str, contenders: list[str], files: str
) -> dict[str, Measured]:
    """Those of the contenders that come up, warm: the first request imports things."""
    started = {}
    net = stack.enter_context(servers.network(receiver))
    for contender in contenders:
        name = contender if contender in REFERENCES else server
        if not installed(name) or (contender == "offload" and net.front is None):
            continue
        try:
            one = stack.enter_context(servers.running(name, contender, files, net))
            run_client("receive", one.address, f"/{MIB}", count=10)
            started[contender] = one
        except (ServerError, ClientError) as error:
            progress(f"{server}, {contender}: {error}")
    return started


def measure_server(
    server: str, receiver: str, args: argparse.Namespace, files: str
) -> dict[str, dict[str, Any]]:
    """What is found for the large files, and for the small ones, by title."""
    found: dict[str, dict[str, Any]] = {}
    where = server if receiver == "loopback" else f"{server}, {receiver}"
    with contextlib.ExitStack() as stack:
        started = start_all(stack, server, receiver, args.contenders, files)
        for size in args.size if args.only != "small" else []:
            title = where if len(args.size) == 1 else f"{where}, {size / MIB:,.0f} MiB"
            cold = f"{files}/{size}" if args.cold else None
            options = {"count": max(1, 256 * MIB // size), "cold": cold, **RECEIVERS[receiver]}
            less = list(started) if receiver == "windows" else [BY_LINES]
            big = {
                name: partial(measure.big, one, part(size) if name in less else size, **options)
                for name, one in started.items()
            }
            found[title] = {"big": measure.in_turn(title, args.repeats, big, lambda one: one())}
        if args.only == "big" or receiver not in ("loopback", "unix-nginx", "veth"):
            return found
        small = found.setdefault(where, {})["small"] = {}
        for size, connections in args.cases:
            case = measure.label(size, connections)
            without = ["floor", BY_LINES] if size > MIB else ["floor"]
            few = {name: one for name, one in started.items() if name not in without}
            one = partial(measure.small, size=size, connections=connections, seconds=args.seconds)
            small[case] = measure.in_turn(f"{where}, {case}", args.repeats, few, one)
    return found


def show(results: dict[str, Any], args: argparse.Namespace) -> None:
    found = results["servers"].items()
    big = {(server,): one["big"] for server, one in found if "big" in one}
    small = {
        (name, case): got for name, one in found for case, got in one.get("small", {}).items()
    }
    if big:
        sizes = ", ".join(f"{size / MIB:,.0f}" for size in args.size)
        measure.show(
            f"One client, one file of {sizes} MiB (a 16th of it for {BY_LINES}, which is iterated"
            " by lines,\nand for each of 12 small windows); GB = 10^9 bytes;"
            " all: of server, client and nginx in front",
            args,
            ("server", "contender", "CPU s/GB", "client's", "all", "GB/s", "MiB resident"),
            big,
            ("cpu_s_per_gb", "client_cpu_s_per_gb", "all_cpu_s_per_gb", "gb_per_s", "memory_mib"),
        )
    if small:
        measure.show(
            f"Small files, wrk with 1 or 16 connections for {args.seconds} s (no 10 MiB for"
            f" {BY_LINES})",
            args,
            ("server", "file", "contender", "requests/s", "CPU us/request", "p99 ms"),
            small,
            ("requests_per_s", "cpu_us", "p99_ms"),
        )


def targets(server: str, result: dict[str, Any]) -> list[Target]:
    """The ratios of the contenders that were measured."""
    found = []
    for case, got in {"big": result.get("big", {}), **result.get("small", {})}.items():
        for (upper, lower), (figure, limits) in itertools.product(
            RATIOS, (BIG if case == "big" else SMALL).items()
        ):
            if lower == "nginx" and (case != "big" or server.split(",")[0] not in BESIDE_NGINX):
                continue
            values = ratios(*(got.get(name, {}).get(figure, []) for name in (upper, lower)))
            if values:
                what = f"{server}, {case}: {figure}, {upper} / {lower}"
                found.append(Target("", what, values, **limits))
    return found


def main() -> None:
    args = arguments()
    results = begin(args, [*map(servers.module, SERVERS), "whitenoise"])
    results["servers"] = {}
    with servers.make_files(
        [MIB, *args.size, *map(part, args.size), *(size for size, _ in args.cases)]
    ) as files:
        for receiver, server in itertools.product(args.receiver, args.servers):
            if not installed(server):
                progress(f"{server} is left out: {servers.module(server)} is not installed")
            elif not receiver.startswith("unix") or server in servers.UNIX:
                try:
                    results["servers"] |= measure_server(server, receiver, args, files)
                except (ServerError, OSError) as error:
                    progress(f"{server}, {receiver} is left out: {error}")
    show(results, args)
    found = [target for name, one in results["servers"].items() for target in targets(name, one)]
    finish(args, results, found)


if __name__ == "__main__":
    run(main)
