"""The table of servers and cases that were really run."""

from __future__ import annotations

import platform
import re
import textwrap
from collections.abc import Iterator

import launch
import pytest
from known import SERVERS

_MARKS = {
    "passed": ".",
    "xfailed": "x",
    "failed": "F",
    "skipped": "s",
}
#: If several tests share a cell of the table, the worst result is shown.
_ORDER = ["passed", "skipped", "xfailed", "failed"]
#: The page's columns. The theme has room for so many.
_WIDTH = 90
#: The property of a report that has the arguments of Matrix.add().
CELL = "matrix"


class Matrix:
    """Collects the outcomes by server and case. It is a plugin of pytest."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = {}
        self.reasons: dict[str, dict[str, list[str]]] = {}
        self.counts: dict[str, dict[str, int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == CELL:
                assert isinstance(value, tuple | list)  # pytest-xdist makes a list of it.
                self.add(*value)

    def add(self, server: str, case: str, outcome: str, reason: str) -> None:
        row = self.outcomes.setdefault(case, {})
        row[server] = max(row.get(server, "passed"), outcome, key=_ORDER.index)
        counts = self.counts.setdefault(server, {})
        counts[outcome] = counts.get(outcome, 0) + 1
        if reason:
            cases = self.reasons.setdefault(server, {}).setdefault(reason, [])
            if case not in cases:
                cases.append(case)

    def lines(self) -> Iterator[str]:
        """One line per server, one per case, and then the reasons."""
        servers = [name for name in SERVERS if name in self.counts]
        for number, name in enumerate(servers, 1):
            counts = self.counts[name]
            told = ", ".join(f"{counts[o]} {o}" for o in _ORDER if o in counts)
            yield f"{number:2d}  {name + ' ' + launch.version(name):40s} {told}"
        yield ""
        width = max(map(len, self.outcomes)) + 1
        numbers = [f"{number:2d}" for number in range(1, len(servers) + 1)]
        for digits in zip(*numbers, strict=True):  # One below the other: the page is narrow.
            yield f"{'':{width}s}{' '.join(digits)}".rstrip()
        for case in sorted(self.outcomes):
            marks = (_MARKS.get(self.outcomes[case].get(name, ""), " ") for name in servers)
            yield f"{case:{width}s}{' '.join(marks)}".rstrip()
        yield ""
        yield ". passed    x fails as known    F failed    s skipped"
        for name in servers:
            for reason, cases in self.reasons.get(name, {}).items():
                yield from textwrap.wrap(f"{name}: {reason}:", _WIDTH, subsequent_indent="  ")
                yield from textwrap.wrap(
                    ", ".join(cases), _WIDTH, initial_indent="    ", subsequent_indent="    "
                )

    def page(self) -> str:
        """The lines as a page of the documentation."""
        title = "What was tested on which server"
        body = "".join(f"    {line}".rstrip() + "\n" for line in self.lines())
        return _PAGE.format(
            title=title,
            line="=" * len(title),
            python=platform.python_version(),
            system=platform.system(),
            body=body,
        )


_PAGE = """\
{title}
{line}

``pytest tests/servers --matrix docs/matrix.rst`` wrote this page, with Python {python} on
{system}.

A row of the table is a case of ``tests/servers/cases.py`` or a test of
``tests/servers/test_servers.py``, with all its stacks of filters. Each one sends requests to
the real server. The client checks the bytes, what follows them, and the next request.

The list below the table gives the reason for each ``x``. It is a fault of the server that
wsgifile cannot repair.

::

{body}"""


def case_of(function: str, params: dict[str, object]) -> str:
    """The name of the case, or of the test if the test has no single case."""
    if function == "test_bytes":
        return str(params["name"])
    return function.removeprefix("test_")


def tidy(reason: str, server: str) -> str:
    return re.sub(rf"^(Skipped: )?({server}: )?", "", reason)
