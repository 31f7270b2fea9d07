"""What all benchmarks share: options, progress, figures with their spread, and targets."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from servers import nginx

#: The values of one figure, a repeat each; None if it could not be measured.
Values = Sequence[float | None]

_begun = time.monotonic()


class Parser(argparse.ArgumentParser):
    """The command line of a benchmark."""

    def __init__(self, doc: str, repeats: int = 5) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
        add = self.add_argument
        add("--repeats", type=int, default=repeats, metavar="N", help="default: %(default)s")
        add("--quick", action="store_true", help="small sizes and few repeats, to try it out")
        add("--json", metavar="FILE", help="write all values there")

    def parse(self, **quick: object) -> argparse.Namespace:
        """The options; with --quick, these values of them."""
        args = self.parse_args()
        if args.quick:
            vars(args).update(quick)
        return args


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """For argparse: some of these names, with commas between them."""

    def parse(text: str) -> list[str]:
        wanted = text.split(",")
        if unknown := set(wanted) - set(names):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(names)}")
        return wanted

    return parse


def run(main: Callable[[], None]) -> NoReturn:
    """Run a program so that it stops what it has started, whatever ends it."""
    # For the processes that it starts, which have many connections.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

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
    """A ratio to reach, with a value for each repeat."""

    line: str
    what: str
    values: Values
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
    """One for each repeat, because the noise is the same within the same seconds."""
    pairs = zip(upper, lower, strict=False)
    return [up / low for up, low in pairs if up is not None and low]


def command_output(*command: str) -> str:
    """The first line that a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return "not installed"
    return (done.stdout + done.stderr).partition("\n")[0].strip()


def machine(distributions: Iterable[str] = ()) -> dict[str, Any]:
    """What it runs on, with neither names nor paths."""
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
        "nginx": command_output(nginx.NGINX or "nginx", "-v").rpartition("/")[2],
        "wrk": " ".join(command_output("wrk", "-v").split()[:2]),
        "load_before": round(os.getloadavg()[0], 2),
    }


def begin(args: argparse.Namespace, distributions: Iterable[str] = ()) -> dict[str, Any]:
    """Print what it runs on. The results, to which the values are to be added."""
    facts = machine(distributions)
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['kernel']}, {facts['python']}")
    print(f"{versions}, nginx {facts['nginx']}, {facts['wrk']}")
    print(f"load average before: {facts['load_before']}", flush=True)
    options = {name: value for name, value in vars(args).items() if name not in ("json", "plots")}
    return {"machine": facts, "options": options}


def finish(args: argparse.Namespace, results: dict[str, Any], targets: list[Target]) -> None:
    """Print the targets. Write everything as JSON, and draw it, if there is a place for it."""
    if targets:
        head = ("line", "what", "median (least..most)", "target", "")
        print()
        print(table(head, (target.row() for target in targets)))
    results["targets"] = [
        {**asdict(target), "median": median(target.values), "verdict": target.verdict()}
        for target in targets
    ]
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    if getattr(args, "plots", None):
        from plots import draw

        draw(results, args.plots)
