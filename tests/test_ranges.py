"""select(): the arithmetic of Range, compared with a model that goes byte by byte."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from wsgifile.ranges import MAX_RANGES, select

pytestmark = pytest.mark.quick

POSITION = st.integers(0, 300)
#: First and last position. Now and then, a range ends before it begins.
SPECS = st.one_of(
    st.tuples(POSITION, POSITION).map(lambda spec: tuple(sorted(spec))),
    st.tuples(POSITION, POSITION).map(lambda spec: tuple(sorted(spec))),
    st.tuples(POSITION, st.none()),
    st.tuples(st.none(), POSITION),
    st.just((2, 1)),
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 1000)]),
        ("bytes=999-", [(999, 1000)]),
        ("bytes=990-5000", [(990, 1000)]),
        ("bytes=-1", [(999, 1000)]),
        ("bytes=-5000", [(0, 1000)]),
        ("BYTES=1-2", [(1, 3)]),
        ("bytes=,, 1-2 ,\t500-501,", [(1, 3), (500, 502)]),
        ("bytes=0000000000000000000000000001-2", [(1, 3)]),
        ("bytes=5-99999999999999999999999999999999", [(5, 1000)]),
        ("bytes=5-" + "9" * 5000, [(5, 1000)]),
        # In the order of the request (section 15.3.7.2), without ranges beyond the end.
        ("bytes=500-509,5000-,0-9", [(500, 510), (0, 10)]),
        # Ranges that overlap, touch or nearly touch are joined, in the place of the first.
        ("bytes=700-709,5-9,0-4,701-720", [(700, 721), (0, 10)]),
        ("bytes=5-9,700-709,0-4", [(0, 10), (700, 710)]),
        ("bytes=0-99,10-19", [(0, 100)]),
        ("bytes=0-0,80-80,600-600", [(0, 81), (600, 601)]),
        ("bytes=0-0,81-81", [(0, 1), (81, 82)]),
    ],
)
def test_selected(header: str, expected: list[tuple[int, int]]) -> None:
    assert select(header, 1000) == expected


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=-0", "bytes=5000-6000,-0"])
def test_unsatisfiable(header: str) -> None:
    """Well-formed ranges that are all beyond the end: 416 (section 15.5.17)."""
    assert select(header, 1000) == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=5-4",
        "bytes=0-1,5-4",
        "bytes=1 - 2",
        "bytes=+1-2",
        "bytes=--1",
        "bytes=0x1-2",
        "bytes=\N{ARABIC-INDIC DIGIT ONE}-",
        "bytes =1-2",
        "items=0-1",
        "0-1",
        "bytes=0-1,bytes=2-3",
        "bytes=0-1;2-3",
        "bytes=" + ",".join(f"{n * 100}-{n * 100}" for n in range(MAX_RANGES + 1)),
    ],
)
def test_ignored(header: str) -> None:
    """A malformed field, or one with too many ranges, is ignored (section 14.2)."""
    assert select(header, 1000) is None


def test_as_many_as_allowed() -> None:
    header = "bytes=" + ",".join(f"{n * 100}-{n * 100}" for n in range(MAX_RANGES))
    assert select(header, 10_000) == [(n * 100, n * 100 + 1) for n in range(MAX_RANGES)]


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=1-,0-"])
def test_all_of_nothing(header: str) -> None:
    """No Content-Range can describe the bytes of an empty file."""
    assert select(header, 0) is None
    assert select("bytes=1-", 0) == []


@given(st.lists(SPECS, min_size=1, max_size=MAX_RANGES), st.integers(1, 300))
def test_the_same_bytes(specs: list[Any], length: int) -> None:
    """Each byte asked for comes once. Others come only from small gaps between ranges."""
    header = "bytes=" + ", ".join(
        f"{'' if first is None else first}-{'' if last is None else last}" for first, last in specs
    )
    selected = select(header, length)
    if (2, 1) in specs or len(specs) > MAX_RANGES:
        assert selected is None
        return
    assert selected is not None
    asked = set()
    for first, last in specs:
        if first is None:
            asked |= set(range(max(0, length - last), length))
        else:
            asked |= set(range(first, length if last is None else min(length, last + 1)))
    sent = [byte for start, stop in selected for byte in range(start, stop)]
    assert len(sent) == len(set(sent))
    assert asked <= set(sent)
    assert all(0 <= start < stop <= length for start, stop in selected)
    for start, stop in selected:
        inside = sorted(asked & set(range(start, stop)))
        assert (inside[0], inside[-1]) == (start, stop - 1)
        assert all(b - a <= 80 for a, b in itertools.pairwise(inside))
    for (_, stop), (start, _) in itertools.pairwise(sorted(selected)):
        assert start - stop >= 80


@given(st.text(alphabet="bytes=0123456789-, \t;", max_size=200), st.integers(0, 2000))
def test_anything(header: str, length: int) -> None:
    """No field makes select() fail, or go beyond the end of the file."""
    for start, stop in select(header, length) or []:
        assert 0 <= start < stop <= length


@pytest.mark.parametrize("piece", [",", "0-0,", "9", "1-,", " ", "-"])
def test_linear(piece: str) -> None:
    """A quadratic search of a million characters would not end (CVE-2025-62727)."""
    assert select("bytes=" + piece * (1_000_000 // len(piece)), 1000) is None
