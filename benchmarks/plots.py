"""Draw the results of run.py or stalled.py: ``plots.py RESULTS.json DIR``, or ``--plots DIR``."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter
from report import median

#: Okabe and Ito's colours, which everybody can tell apart.
COLOURS = {
    "bare": "#d55e00",
    "loop64": "#e69f00",
    "whitenoise": "#cc79a7",
    "by_hand": "#56b4e9",
    "ours": "#0072b2",
    "nginx": "#009e73",
    "floor": "#777777",
}
NAMES = {
    "bare": "return open(), by lines",
    "loop64": "64 KiB loop",
    "whitenoise": "WhiteNoise",
    "by_hand": "best by hand",
    "ours": "wsgifile",
    "nginx": "nginx, sendfile",
    "floor": "bare socket.sendfile loop",
}


def draw(results: dict[str, Any], directory: str) -> None:
    """``cpu.svg`` for the large file, ``small.svg`` for the small ones.

    ``slow_downloads.svg`` for the queue of stalled.py.
    """
    # White, to be readable on a dark page too. The salt gives the same bytes each time.
    mpl.rcParams.update({"svg.hashsalt": "wsgifile", "savefig.facecolor": "white"})
    servers = results.get("servers", {})
    big = {name: result["big"] for name, result in servers.items() if "big" in result}
    if big:
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        axes = figure.subplots()
        _bars(axes, big, "cpu_s_per_gb")
        axes.set_ylabel("CPU s/GB (log)")
        axes.set_title("CPU of the server for one large file: less is better")
        contenders = {name for found in big.values() for name in found}
        _save(figure, contenders, os.path.join(directory, "cpu.svg"))
    cases = list(dict.fromkeys(case for r in servers.values() for case in r.get("small", {})))
    if cases:
        figure = Figure(figsize=(10, 3 * len(cases)), layout="constrained")
        grid = figure.subplots(len(cases), sharex=True)
        contenders = set()
        for axes, case in zip(grid, cases, strict=True):
            small = {name: r["small"][case] for name, r in servers.items() if "small" in r}
            contenders |= {name for found in small.values() for name in found}
            _bars(axes, small, "requests_per_s")
            axes.set_ylabel("requests/s (log)")
            axes.set_title(f"{case.replace(' x', ', connections: ')}: more is better")
        _save(figure, contenders, os.path.join(directory, "small.svg"))
    if "queue" in results:
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        axes = figure.subplots()
        _waits(axes, results["queue"])
        options = results["options"]
        size, rate = options["size"] / 2**20, options["rate"] / 2**20
        axes.set_title(
            f"A small request beside slow downloads ({size:g} MiB at {rate:g} MiB/s), one worker"
        )
        _save(figure, set(results["queue"]), os.path.join(directory, "slow_downloads.svg"))


def _waits(axes: Any, queue: dict[str, list[float | None]]) -> None:
    """How long a small request waits, a line for each contender."""
    for contender, milliseconds in queue.items():
        seconds = [float("nan") if value is None else value / 1000 for value in milliseconds]
        axes.plot(range(len(seconds)), seconds, color=COLOURS[contender], marker="o", markersize=4)
    axes.set_xlabel("slow downloads under way on one sync worker of gunicorn")
    axes.set_ylabel("time until it is answered (log)")
    _log(axes, "{x:,g} s")
    axes.set_ylim(bottom=1e-4)


def _log(axes: Any, form: str) -> None:
    """A logarithmic scale, and nothing that draws the eye but the figures."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(form)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bars(axes: Any, servers: dict[str, Any], figure: str) -> None:
    """A group of bars for each server, a bar with its spread for each contender."""
    there = [name for name in COLOURS if any(name in found for found in servers.values())]
    width = 0.8 / max(1, len(there))
    for place, contender in enumerate(there):
        for at, found in enumerate(servers.values()):
            values = found.get(contender, {}).get(figure, [])
            middle = median(values)
            if middle is None:
                continue
            measured = [value for value in values if value is not None]
            reach = [[middle - min(measured)], [max(measured) - middle]]
            axes.bar(
                at - 0.4 + width * (place + 0.5),
                middle,
                width * 0.9,
                yerr=reach,
                color=COLOURS[contender],
                error_kw={"elinewidth": 0.8, "ecolor": "#222222"},
            )
    _log(axes, "{x:,g}")
    axes.set_xticks(range(len(servers)), [name.replace("_", "\n") for name in servers])


def _save(figure: Figure, contenders: set[str], path: str) -> None:
    handles = [
        Patch(color=c, label=NAMES[name]) for name, c in COLOURS.items() if name in contenders
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", metavar="RESULTS.json")
    parser.add_argument("directory", metavar="DIR")
    args = parser.parse_args()
    os.makedirs(args.directory, exist_ok=True)
    with open(args.results) as file:
        draw(json.load(file), args.directory)


if __name__ == "__main__":
    main()
