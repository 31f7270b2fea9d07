"""The main table: files by every server and contender, side by side.

For each server the contenders are started together, and measured in turn within
each repeat, nginx and the bare socket.sendfile loop ("floor") among them. Prints
medians (least..most) and the ratios to reach; a ratio is that of two neighbours of
one repeat. Exit status 0 whether they are reached or not.

The other programs, which have a --help of their own:

  benchmarks/slow_clients.py  clients that read slowly or not at all; slow disks
  benchmarks/overhead.py      what is added to a response that is no file, in-process
  benchmarks/small_file.py    a file of 4 KiB, in-process
  benchmarks/linear.py        cost and memory by size, 1 MiB to 10 GiB
  benchmarks/read_ahead.py    sources and clients that both take their time, in-process
  benchmarks/plots.py         draw the JSON of this program or of slow_clients.py
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from functools import partial
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
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
    GIB,
    KIB,
    MIB,
    REFERENCES,
    SERVERS,
    UNIX,
    Measured,
    Network,
    ServerError,
    installed,
    make_files,
    module,
    network,
    running,
)

SHORT = ("ours", "by_hand", *REFERENCES)
#: In the long run.
LONG = ("bare", "by_hand", "loop64", "ours", "plain", "whitenoise", *REFERENCES)
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
CORES = sorted(os.sched_getaffinity(0))
MAIN = ("waitress", "gunicorn_sync", "gunicorn_gthread", "cheroot")
#: The ratios to reach, by figure: what is compared, at which servers (none: all), and the limit.
RATIOS: dict[str, list[tuple[str, str, tuple[str, ...], dict[str, float]]]] = {
    "cpu_s_per_gb": [
        ("bare", "ours", (), {"at_least": 15}),
        ("ours", "by_hand", (), {"at_most": 1.05}),
        ("ours", "nginx", MAIN, {"at_most": 1.05}),
        ("ours", "worker", (), {"at_most": 1.05}),
        ("offload", "ours", (), {}),
    ],
    "all_cpu_s_per_gb": [("ours", "by_hand", (), {"at_most": 1.05})],
    "gb_per_s": [
        ("ours", "by_hand", (), {"at_least": 0.95}),
        ("ours", "nginx", MAIN, {"at_least": 0.95}),
        ("ours", "worker", (), {"at_least": 0.95}),
        ("offload", "ours", (), {}),
    ],
    "requests_per_s": [
        ("ours", "by_hand", (), {"at_least": 0.95}),
        ("plain", "by_hand", (), {"at_least": 0.95}),
        ("ours", "worker", (), {"at_least": 0.95}),
        ("offload", "ours", (), {}),
    ],
    "cpu_us": [
        ("ours", "worker", (), {"at_most": 1.05}),
        ("offload", "ours", (), {}),
    ],
}


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--long", action="store_true", help="all contenders, 1 GiB, all small files: 90 minutes")
    nine = [server for server in SERVERS if server != "granian"]
    add("--servers", type=some_of(SERVERS), default=nine, metavar="A,B", help=",".join(SERVERS))
    some = some_of(CONTENDERS)
    add("--contenders", type=some, default=SHORT, metavar="A,B", help=",".join(CONTENDERS))
    ways = some_of(RECEIVERS)
    add("--receiver", type=ways, default=["loopback"], metavar="A,B", help=",".join(RECEIVERS))
    sizes = "ours also with calls of os.sendfile of these sizes alone"
    add("--call-size", type=sizes_of, default=[], metavar="BYTES,BYTES", help=sizes)
    add("--size", type=int, default=GIB // 4, metavar="BYTES", help="of the large file (256 MiB)")
    add("--seconds", type=int, default=1, metavar="S", help="of each run of wrk (1)")
    add("--only", choices=("big", "small"), help="only the large file, or only the small ones")
    add("--pin", action="store_true", help="servers on one core, clients on the others")
    add("--plots", metavar="DIR", help="draw SVG files there (needs matplotlib)")
    args = parser.parse(size=64 * MIB, repeats=2)
    if args.long:
        args.servers = list(SERVERS) if args.servers == nine else args.servers
        args.contenders = LONG if args.contenders == SHORT else args.contenders
        args.size = GIB
    # Those that are large on their own get less: 12 at once, or one by lines.
    args.part = args.size // 16
    args.contenders = [*args.contenders, *(f"ours, {size}" for size in args.call_size)]
    # The shorter run has two of the cases.
    args.cases = SMALL_CASES if args.long or args.only == "small" else SMALL_CASES[1:3]
    if args.pin and len(CORES) < 2:
        parser.error("--pin needs two cores")
    if args.only != "big" and not shutil.which("wrk"):
        progress("no small files: wrk is not installed")
        args.only = "big"
    return args


def sizes_of(text: str) -> list[int]:
    return list(map(int, text.split(",")))


def start_all(
    stack: contextlib.ExitStack, server: str, args: argparse.Namespace, files: str, net: Network
) -> dict[str, Measured]:
    """Those of the contenders that come up, warm: the first request imports things."""
    started = {}
    if args.pin:  # Processes inherit it.
        os.sched_setaffinity(0, CORES[:1])
    for contender in args.contenders:
        name = contender if contender in REFERENCES else server
        if not installed(name) or (contender == "offload" and net.front is None):
            continue
        try:
            one = stack.enter_context(running(name, contender, files, net))
            run_client("receive", one.address, f"/{args.part}", count=3)
            started[contender] = one
        except (ServerError, ClientError) as error:
            progress(f"{server}, {contender}: {error}")
    if args.pin:
        os.sched_setaffinity(0, CORES[1:])
    return started


def measure_server(
    server: str, receiver: str, args: argparse.Namespace, files: str
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(network(receiver))
        started = start_all(stack, server, args, files, net)
        title, options = f"{server}, {receiver}", RECEIVERS[receiver]
        if args.only != "small":
            sized = {
                name: (one, args.part if name == BY_LINES or receiver == "windows" else args.size)
                for name, one in started.items()
            }
            result["big"] = measure.in_turn(
                title, args.repeats, sized, lambda pair: measure.big(*pair, **options)
            )
        result["small"] = {}
        wrk = args.only != "big" and receiver in ("loopback", "unix-nginx", "veth")
        for size, connections in args.cases if wrk else []:
            case = measure.label(size, connections)
            result["small"][case] = measure.in_turn(
                f"{title}, {case}",
                args.repeats,
                {
                    name: one
                    for name, one in started.items()
                    if name != "floor" and (name != BY_LINES or size < MIB)
                },
                partial(measure.small, size=size, connections=connections, seconds=args.seconds),
            )
    return result


def show(results: dict[str, Any], args: argparse.Namespace) -> None:
    big, small = [], []
    for server, result in results["servers"].items():
        for contender, got in result.get("big", {}).items():
            figures = ("cpu_s_per_gb", "client_cpu_s_per_gb", "all_cpu_s_per_gb", "gb_per_s")
            # Memory is the last value: after all downloads.
            memory = number((known(got["memory_mib"]) or [None])[-1])
            big.append([server, contender, *(spread(got[name]) for name in figures), memory])
        for case, contenders in result["small"].items():
            for contender, got in contenders.items():
                figures = ("requests_per_s", "cpu_us", "p99_ms")
                small.append([server, case, contender, *(spread(got[name]) for name in figures)])
    if big:
        print(
            f"\nOne client, one file of {args.size / MIB:,.0f} MiB"
            f" ({args.part / MIB:,.0f} MiB for {BY_LINES}, which is iterated by lines, and for"
            f" each of 12 small windows);\nmedians of {args.repeats} (least..most);"
            " GB = 10^9 bytes; all: of server, client and nginx in front\n"
        )
        head = ("server", "contender", "CPU s/GB", "client's", "all", "GB/s", "MiB resident")
        print(table(head, big))
    if small:
        print(
            f"\nSmall files, wrk with 1 or 16 connections for {args.seconds} s"
            f" (no 10 MiB for {BY_LINES});"
            f" medians of {args.repeats} (least..most)\n"
        )
        head = ("server", "file", "contender", "requests/s", "CPU us/request", "p99 ms")
        print(table(head, small))


def targets(server: str, result: dict[str, Any]) -> list[Target]:
    """The ratios of the contenders that were measured."""
    found = []
    for case, got in {"big": result.get("big", {}), **result["small"]}.items():
        for figure, wanted in RATIOS.items():
            for upper, lower, servers, limits in wanted:
                values = ratios(*(got.get(name, {}).get(figure, []) for name in (upper, lower)))
                if values and (not servers or server.partition(",")[0] in servers):
                    what = f"{server}, {case}: {figure}, {upper} / {lower}"
                    found.append(Target("", what, values, **limits))
    return found


def main() -> None:
    args = arguments()
    results = begin(args, [*map(module, SERVERS), "whitenoise"])
    results["servers"] = {}
    sizes = {args.size, args.part, *(size for size, _ in args.cases)}
    with make_files(sorted(sizes)) as files:
        os.chmod(files, 0o755)
        for receiver in args.receiver:
            for server in args.servers:
                if not installed(server):
                    progress(f"{server} is left out: {module(server)} is not installed")
                elif not receiver.startswith("unix") or server in UNIX:
                    name = server if receiver == "loopback" else f"{server}, {receiver}"
                    try:
                        results["servers"][name] = measure_server(server, receiver, args, files)
                    except (ServerError, OSError) as error:
                        progress(f"{name} is left out: {error}")
    show(results, args)
    found = [target for name, one in results["servers"].items() for target in targets(name, one)]
    finish(args, results, found)


if __name__ == "__main__":
    run(main)
