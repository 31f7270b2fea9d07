"""Does the cost grow linearly, and memory not at all? Sparse files by ours on waitress.

A small file is requested so often on one connection that each value is of about the
same number of bytes. The sizes are measured in turn.
"""

from __future__ import annotations

import os

import measure
from report import Parser, Target, begin, finish, known, median, progress, run, spread, table
from servers import GIB, MIB, SERVERS, make_files, module, running

SIZES = (MIB, 10 * MIB, 100 * MIB, GIB, 10 * GIB)


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--server", choices=SERVERS, default="waitress", help="default: %(default)s")
    add("--largest", type=int, default=SIZES[-1], metavar="BYTES", help="default: 10 GiB")
    add("--bytes", type=int, default=GIB, metavar="BYTES", help="of each value, about (1 GiB)")
    args = parser.parse(largest=100 * MIB, bytes=200 * MIB, repeats=2)
    results = begin(args, [module(args.server)])
    if args.largest > os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        progress("there is not enough free memory to keep the largest file in the page cache")
    sizes = {f"{size / MIB:,.0f} MiB": size for size in SIZES if size <= args.largest}
    with (
        make_files(list(sizes.values()), sparse=True) as files,
        running(args.server, "ours", files) as server,
    ):
        measure.big(server, SIZES[0], count=10)  # Warm.
        values = results["sizes"] = measure.in_turn(
            args.server,
            args.repeats,
            sizes,
            lambda size: measure.big(server, size, count=max(1, args.bytes // size)),
        )
    print(f"\n{args.server}, sparse files, ours; medians of {args.repeats} (least..most)\n")
    figures = ("cpu_s_per_gb", "gb_per_s", "memory_mib")
    rows = [[name, *(spread(got[figure]) for figure in figures)] for name, got in values.items()]
    print(table(("file", "CPU s/GB", "GB/s", "MiB resident"), rows))
    targets = []
    # Above 10 MiB. The client of a smaller response wakes up when much of it lies in the
    # socket's queue.
    costs = {
        name: median(values[name]["cpu_s_per_gb"]) for name in sizes if sizes[name] > SIZES[1]
    }
    middle = median(list(costs.values()))
    for name, cost in costs.items():
        if cost is not None and middle:
            what = f"CPU/GB of {name} / median of the sizes above 10 MiB"
            targets.append(Target("8", what, [cost / middle], at_least=0.85, at_most=1.15))
    memory = known([value for got in values.values() for value in got["memory_mib"]])
    if memory:
        grown = max(memory) - min(memory)
        what = "MiB between the least and the most resident"
        targets.append(Target("8", what, [grown], at_most=5))
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
