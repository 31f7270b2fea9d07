"""Options of the tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("servers")
    group.addoption(
        "--matrix",
        metavar="FILE",
        help="write the table of servers and cases to FILE, as a page of reStructuredText",
    )
    group.addoption(
        "--bare",
        action="store_true",
        help="run the cases against the servers without the middleware, to see what fails",
    )
