"""Validators and preconditions (RFC 9110, sections 8.8 and 13)."""

from __future__ import annotations

import io
import os
import time
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wsgifile.conditions import Validators, date_of_file, etag_of_file, path_of_file

pytestmark = pytest.mark.quick

SECONDS = 1_700_000_000
THEN = formatdate(SECONDS, usegmt=True)
BEFORE = formatdate(SECONDS - 1, usegmt=True)
AFTER = formatdate(SECONDS + 1, usegmt=True)
FILE = Validators('"abc"', THEN)
WEAK = Validators('W/"abc"', THEN)
NOT_MODIFIED = "304 Not Modified"
FAILED = "412 Precondition Failed"


def refuse(state: Validators = FILE, **environ: str) -> str | None:
    return state.refuse({f"HTTP_{name.upper()}": value for name, value in environ.items()})


def test_etag_of_file() -> None:
    """It depends on the path, the size, the time in nanoseconds, and the skipped bytes."""
    etag = etag_of_file(b"/data", 255, SECONDS * 10**9 + 7)
    assert etag == f'"{SECONDS * 10**9 + 7:x}-ff-0-eba60dfbc16761b3"'
    numbers = [(5, 6), (6, 5), (5, 7), (5, 6, 1), (5, 6, 2)]
    assert len({etag_of_file(path, *n) for path in (b"/a", b"/b") for n in numbers}) == 10


def named(file: Any) -> bytes:
    path = path_of_file(file, os.fstat(file.fileno()))
    assert path is not None
    return path


