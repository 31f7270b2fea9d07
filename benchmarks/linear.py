"""Does the cost grow linearly, and memory not at all? Sparse files by ours on waitress.

Small files are asked for often enough on one connection that each value is of
about the same number of bytes; the sizes are measured in turn.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from clients import run_client
from report import (
    Target,
    finish,
    known,
    machine,
    machine_text,
    median,
    number,
    progress,
    run,
    spread,
    table,
)
from servers import GB, GIB, MIB, SERVERS, Running, make_files

SIZES = (MIB, 10 * MIB, 100 * MIB, GIB, 10 * GIB)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--server", choices=SERVERS, default="waitress", help="default: %(default)s")
    add("--largest", type=int, default=SIZES[-1], metavar="BYTES", help="default: 10 GiB")
    add("--bytes", type=int, default=GIB, metavar="BYTES", help="of each value, about (1 GiB)")
    add("--repeats", type=int, default=5, metavar="N", help="default: %(default)s")
    add("--quick", action="store_true", help="up to 100 MiB and 2 repeats, to try it out")
    add("--json", metavar="FILE", help="write all values there")
    args = parser.parse_args()
    if args.quick:
        args.largest, args.bytes, args.repeats = 100 * MIB, 200 * MIB, 2
    return args


def measure(running: Running, size: int, count: int) -> dict[str, float]:
    before = running.cpu()
    seen = run_client("receive", running.port, f"/{size}", count=count)
    return {
        "cpu_s_per_gb": (running.cpu() - before) / seen["bytes"] * GB,
        "gb_per_s": seen["bytes"] / seen["seconds"] / GB,
        "memory_mib": running.memory(),
    }


def main() -> None:
    args = arguments()
    facts = machine([args.server])
    print(machine_text(facts), flush=True)
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if args.largest > available:
        # Not a reason to leave it out: whoever has no page cache for it is told.
        progress("there is not enough free memory to keep the largest file in the page cache")
    values: dict[str, dict[str, list[float]]] = {}
    sizes = [size for size in SIZES if size <= args.largest]
    with make_files(sizes, sparse=True) as files, Running(args.server, "ours", files) as running:
        measure(running, sizes[0], 10)  # Warm.
        for repeat in range(args.repeats):
            for size in sizes:
                got = measure(running, size, max(1, args.bytes // size))
                for figure, value in got.items():
                    of_size = values.setdefault(str(size), {})
                    of_size.setdefault(figure, []).append(value)
                shown = ", ".join(f"{name} {number(value)}" for name, value in got.items())
                progress(f"{size / MIB:,.0f} MiB {repeat + 1}/{args.repeats}: {shown}")
    print(f"\n{args.server}, sparse files, ours; medians of {args.repeats} (least..most)\n")
    rows = [
        [f"{int(size) / MIB:,.0f} MiB", *map(spread, got.values())] for size, got in values.items()
    ]
    print(table(("file", "CPU s/GB", "GB/s", "MiB resident"), rows))
    targets = []
    # Above 10 MiB. Until then a response is in its beginning, when the client has yet to
    # wake up, and what it will take lies in the socket's queue.
    costs = {size: median(values[str(size)]["cpu_s_per_gb"]) for size in sizes if size > SIZES[1]}
    middle = median(list(costs.values()))
    for size, cost in costs.items():
        if cost is not None and middle:
            what = f"CPU/GB of {size / MIB:,.0f} MiB / median of the sizes above 10 MiB"
            targets.append(Target("8", what, [cost / middle], at_least=0.85, at_most=1.15))
    memory = [known(got["memory_mib"]) for got in values.values()]
    grown = max(map(max, memory)) - min(map(min, memory))
    targets.append(Target("8", "MiB between the least and the most resident", [grown], at_most=5))
    results: dict[str, Any] = {"machine": facts, "options": {**vars(args), "json": None}}
    finish({**results, "sizes": values}, targets, args.json)


if __name__ == "__main__":
    run(main)
