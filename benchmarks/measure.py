"""Measure servers in turn: what one client or wrk sees, and what the server takes for it."""

from __future__ import annotations

import json
import os
import subprocess
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from clients import ClientError, run_client
from report import Target, number, progress, ratios, spread, table
from servers import GB, HERE, HOST, KIB, MIB, Measured, ServerError

T = TypeVar("T")
#: Values by figure, one for each repeat. None if it could not be measured.
Figures = dict[str, list[float | None]]


def big(
    server: Measured, size: int, *, cold: str | None, count: int, parallel: int = 1, **more: object
) -> dict[str, float]:
    """A file is received, with these options of the client; cold: this is dropped before."""
    options = {"count": count, "parallel": parallel, **more}
    if cold is not None:
        with open(cold, "rb") as file:
            os.fsync(file.fileno())  # What has not been written cannot be dropped.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    both = [server] if server.front is None else [server, server.front]
    before = [one.cpu() for one in both]
    seen = run_client("receive", server.address, f"/{size}", **options)
    cpu, *front = [one.cpu() - was for one, was in zip(both, before, strict=True)]
    if seen["bytes"] != size * count * parallel:
        raise ClientError(f"{seen['bytes']} bytes, not {count * parallel} times {size}")
    return {
        "cpu_s_per_gb": cpu / seen["bytes"] * GB,
        # On the loopback interface the kernel may do the work of one side in the time
        # of the other. It depends on where each runs; the sum does not.
        "client_cpu_s_per_gb": seen["cpu"] / seen["bytes"] * GB,
        "all_cpu_s_per_gb": sum([cpu, *front, seen["cpu"]]) / seen["bytes"] * GB,
        "gb_per_s": seen["bytes"] / seen["seconds"] / GB,
        "memory_mib": server.memory(),
    }


def small(server: Measured, size: int, connections: int, seconds: int) -> dict[str, float]:
    """As many requests for one file as wrk can make."""
    host, port = (HOST, server.address) if isinstance(server.address, int) else server.address
    url = f"http://{host}:{port}/{size}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", f"{HERE}/wrk.lua", url]
    before = server.cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    cpu = server.cpu() - before
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
    title: str,
    repeats: int,
    contenders: Mapping[str, T],
    measure: Callable[[T], dict[str, float]],
) -> dict[str, Figures]:
    """Measure each contender once in each repeat. One that fails has None there."""
    got: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for repeat in range(1, repeats + 1):
        # Forwards and backwards, so that it does not matter which one comes before.
        for name, contender in list(contenders.items())[:: 1 if repeat % 2 else -1]:
            try:
                figures = measure(contender)
                shown = ", ".join(f"{key} {number(value)}" for key, value in figures.items())
            except (ClientError, ServerError, OSError, subprocess.TimeoutExpired) as error:
                figures, shown = {}, f"failed: {error}"
            got[name].append(figures)
            progress(f"{title} {repeat}/{repeats} {name}: {shown}")
    values: dict[str, Figures] = {}
    for name, repeated in got.items():
        values[name] = defaultdict(list)  # There are no figures if it failed each time.
        for figure in dict.fromkeys(figure for one in repeated for figure in one):
            values[name][figure] = [one.get(figure) for one in repeated]
    return values


def show(
    title: str,
    args: Namespace,
    head: Sequence[str],
    found: Mapping[tuple[str, ...], Mapping[str, Figures]],
    columns: Sequence[str],
) -> None:
    """Print these figures of each contender."""
    print(f"\n{title}; medians of {args.repeats} (least..most)\n")
    rows = [
        [*key, contender, *(spread(figures[name]) for name in columns)]
        for key, contenders in found.items()
        for contender, figures in contenders.items()
    ]
    print(table(head, rows), flush=True)


#: What is to be reached: a figure, another one below it or "", and Target's limits.
Wanted = Sequence[tuple[str, str, Mapping[str, float]]]


def side_by_side(
    title: str,
    args: Namespace,
    groups: Mapping[str, Sequence[str]],
    one: Callable[[str, str], dict[str, float]],
    columns: Sequence[str],
    wanted: Wanted,
) -> tuple[dict[str, dict[str, Figures]], list[Target]]:
    """Measure the contenders of each group in turn, and print these figures."""
    found = {
        group: in_turn(group, args.repeats, {c: c for c in contenders}, partial(one, group))
        for group, contenders in groups.items()
    }
    by_key = {(group,): contenders for group, contenders in found.items()}
    show(title, args, ("server", "contender", *columns), by_key, columns)
    targets = []
    for group, contenders in found.items():
        for name in (name for name in contenders if name.startswith("ours")):
            for upper, lower, limits in wanted:
                values = contenders[name][upper]
                values = ratios(values, contenders[name][lower]) if lower else values
                what = f"{group}, {name}: {upper}" + (f" / {lower}" if lower else "")
                targets.append(Target("", what, values, **limits))
    return found, targets


def label(size: int, connections: int) -> str:
    shown = f"{size // KIB} KiB" if size < MIB else f"{size // MIB} MiB"
    return f"{shown} x{connections}"