def test_path_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is the one that was opened. A link is not resolved."""
    (tmp_path / "data").write_bytes(b"x")
    (tmp_path / "link").symlink_to("data")
    expected = os.fsencode(tmp_path)
    for name in (tmp_path / "link", str(tmp_path / "link"), expected + b"/link"):
        with open(name, "rb") as file, io.FileIO(name) as raw:
            assert named(file) == named(raw) == expected + b"/link"
    monkeypatch.chdir(tmp_path)
    with open("data", "rb") as file:
        assert named(file) == expected + b"/data"
        # Other systems than Linux have no such link.
        monkeypatch.setattr(os, "readlink", lambda path: os.stat("/nowhere"))
        assert named(file) == expected + b"/data"


def test_path_of_a_name_that_is_relative_to_anything(tmp_path: Path) -> None:
    """Two files may have the same relative name, if an opener has a directory of its own."""
    paths = []
    for user in ("a", "b"):
        (tmp_path / user).mkdir()
        (tmp_path / user / "data").write_bytes(b"x")
        directory = os.open(tmp_path / user, os.O_RDONLY)
        with open("data", "rb", opener=partial(os.open, dir_fd=directory)) as file:
            paths.append(named(file))
        os.close(directory)
    assert paths == [os.fsencode(tmp_path / user / "data") for user in ("a", "b")]


def test_no_path() -> None:
    """A descriptor says nothing of how it was opened."""
    with open(os.open(__file__, os.O_RDONLY), "rb") as file:
        assert path_of_file(file, os.fstat(file.fileno())) is None


def test_path_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x")
    with open(path, "rb") as file, open(path, "rb") as again:
        assert named(file) == os.fsencode(path)
        monkeypatch.setattr(os, "stat", lambda path: pytest.fail("looked up again"))
        assert named(file) == named(again) == os.fsencode(path)


def test_path_of_a_file_that_was_moved(tmp_path: Path) -> None:
    """That it is not there is not remembered, so it may come back."""
    path, other, new = tmp_path / "data", tmp_path / "other", tmp_path / "new"
    path.write_bytes(b"x")
    new.write_bytes(b"y")
    with open(path, "rb") as file:
        path.rename(other)
        assert named(file) == os.fsencode(other)
        new.rename(path)  # Another file has the name.
        assert named(file) == os.fsencode(other)
        other.rename(path)
        assert named(file) == os.fsencode(path)


def test_date_of_file() -> None:
    assert date_of_file(SECONDS * 10**9 + 7) == THEN
    assert date_of_file(0) is None


@pytest.mark.parametrize("seconds", [0, 1, 10**6])
def test_no_date(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """None for the future, and for the current second, in which the file may change again."""
    monkeypatch.setattr(time, "time", lambda: SECONDS + 0.9)
    assert date_of_file((SECONDS + seconds) * 10**9) is None


@pytest.mark.parametrize(
    ("listed", "weakly", "strongly"),
    [
        ('"abc"', True, True),
        ('W/"abc"', True, False),
        ('"x", "abc"', True, True),
        ('"x","abc"', True, True),
        ('"x,y" , W/"z",\t"abc"', True, True),
        ("*", True, True),
        ('"x"', False, False),
        ("abc", False, False),
        ('"ab\\"c"', False, False),
        ('"abc', False, False),
        ('w/"abc"', True, True),  # Malformed: W/ is case-sensitive. But it contains a tag.
        ("", False, False),
    ],
)
def test_lists_of_etags(listed: str, weakly: bool, strongly: bool) -> None:
    assert refuse(if_none_match=listed) == (NOT_MODIFIED if weakly else None)
    assert refuse(if_match=listed) == (None if strongly else FAILED)


def test_weak_etag_of_our_own() -> None:
    """Strong comparison never matches a weak tag, not even the same one (section 8.8.3.2)."""
    assert refuse(WEAK, if_none_match='"abc"') == NOT_MODIFIED
    assert refuse(WEAK, if_match='W/"abc"') == FAILED
    assert refuse(WEAK, if_match='"abc"') == FAILED
    assert not WEAK.allow_range('"abc"')
    assert not WEAK.allow_range('W/"abc"')


@pytest.mark.parametrize(
    ("date", "modified_since", "unmodified_since"),
    [
        (BEFORE, None, FAILED),
        (THEN, NOT_MODIFIED, None),
        (AFTER, NOT_MODIFIED, None),
        (time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(SECONDS)), NOT_MODIFIED, None),
        (time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(SECONDS)), NOT_MODIFIED, None),
        ("yesterday", None, None),
        ("", None, None),
        ("Sun, 06 Nov 1994 " + "9" * 5000 + ":49:37 GMT", None, None),
    ],
)
def test_dates(date: str, modified_since: str | None, unmodified_since: str | None) -> None:
    """All three formats of section 5.6.7 count. Malformed dates are ignored."""
    assert refuse(if_modified_since=date) == modified_since
    assert refuse(if_unmodified_since=date) == unmodified_since


def test_no_date_of_our_own() -> None:
    state = Validators('"abc"', None)
    assert refuse(state, if_modified_since=AFTER) is None
    assert refuse(state, if_unmodified_since=BEFORE) is None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        # A condition by tag makes the one by date void.
        ({"if_match": '"abc"', "if_unmodified_since": BEFORE}, None),
        ({"if_match": '"x"', "if_unmodified_since": AFTER}, FAILED),
        ({"if_none_match": '"x"', "if_modified_since": AFTER}, None),
        ({"if_none_match": '"abc"', "if_modified_since": BEFORE}, NOT_MODIFIED),
        # A 412 comes before a 304.
        ({"if_match": '"x"', "if_none_match": '"abc"'}, FAILED),
        ({"if_match": '"abc"', "if_none_match": '"abc"'}, NOT_MODIFIED),
        ({"if_unmodified_since": BEFORE, "if_none_match": '"abc"'}, FAILED),
        ({}, None),
    ],
)
def test_precedence(conditions: dict[str, Any], expected: str | None) -> None:
    """The order in which the conditions count (section 13.2.2)."""
    assert refuse(**conditions) == expected


@pytest.mark.parametrize(
    ("if_range", "allowed"),
    [
        (None, True),
        ('"abc"', True),
        (' "abc" ', True),
        ('W/"abc"', False),
        ('"x"', False),
        ('"x", "abc"', False),
        (THEN, True),
        (BEFORE, False),
        (AFTER, False),
        ("abc", False),
        ("", False),
    ],
)
def test_if_range(if_range: str | None, allowed: bool) -> None:
    """It takes one strong tag, or exactly the date (section 13.1.5)."""
    assert FILE.allow_range(if_range) == allowed


@pytest.mark.parametrize("etag", [None, "abc", ""])
def test_if_range_without_an_etag(etag: str | None) -> None:
    """Also with a malformed ETag, which some frameworks send."""
    assert not Validators(etag, None).allow_range('"abc"')
    assert not Validators(etag, None).allow_range("abc")
    assert not Validators(etag, None).allow_range(THEN)


@pytest.mark.parametrize("piece", ['"', ' "', 'W/"', "W/", "a", ","])
def test_linear(piece: str) -> None:
    """A quadratic search of a million characters would not end."""
    many = piece * (1_000_000 // len(piece))
    assert refuse(if_none_match=many, if_unmodified_since=many) is None
