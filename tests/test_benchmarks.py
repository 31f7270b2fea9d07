"""Every figure that the documentation gives for speed and cost is in benchmarks/results.

The tables after a comment ``.. figures: NAME`` are made from the results of each machine, and the
sentences of SENTENCES, too. ``python tests/test_benchmarks.py`` writes the tables anew, and prints
the sentences that have to be changed.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
#: The directories there, each with the results of one machine, and what the tables call it.
MACHINES = {"intel-xeon": "Intel Xeon", "amd-epyc": "AMD EPYC"}
#: What makes a cell of a table, for a machine: None if it was not measured there.
Cell = Callable[[str], str | None]


@cache
def rows(machine: str, file: str) -> list[dict[str, str]]:
    """The rows of all tables in a file of results, by column. A column without a name is "1"."""
    path, found = RESULTS / machine / file, []
    lines = path.read_text().splitlines() if path.exists() else []
    for at, line in enumerate(lines):
        if re.fullmatch(r"=+(  +=+)*", line):
            spans = [match.span() for match in re.finditer("=+", line)]
            names = [lines[at - 1][a:b].strip() or str(n) for n, (a, b) in enumerate(spans)]
            for row in lines[at + 1 :]:
                if not row:
                    break
                cells = [row[a:b].strip() for a, b in spans]
                found.append(dict(zip(names, cells, strict=True)))
    return found


def cell(file: str, column: str, *key: str) -> Cell:
    """A cell as it is in the row that begins so; in older files, rows and columns are swapped."""

    def find(machine: str) -> str | None:
        for row in rows(machine, file):
            cells = list(row.values())
            if column in row and tuple(cells[: len(key)]) == key:
                return row[column]
            if cells[0] == column and key[-1] in row:
                return row[key[-1]]
        return None

    return find


def target(file: str, what: str) -> Cell:
    """The ratio of this name, which the program printed itself."""

    def find(machine: str) -> str | None:
        found = (row for row in rows(machine, file) if row.get("what") == what)
        return next((row["median (least..most)"] for row in found), None)

    return find


@cache
def values(machine: str, file: str) -> dict[str, Any]:
    path = RESULTS / machine / file
    found: dict[str, Any] = json.loads(path.read_text())["servers"] if path.exists() else {}
    return found


def ratio(
    pair: str, servers: list[str], figure: str, case: str = "big", file: str = "big.json"
) -> Cell:
    """The ratio of two contenders, from the least to the most of these servers.

    For each server it is the median of the ratios of neighbours in the same repeat. In
    parentheses are the least and the most of all repeats and servers, and after them how many
    servers were measured, if not all.
    """
    upper, lower = pair.split(" / ")

    def find(machine: str) -> str | None:
        medians, every = [], []
        for server in servers:
            result = values(machine, file).get(server, {})
            got = {"big": result.get("big", {}), **result.get("small", {})}.get(case, {})
            if upper in got and lower in got:
                both = zip(got[upper][figure], got[lower][figure], strict=True)
                ratios = [up / low for up, low in both if up is not None and low]
                medians.append(statistics.median(ratios))
                every += ratios
        if not medians:
            return None
        some = f", {len(medians)} of {len(servers)}" if len(medians) < len(servers) else ""
        return f"{range_of(medians)} ({short(min(every))}..{short(max(every))}){some}"

    return find


def range_of(numbers: Iterable[float]) -> str:
    """``least to most``, or one number if they are the same."""
    low, high = short(min(numbers)), short(max(numbers))
    return low if low == high else f"{low} to {high}"


def short(number: float) -> str:
    return f"{number:.2f}" if 0.1 < number < 10 and number % 1 else f"{number:.3g}"


def all_of(file: str, contender: str, *columns: str) -> Cell:
    """The range over the servers, in the first of these columns that the file has."""

    def find(machine: str) -> str | None:
        texts = [
            row[column].partition(" ")[0].replace(",", "")
            for row in rows(machine, file)
            for column in columns
            if contender in row.values() and column in row
        ]
        if not texts:
            return None
        none = texts.count("-")
        seen = [float(text) for text in texts if text != "-"]
        return range_of(seen) if not none else f"no answer on {none} of {len(texts)}"

    return find


def either(*cells: Cell) -> Cell:
    """The first of these that was measured."""
    return lambda machine: next(filter(None, (one(machine) for one in cells)), None)


def missed(file: str, pattern: str = "") -> Cell:
    """How many of the targets were missed."""

    def find(machine: str) -> str | None:
        verdicts = [
            row["4"]
            for row in rows(machine, file)
            if "what" in row and row["target"] and re.search(pattern, row["what"])
        ]
        return f"{verdicts.count('MISSED')} of {len(verdicts)}" if verdicts else None

    return find


def first_line(machine: str) -> str:
    """Cores, kernel and Python of a machine, with which all files of results begin."""
    lines = {
        re.sub(r"^.*?(\d+ cores, \w+ [\d.]+)[^,]*", r"\1", path.read_text().partition("\n")[0])
        for path in (RESULTS / machine).glob("*.txt")
    }
    return "; ".join(sorted(lines))


#: gevent stands alone for small files: by hand each waits for an acknowledgement there.
SIX = ["waitress", "gunicorn_sync", "gunicorn_gthread", "cheroot", "werkzeug", "wsgiref"]
EIGHT = [*SIX, "gevent", "eventlet"]
BESIDE_NGINX = SIX[:4]
#: As they stand in receivers.json.
WAYS = {
    "thrown away by the kernel": "discard",
    "12 small windows": "windows",
    "unix socket": "unix",
    "unix socket behind nginx": "unix-nginx",
    "veth pair, MTU 1500": "veth",
}
REQUESTS = partial(ratio, "ours / by_hand", figure="requests_per_s", file="small.json")


def small_files() -> dict[str, Cell]:
    """Requests per second, by the size of the file and the number of connections."""
    found = {}
    for name, servers in (("six servers", SIX), ("uWSGI", ["uwsgi"]), ("granian", ["granian"])):
        for size, number in itertools.product((4, 100), (1, 16)):
            case = f"{size} KiB x{number}"
            found[f"{name}: {case}"] = REQUESTS(servers, case=case)
    one = "4 KiB x1"
    found[f"gevent: {one}"] = REQUESTS(["gevent"], case=one)
    return found


def received(pair: str, figure: str) -> dict[str, Cell]:
    found = {}
    for name, way in WAYS.items():
        servers = [f"{server}, {way}" for server in BESIDE_NGINX]
        found[f"{name}: {pair}"] = ratio(pair, servers, figure, file="receivers.json")
    return found


def both(file: str, figure: str, label: str, *key: str) -> dict[str, Cell]:
    """A figure by hand and with wsgifile."""
    names = {"by hand": "by_hand", "wsgifile": "ours"}
    return {f"{label}, {shown}": cell(file, figure, *key, name) for shown, name in names.items()}


def disk(server: str) -> dict[str, Cell]:
    old = {"by hand": "by_hand", "wsgifile": "ours"}
    found = both("disk.txt", "beside_p99_ms", f"{server}: p99 in ms", server)
    return {
        label: either(one, cell("disk.txt", old[label.rpartition(", ")[2]], server))
        for label, one in found.items()
    }


def resident(size: str) -> Cell:
    """Memory of waitress after a file of this size. Older files do not name the server."""
    names = size, f"waitress, {size}"
    return either(*(cell("sizes.txt", "MiB resident", name) for name in names))


LARGE = {
    "CPU, eight servers: ours / by hand": ratio("ours / by_hand", EIGHT, "cpu_s_per_gb"),
    "CPU, uWSGI and granian: ours / by hand": ratio(
        "ours / by_hand", ["uwsgi", "granian"], "cpu_s_per_gb"
    ),
    "CPU, four servers: ours / nginx": ratio("ours / nginx", BESIDE_NGINX, "cpu_s_per_gb"),
    "throughput, eight servers: ours / by hand": ratio("ours / by_hand", EIGHT, "gb_per_s"),
    "throughput, uWSGI and granian: ours / by hand": ratio(
        "ours / by_hand", ["uwsgi", "granian"], "gb_per_s"
    ),
    "throughput, four servers: ours / nginx": ratio("ours / nginx", BESIDE_NGINX, "gb_per_s"),
}
IN_PROCESS = {
    "4 KiB, in-process: us by hand": cell("small_file.txt", "microseconds", "by hand"),
    "4 KiB, in-process: us with wsgifile": cell("small_file.txt", "microseconds", "wsgifile"),
}
ADDED = {
    f"{name}: us added by {other}": cell("overhead.txt", other, name)
    for name in ("list", "Flask response", "Django HttpResponse")
    for other in ("wsgifile", "WhiteNoise", "ProxyFix")
}
LATENCY = both("readers.txt", "beside_p99_ms", "waitress, 500 slow readers: p99 in ms", "waitress")
QUEUE = both("queue.txt", "50", "gunicorn sync, 50 slow downloads: ms")
#: The tables by their name: the label of each row, and what makes its cells.
TABLES: dict[str, dict[str, Cell]] = {
    "summary": {
        **{
            f"files of {size} KiB, six servers: requests/s, ours / by hand": REQUESTS(
                SIX, case=f"{size} KiB x16"
            )
            for size in (4, 100)
        },
        **{
            f"{name}: microseconds more": ADDED[f"{name}: us added by wsgifile"]
            for name in ("Flask response", "Django HttpResponse")
        },
        **{f"large file, {name}": one for name, one in LARGE.items() if "granian" not in name},
        **LATENCY,
        **QUEUE,
    },
    "machines": {"cores, kernel, Python": first_line},
    "small": {**small_files(), **IN_PROCESS},
    "added": ADDED,
    "large": {
        **LARGE,
        "CPU: by lines / ours": ratio("bare / ours", EIGHT, "cpu_s_per_gb"),
        "CPU s/GB on waitress": cell("big.txt", "CPU s/GB", "waitress", "ours"),
        "CPU s/GB on gunicorn sync": cell("big.txt", "CPU s/GB", "gunicorn_sync", "ours"),
        "MiB resident after 1 MiB": resident("1 MiB"),
        "MiB resident after 10 GiB": resident("10,240 MiB"),
    },
    "receivers": {
        **{f"CPU, {k}": v for k, v in received("ours / by_hand", "cpu_s_per_gb").items()},
        **{
            f"CPU of all, {k}": v
            for k, v in received("ours / by_hand", "all_cpu_s_per_gb").items()
        },
        **{f"throughput, {k}": v for k, v in received("ours / by_hand", "gb_per_s").items()},
        **{f"throughput, {k}": v for k, v in received("ours / nginx", "gb_per_s").items()},
    },
    "slow": {
        **both("readers.txt", "idle_p99_ms", "waitress, idle: p99 in ms", "waitress"),
        **LATENCY,
        **both("readers.txt", "grown_mib", "waitress, 500 slow readers: MiB grown", "waitress"),
        **both("readers.txt", "cpu_share", "waitress, 500 slow readers: CPU share", "waitress"),
        **QUEUE,
    },
    "cold": {
        f"{server}: ours / by hand": target("cold.txt", f"{server}, big: gb_per_s, ours / by_hand")
        for server in (*BESIDE_NGINX, "uwsgi")
    },
    "disk": {
        name: one
        for server in ("waitress", "gevent", "eventlet")
        for name, one in disk(server).items()
    },
    "sources": {
        "s, plain loop": cell("read_ahead.txt", "1", "plain loop, s"),
        "s, read_ahead": cell("read_ahead.txt", "1", "read ahead, s"),
    },
    "offload": {
        f"{shown}: offloaded / through nginx": either(
            target("offload.txt", f"waitress, {old}, offloaded / proxied"),
            ratio("offload / ours", ["waitress, unix-nginx"], figure, case, "offload.json"),
        )
        for shown, old, figure, case in (
            ("throughput, large file", "256 MiB x1: gb_per_s", "gb_per_s", "big"),
            ("CPU of waitress, large file", "256 MiB x1: cpu_s_per_gb", "cpu_s_per_gb", "big"),
            (
                "requests/s, 10 MiB x16",
                "10 MiB x16: requests_per_s",
                "requests_per_s",
                "10 MiB x16",
            ),
            ("CPU of waitress, 10 MiB x16", "10 MiB x16: cpu_us", "cpu_us", "10 MiB x16"),
            ("requests/s, 4 KiB x16", "4 KiB x16: requests_per_s", "requests_per_s", "4 KiB x16"),
        )
    },
    "missed": {
        "small files, ours / by hand": missed("small.txt", "requests_per_s, ours / by_hand"),
        "4 KiB, in-process": missed("small_file.txt"),
        "responses that are not files": missed("overhead.txt"),
        "large file, ours / by hand": missed("big.txt", "ours / by_hand"),
        "large file, ours / nginx": missed("big.txt", "ours / nginx"),
        "other ways to receive, ours / by hand": missed("receivers.txt", "ours / by_hand"),
        "other ways to receive, ours / nginx": missed("receivers.txt", "ours / nginx"),
        "from the disk, ours / by hand": missed("cold.txt", "ours / by_hand"),
        "from the disk, ours / nginx": missed("cold.txt", "ours / nginx"),
        "slow readers": missed("readers.txt", "^(waitress, )?ours:"),
        "clients that stop": missed("stopped.txt"),
        "slow disk": missed("disk.txt"),
        "slow source": missed("read_ahead.txt", "seconds"),
    },
    "stopped": {
        "ms of half the requests, by hand": all_of(
            "stopped.txt", "by_hand", "beside p50", "beside_p50_ms"
        ),
        "ms of half the requests, wsgifile": all_of(
            "stopped.txt", "ours", "beside p50", "beside_p50_ms"
        ),
        "the same while nobody reads slowly": all_of(
            "stopped.txt", "ours", "idle p50", "idle_p50_ms"
        ),
        "clients with the whole file, by hand": all_of("stopped.txt", "by_hand", "whole"),
        "clients with the whole file, wsgifile": all_of("stopped.txt", "ours", "whole"),
        "MiB grown, wsgifile": all_of("stopped.txt", "ours", "MiB grown", "grown_mib"),
        "descriptors left, wsgifile": all_of("stopped.txt", "ours", "left"),
    },
}
PAGES = ["README.rst", "docs/benchmarks.rst", "docs/slow_clients.rst"]
#: The parts of pages that have no figure but in these tables and as below.
CHECKED = [
    ("README.rst", "What it costs\n---", "What it cannot see\n---"),
    ("docs/benchmarks.rst", "Benchmarks\n===", "How it is measured, and"),
]
#: How it was measured, which is no result.
GIVEN = (
    r"18 KiB|1 GiB|4 KiB|\(x1\)|\(x16\)|16 connections|500 readers|64 KiB/s|50 slow"
    r"|p99|99th|most 1\.05|least 0\.95|it was 0\.9\.|\"5 of 6\"|``[^`]*``"
)
#: A comment, and the table after it, if there is one.
MARK = re.compile(
    r"^\.\. figures: (\w+)\n\n((?:(?:==|Not measured).*\n(?:.+\n)*\n)?)", re.MULTILINE
)


def rendered(name: str) -> str:
    """A table, with the rows that some machine has."""
    lines = [["", *MACHINES.values()]]
    for label, make in TABLES[name].items():
        cells = [make(machine) for machine in MACHINES]
        if any(cells):
            lines.append([label, *(text or "\\-" for text in cells)])
    if len(lines) == 1:
        return "Not measured on any machine yet.\n"
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([rule, text[0] or "\\", rule, *text[1:], rule, ""])


def renewed(page: str) -> str:
    """The text of a page with its tables made anew."""
    return MARK.sub(lambda found: f".. figures: {found[1]}\n\n{rendered(found[1])}\n", page)


@pytest.mark.quick
@pytest.mark.parametrize("name", PAGES)
def test_tables(name: str) -> None:
    """They are made from the files of results."""
    text = (ROOT / name).read_text()
    assert text == renewed(text), "run python tests/test_benchmarks.py"


@pytest.mark.quick
@pytest.mark.parametrize(("name", "begin", "end"), CHECKED, ids=lambda value: value.split("\n")[0])
def test_no_other_figure(name: str, begin: str, end: str) -> None:
    """Sentences give no figures: nothing would compare these with the results."""
    text = (ROOT / name).read_text()
    assert begin in text
    text = text.partition(begin)[2].partition(end)[0]
    text = re.sub(r"^(\.\.|   :).*|^::\n\n( +.*\n)+", "", MARK.sub("", text), flags=re.MULTILINE)
    assert (
        re.findall(
            r"[^\n]*(?:\d|\b(?:half|third|quarter|twice|times)\b)[^\n]*", re.sub(GIVEN, "", text)
        )
        == []
    )


@pytest.mark.quick
def test_clients_that_are_cut_off() -> None:
    """The table of docs/slow_clients.rst says what table.txt does, and no other server cuts."""
    names = {
        "gunicorn ``sync``": ["gunicorn"],
        "gunicorn ``sync`` behind nginx": ["nginx_gunicorn"],
        "uWSGI ``http-socket``, ``http``,": [
            "uwsgi",
            "uwsgi_router",
            "uwsgi_http11",
            "nginx_uwsgi",
        ],
        "cheroot": ["cheroot"],
    }
    text = (ROOT / "docs/slow_clients.rst").read_text()
    told: dict[str, list[str]] = {}
    for label, servers in names.items():
        [line] = re.findall(rf"^{re.escape(label)}  +(\S.*)$", text, re.MULTILINE)[:1]
        told |= dict.fromkeys(servers, line.split())
    for machine in MACHINES:
        for row in rows(machine, "table.txt"):
            if row.get("1") in ("by_hand", "ours"):
                server, contender, *cells = row.values()
                expected = told.get(server, ["ok"] * 4) if contender == "by_hand" else ["ok"] * 4
                assert [one.partition(" ")[0] for one in cells] == expected, server


@pytest.mark.quick
def test_all_tables_are_shown() -> None:
    shown = [found[1] for name in PAGES for found in MARK.finditer((ROOT / name).read_text())]
    assert sorted(shown) == sorted(TABLES)


if __name__ == "__main__":
    for name in PAGES:
        path = ROOT / name
        path.write_text(renewed(path.read_text()))
