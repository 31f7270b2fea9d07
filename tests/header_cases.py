"""Any request for a file, and any header of an application, against a model.

``decode`` makes a :class:`Case` from bytes. ``check`` sends it through the middleware and
compares the answer with the model. test_any_header.py does so for some random cases, and
fuzz/headers.py for as many as time allows.
"""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate, mktime_tz, parsedate_tz
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

from hypothesis import strategies as st

from wsgifile import FileWrapperMiddleware
from wsgifile.blocks import ShortFileError
from wsgifile.conditions import etag_of_file
from wsgifile.ranges import MAX_RANGES

#: No byte, a few, and more than one read takes.
SIZES = (1000, 0, 1, 1000, 70_000)
DATA = random.Random(1).randbytes(max(SIZES))
SECONDS = 1_700_000_000

METHODS = ("GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "get", "OPTIONS", "")
PROTOCOLS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2", "")
STATUSES = (
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200 OK",
    "200",
    "206 Partial Content",
    "103 Early Hints",
    "204 No Content",
    "304 Not Modified",
    "404 Not Found",
    "500 Oops",
)
ASKED = (
    "HTTP_RANGE",
    "HTTP_RANGE",
    "HTTP_RANGE",
    "HTTP_IF_RANGE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_MATCH",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_UNMODIFIED_SINCE",
)
SAID = (
    "Content-Length",
    "Content-Length",
    "Content-Length",
    "content-length",
    "Cache-Control",
    "Content-Type",
    "ETag",
    "Last-Modified",
    "Cache-Control",
    "Expires",
    "Accept-Ranges",
    "Content-Range",
    "Content-Encoding",
    "Content-MD5",
    "Transfer-Encoding",
    "X-Sendfile",
    "X-Other",
)
#: Stands for the ETag of the file.
ETAG = "\0"
#: Dates before, at and after that of the file, and one that no clock will ever show.
DATES = (
    *(formatdate(SECONDS + n, usegmt=True) for n in (-1, 0, 1)),
    f"Sun, 06 Nov {'9' * 30} 08:49:37 GMT",
)
CONDITIONS = (ETAG, ETAG, f"W/{ETAG}", f'"x", {ETAG}', '"x"', "*", *DATES)
#: Well-formed values, by the name of the field.
USUAL = {
    "HTTP_IF_RANGE": CONDITIONS,
    "HTTP_IF_NONE_MATCH": CONDITIONS,
    "HTTP_IF_MATCH": CONDITIONS,
    "HTTP_IF_MODIFIED_SINCE": DATES,
    "HTTP_IF_UNMODIFIED_SINCE": DATES,
    "Content-Length": ("0", "1", "10", "999", "1000", "70000", "70001"),
    "Content-Type": ("text/plain", "text/html; charset=utf-8"),
    "ETag": (ETAG, '"own"'),
    "Last-Modified": DATES,
    "Cache-Control": ("max-age=9", "max-age=9", "no-store"),
    "Expires": DATES,
    "Accept-Ranges": ("bytes", "none"),
    "Content-Encoding": ("identity", "gzip"),
}
#: Pieces of other values, besides single characters.
PIECES = (
    *("bytes=", "bytes", "-", "-", ",", ", ", "0", "1", "9", "10", "99", "500", "999", "1000"),
    *("70000", "1001", "0-0", "0-", "-1", "5-9", "500-501", "9" * 30, "0" * 30, "9" * 5000),
    *(ETAG, ETAG, f"W/{ETAG}", '"', '"x"', 'W/"x"', "*", "W/", " ", "\t", "=", ";", "+", "\xff"),
    *(formatdate(SECONDS + n, usegmt=True) for n in (-1, 0, 1, 10**10)),
    *("Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 ", "Tue"),
    *("08:49:37", " GMT", " -0000", "+9999", ":", "Feb 30 ", "no-store", "max-age=9", "identity"),
    *("gzip", "none", "bytes 0-9/1000", "text/plain", "chunked", "\xb2", "\r\n", "a"),
)


@dataclass
class Case:
    """A request, and the response of an application."""

    method: str = "GET"
    protocol: str = "HTTP/1.1"
    status: str = "200 OK"
    #: Fields of the request in the environ, and fields of the application.
    request: dict[str, str] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)
    size: int = 1000
    #: Position of the file, and its kind: path, descriptor or memory.
    position: int = 0
    kind: str = "path"
    wrapped: bool = False
    ranges: bool = True
    validators: bool = True


