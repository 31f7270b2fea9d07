"""Draw the results of the main table or of slow_clients.py: ``plots.py RESULTS.json... DIR``."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter
from report import known, median

#: By contender: Okabe and Ito's colours, which everybody can tell apart, and what it is.
COLOURS = {
    "bare": ("#d55e00", "return open(), by lines"),
    "loop64": ("#e69f00", "64 KiB loop"),
    "whitenoise": ("#cc79a7", "WhiteNoise"),
    "by_hand": ("#56b4e9", "best by hand"),
    "ours": ("#0072b2", "wsgifile"),
    "nginx": ("#009e73", "nginx, sendfile"),
    "floor": ("#777777", "bare socket.sendfile loop"),
}


def draw(results: dict[str, Any], directory: str) -> None:
    """``cpu.svg`` for the large file, ``small.svg`` for the small ones.

    ``slow_downloads.svg`` for the queue of slow_clients.py.
    """
    os.makedirs(directory, exist_ok=True)
    # White, to be readable on a dark page too. The salt gives the same bytes each time.
    mpl.rcParams.update({"svg.hashsalt": "wsgifile", "savefig.facecolor": "white"})
    servers = results.get("servers", {})
    if big := {name: result["big"] for name, result in servers.items() if "big" in result}:
        title = "CPU of the server for one large file: less is better"
        _bars({title: big}, "cpu_s_per_gb", "CPU s/GB (log)", os.path.join(directory, "cpu.svg"))
    small: dict[str, Any] = {}
    for name, result in servers.items():
        for case, found in result.get("small", {}).items():
            title = f"{case.replace(' x', ', connections: ')}: more is better"
            small.setdefault(title, {})[name] = found
    if small:
        path = os.path.join(directory, "small.svg")
        _bars(small, "requests_per_s", "requests/s (log)", path)
    if "queue" in results:
        _waits(results["queue"], results["options"], os.path.join(directory, "slow_downloads.svg"))


def _waits(queue: dict[str, list[float | None]], options: dict[str, Any], path: str) -> None:
    """How long a small request waits, a line for each contender."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    for contender, milliseconds in queue.items():
        seconds = [float("nan") if value is None else value / 1000 for value in milliseconds]
        colour = COLOURS[contender][0]
        axes.plot(range(len(seconds)), seconds, color=colour, marker="o", markersize=4)
    size, rate = options["size"] / 2**20, options["rate"] / 2**20
    title = f"A small request beside slow downloads ({size:g} MiB at {rate:g} MiB/s), one worker"
    axes.set_xlabel("slow downloads under way on one sync worker of gunicorn")
    _log(axes, title, "time until it is answered (log)", "{x:,g} s")
    axes.set_ylim(bottom=1e-4)
    _save(figure, set(queue), path)


def _log(axes: Any, title: str, label: str, form: str) -> None:
    """A logarithmic scale, and nothing that draws the eye but the figures."""
    axes.set_title(title)
    axes.set_ylabel(label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(form)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(plots: dict[str, dict[str, Any]], name: str, label: str, path: str) -> None:
    """A plot for each title: a group of bars for each server, a bar for each contender."""
    figure = Figure(figsize=(10, max(4.5, 3 * len(plots))), layout="constrained")
    drawn = {one for servers in plots.values() for found in servers.values() for one in found}
    for row, (title, servers) in enumerate(plots.items(), 1):
        axes = figure.add_subplot(len(plots), 1, row)
        there = [one for one in COLOURS if any(one in found for found in servers.values())]
        width = 0.8 / len(there)
        for at, found in enumerate(servers.values()):
            for place, contender in enumerate(there):
                measured = known(found.get(contender, {}).get(name, []))
                middle = median(measured)
                if middle is not None:
                    axes.bar(
                        at - 0.4 + width * (place + 0.5),
                        middle,
                        width * 0.9,
                        yerr=[[middle - min(measured)], [max(measured) - middle]],
                        color=COLOURS[contender][0],
                        error_kw={"elinewidth": 0.8, "ecolor": "#222222"},
                    )
        _log(axes, title, label, "{x:,g}")
        axes.set_xticks(range(len(servers)), [one.replace("_", "\n") for one in servers])
    _save(figure, drawn, path)


def _save(figure: Figure, contenders: set[str], path: str) -> None:
    handles = [
        Patch(color=colour, label=label)
        for contender, (colour, label) in COLOURS.items()
        if contender in contenders
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    *paths, where = sys.argv[1:]
    for path in paths:
        with open(path) as file:
            draw(json.load(file), where)
