"""What all benchmarks print: progress, figures with their spread, and targets."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from serve import find_nginx

#: The values of one figure, a repeat each; None if it could not be measured.
Values = Sequence[float | None]

_begun = time.monotonic()


def run(main: Callable[[], None]) -> NoReturn:
    """Run a program so that it cleans up, whatever ends it."""

    def interrupt(signum: int, frame: object) -> None:
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_IGN)  # Stopping the servers takes a moment.
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except KeyboardInterrupt:
        progress("interrupted")
        sys.exit(130)
    sys.exit(0)


def progress(text: str) -> None:
    print(f"[{time.monotonic() - _begun:5.0f} s] {text}", file=sys.stderr, flush=True)


def known(values: Values) -> list[float]:
    return [value for value in values if value is not None]


def median(values: Values) -> float | None:
    return statistics.median(known(values)) if known(values) else None


def number(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Values) -> str:
    """``median (least..most)``."""
    if not known(values):
        return "-"
    least, most = min(known(values)), max(known(values))
    return f"{number(median(values))} ({number(least)}..{number(most)})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["=" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


@dataclass(frozen=True)
class Target:
    """A ratio that is to be reached, a value for each repeat."""

    line: str
    what: str
    values: list[float]
    at_least: float | None = None
    at_most: float | None = None

    def row(self) -> list[str]:
        ends = ((">=", self.at_least), ("<=", self.at_most))
        wanted = ", ".join(f"{sign} {end}" for sign, end in ends if end is not None)
        return [self.line, self.what, spread(self.values), wanted, self.verdict()]

    def verdict(self) -> str:
        value = median(self.values)
        if value is None:
            return "not measured"
        reached = (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )
        return "reached" if reached else "MISSED"


def ratios(upper: Values, lower: Values) -> list[float]:
    """Of each repeat, as what was measured in the same seconds has the same noise."""
    pairs = zip(upper, lower, strict=False)
    return [up / low for up, low in pairs if up is not None and low]


def target_table(targets: Iterable[Target]) -> str:
    head = ("line", "what", "median (least..most)", "target", "")
    return table(head, (target.row() for target in targets))


def command_output(*command: str) -> str:
    """The first line of what a command says, on either output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return "not installed"
    return (done.stdout + done.stderr).partition("\n")[0].strip()


def machine(distributions: Iterable[str] = ()) -> dict[str, Any]:
    """On what it ran; neither names nor paths."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    versions = {}
    for name in sorted({"wsgifile", *distributions} - {"wsgiref"}):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions,
        "nginx": command_output(find_nginx() or "nginx", "-v").rpartition("/")[2],
        "wrk": " ".join(command_output("wrk", "-v").split()[:2]),
        "load_before": round(os.getloadavg()[0], 2),
    }


def machine_text(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['kernel']}, {facts['python']}\n"
        f"{versions}, nginx {facts['nginx']}, {facts['wrk']}\n"
        f"load average before: {facts['load_before']}"
    )


def finish(results: dict[str, Any], targets: list[Target], json_file: str | None) -> None:
    """Print the targets, and write everything as JSON if there is a file for it."""
    print()
    print(target_table(targets))
    results["targets"] = [
        {**asdict(target), "median": median(target.values), "verdict": target.verdict()}
        for target in targets
    ]
    if json_file:
        with open(json_file, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