def decode(data: bytes) -> Case:  # noqa: C901  # all its functions count
    """Any bytes give a case, and every case comes from some bytes."""
    source = io.BytesIO(data)

    def byte() -> int:
        return (source.read(1) or b"\0")[0]

    def one(choices: tuple[Any, ...]) -> Any:
        return choices[byte() % len(choices)]

    def text() -> str:
        found = []
        for _ in range(byte() % 12):
            number = byte()
            found.append(PIECES[number] if number < len(PIECES) else chr(byte()))
        return "".join(found)

    def spec() -> str:
        first, last = (byte() * 256 + byte() for _ in range(2))
        # One in five is beyond the end.
        first, last = (number % (case.size * 5 // 4 + 2) for number in (first, last))
        form = byte() % 8
        if form < 5:
            return f"{first}-{first + byte() % 100}"
        return (f"{first}-", f"-{last}", f"{first}-{last}")[form - 5]

    def value(name: str) -> str:
        if not byte() % 4:
            return text()
        if name == "HTTP_RANGE":
            return "bytes=" + ", ".join(spec() for _ in range(1 + byte() % 4))
        return str(one(USUAL[name])) if name in USUAL else text()

    case = Case(one(METHODS), one(PROTOCOLS), one(STATUSES), size=one(SIZES))
    flags = byte()
    case.wrapped, case.ranges, case.validators = bool(flags & 1), flags & 6 != 6, flags & 24 != 24
    case.kind = ("path", "path", "descriptor", "memory")[flags >> 5 & 3]
    case.position = one((0, 0, 0, 1, 10, 2000))
    for _ in range(byte() % 5):
        name = one(ASKED)
        case.request[name] = value(name)
    for _ in range(max(0, byte() % 8 - 3)):
        name = one(SAID)
        case.headers.append((name, value(name)))
    whole = max(0, case.size - case.position)
    etag = etag_of_file(whole, SECONDS * 10**9, case.position)
    case.request = {name: value.replace(ETAG, etag) for name, value in case.request.items()}
    case.headers = [(name, value.replace(ETAG, etag)) for name, value in case.headers]
    return case


#: Bytes for decode(). They are evenly random, unlike those of st.binary().
ANYTHING = st.integers(0, 2**64).map(lambda seed: random.Random(seed).randbytes(100))


def make_files(directory: Path) -> None:
    """Make a file of each size, modified long ago."""
    for size in SIZES:
        path = directory / str(size)
        path.write_bytes(DATA[:size])
        os.utime(path, (SECONDS, SECONDS))


@dataclass
class Answer:
    """What a server would send."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    error: BaseException | None = None

    def get(self, name: str) -> str | None:
        """The value of the field. If the field is there twice, both must be equal."""
        values = {value for key, value in self.headers if key.lower() == name}
        assert len(values) < 2, (name, values)
        return values.pop() if values else None


def answer_to(case: Case, directory: Path) -> Answer:
    """The answer of the middleware, which must close the file whatever happens."""
    answer, headers, closed = Answer(), list(case.headers), []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(case.status, headers)
        file: Any
        if case.kind == "memory":
            file = io.BytesIO(DATA[: case.size])
        else:
            path = str(directory / str(case.size))
            # A file opened by its descriptor has no name, and so no validators.
            file = open(path if case.kind == "path" else os.open(path, os.O_RDONLY), "rb")
        file.seek(case.position)
        closed.append(file)
        return environ["wsgi.file_wrapper"](file, 4096) if case.wrapped else file

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        assert not answer.status
        answer.status, answer.headers = status, headers
        return lambda data: None

    environ: dict[str, Any] = {"REQUEST_METHOD": case.method, "SERVER_PROTOCOL": case.protocol}
    setup_testing_defaults(environ)
    environ.update(case.request)
    middleware = FileWrapperMiddleware(application, ranges=case.ranges, validators=case.validators)
    try:
        body = middleware(environ, start_response)
        try:
            for block in body:
                answer.body += block
        finally:
            body.close()  # type: ignore[attr-defined]
    except (ValueError, ShortFileError) as error:
        answer.error = error
    assert [file.closed for file in closed] == [True]
    assert headers == case.headers, "the application's own list was changed"
    return answer


def check(case: Case, directory: Path) -> None:
    """Compare the answer to any case with the model.

    The model says what RFC 9110 says, as simply as possible and not as the code says it. For a
    condition it only checks that the answer has a reason.
    """
    answer = answer_to(case, directory)
    whole = DATA[case.position : case.size]
    said = {name.lower() for name, _ in case.headers}
    lengths = [value for name, value in case.headers if name.lower() == "content-length"]
    promised = None
    if lengths:
        digits = lengths[0].strip(" \t")
        if len(set(lengths)) > 1 or not re.fullmatch("[0-9]{1,4300}", digits):
            assert isinstance(answer.error, ValueError), answer.error
            assert not answer.status, "the header was sent"
            return
        promised = int(digits)
    added = [field for field in answer.headers if field not in case.headers]
    assert all(re.fullmatch("[!-~]+( [!-~]+)*", value) for _, value in added), added

    if case.status.startswith(("1", "204", "304")):
        assert (answer.status, answer.body, answer.error) == (case.status, b"", None)
        assert answer.get("content-length") is None
        return
    length = len(whole) if promised is None else promised
    given = length <= len(whole)
    assert isinstance(answer.error, ShortFileError) == (not given and case.method != "HEAD")
    told = answer.get("content-length")
    if promised is None and "transfer-encoding" in said:
        assert told is None
    elif case.method == "HEAD":
        assert answer.body == b""
    elif given and not answer.status.startswith("304"):
        assert told is not None
        assert len(answer.body) == int(told), "Content-Length is not what is sent"

    ours = (
        case.method in ("GET", "HEAD")
        and case.status.startswith("200")
        and given
        and said.isdisjoint({"transfer-encoding", "x-sendfile"})
    )
    if not ours or answer.status == case.status:
        assert answer.status == case.status
        assert answer.body == (b"" if case.method == "HEAD" else whole[:length])
        assert not ours or not must_differ(case, length)
        return
    if answer.status[:3] in ("206", "416"):
        check_ranges(case, answer, whole[:length])
    else:
        check_condition(case, answer, length)


def check_ranges(case: Case, answer: Answer, whole: bytes) -> None:
    """Check a 206 or a 416: the Range field must have asked for it."""
    said = {name.lower() for name, _ in case.headers}
    assert case.method == "GET"
    assert case.ranges
    assert said.isdisjoint({"content-range", "content-md5"})
    assert all(v.lower() == "bytes" for v in values(case, "accept-ranges"))
    assert all(v.lower() == "identity" for v in values(case, "content-encoding"))
    wanted = parse_range(case.request["HTTP_RANGE"], len(whole))
    assert wanted is not None
    if answer.status.startswith("416"):
        assert answer.get("content-range") == f"bytes */{len(whole)}"
        assert not any(wanted)
    else:
        check_parts(answer, whole, wanted)


def check_condition(case: Case, answer: Answer, length: int) -> None:
    """Check a 304 or a 412: a condition must have asked for it."""
    asked, said = case.request, {name.lower() for name, _ in case.headers}
    assert case.kind == "path"
    assert case.validators
    assert said.isdisjoint({"etag", "last-modified"})
    etag = etag_of_file(length, SECONDS * 10**9, case.position)
    dated = not said.isdisjoint({"cache-control", "expires"})
    if answer.status.startswith("304"):
        assert (answer.body, answer.get("etag")) == (b"", etag)
        assert answer.get("content-type") is answer.get("content-length") is None
        none_match = asked.get("HTTP_IF_NONE_MATCH")
        if none_match is not None:
            assert none_match.strip() == "*" or etag in none_match
        else:
            assert dated
            assert seconds(asked["HTTP_IF_MODIFIED_SINCE"]) >= SECONDS
    else:
        assert answer.status.startswith("412")
        match = asked.get("HTTP_IF_MATCH")
        if match is not None:
            assert match.strip() not in ("*", etag)
        else:
            assert dated
            assert seconds(asked["HTTP_IF_UNMODIFIED_SINCE"]) < SECONDS


def must_differ(case: Case, length: int) -> bool:
    """Whether the whole file would be a wrong answer, for the simplest cases only."""
    if case.headers or len(case.request) != 1:
        return False
    [(name, value)] = case.request.items()
    if name == "HTTP_RANGE" and case.ranges and case.method == "GET":
        # An empty file has no first byte that a 206 could name.
        return bool(length) and parse_range(value, length) is not None
    etag = etag_of_file(length, SECONDS * 10**9, case.position)
    ours = case.validators and case.kind == "path" and case.size > 0
    if name == "HTTP_IF_NONE_MATCH":
        return ours and value in ("*", etag, f"W/{etag}")
    return name == "HTTP_IF_MATCH" and ours and value in (f"W/{etag}", '"x"')


def parse_range(value: str, length: int) -> list[range] | None:
    """The bytes asked for, range by range. None if the field must be ignored."""
    unit, equals, listed = value.partition("=")
    specs = [spec.strip(" \t") for spec in listed.split(",")]
    specs = [spec for spec in specs if spec]
    if unit.lower() != "bytes" or not equals or not 0 < len(specs) <= MAX_RANGES:
        return None
    found = []
    for spec in specs:
        if not re.fullmatch("[0-9]+-[0-9]*|-[0-9]+", spec):
            return None
        # Beyond the end of any file, the exact position does not matter.
        first, last = (
            (int(end) if len(end.lstrip("0")) < 19 else 10**18) if end else None
            for end in (end.lstrip("0") or end[-1:] for end in spec.split("-"))
        )
        if first is None:
            assert last is not None
            found.append(range(max(0, length - last), length))
        elif last is not None and last < first:
            return None
        else:
            found.append(range(first, length if last is None else min(last + 1, length)))
    return found


def check_parts(answer: Answer, whole: bytes, wanted: list[range]) -> None:
    """Each range, or several near ones together, has a part with exactly these bytes."""
    parts = [(answer.get("content-range"), answer.body)]
    if parts[0][0] is None:
        content_type = answer.get("content-type") or ""
        multipart = re.fullmatch("multipart/byteranges; boundary=([0-9a-f]+)", content_type)
        assert multipart, content_type
        first, *bodies, last = answer.body.split(f"\r\n--{multipart[1]}".encode())
        assert (first, last) == (b"", b"--\r\n")
        assert len(bodies) > 1
        parts = []
        for body in bodies:
            # (Content-Type comes from the application and may contain anything.)
            found = re.search(rb"Content-Range: (bytes [0-9]+-[0-9]+/[0-9]+)\r\n\r\n", body)
            assert found
            parts.append((found[1].decode(), body[found.end() :]))
    sent: set[int] = set()
    for content_range, data in parts:
        found_range = re.fullmatch("bytes ([0-9]+)-([0-9]+)/([0-9]+)", content_range or "")
        assert found_range, content_range
        start, last_one, length = map(int, found_range.groups())
        assert 0 <= start <= last_one < length == len(whole)
        assert data == whole[start : last_one + 1]
        assert sent.isdisjoint(range(start, last_one + 1)), "a byte is sent twice"
        sent.update(range(start, last_one + 1))
    asked = {number for one in wanted for number in one}
    assert asked <= sent
    assert len(sent - asked) <= 80 * len(wanted)


def values(case: Case, name: str) -> list[str]:
    return [value for key, value in case.headers if key.lower() == name]


def seconds(date: str) -> int:
    parsed = parsedate_tz(date)
    assert parsed is not None
    return mktime_tz((*parsed[:9], parsed[9] or 0))
