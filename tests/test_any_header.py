"""Any request fields and any response fields, checked by the model of header_cases.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")

from header_cases import ANYTHING, Case, check, decode, make_files
from hypothesis import given, note, settings


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    make_files(directory)
    return directory


@settings(deadline=None, derandomize=True, max_examples=1500)
@given(data=ANYTHING)
def test_any_header(files: Path, data: bytes) -> None:
    case = decode(data, files)
    note(repr(case))
    check(case, files)


@pytest.mark.quick
@pytest.mark.parametrize(
    "case",
    [
        Case(headers=[("Content-Length", "\x1f99")]),
        Case(headers=[("Content-Length", "99"), ("Content-Length", "99")]),
        Case(headers=[("Content-Length", "9" * 5000)]),
        Case(headers=[("Content-Type", "a/b"), ("Content-Type", "c/d")]),
    ],
)
@pytest.mark.parametrize(
    "ranges", ["bytes=0-0", "bytes=5-9, 500-", "bytes=1000-", f"bytes={10**20}-{10**19}"]
)
def test_found(files: Path, case: Case, ranges: str) -> None:
    """Cases with which fuzz/headers.py found a fault, in the code or in the model."""
    check(replace(case, request={"HTTP_RANGE": ranges}), files)
