"""make_plan(): the header and the bytes to send, without sockets or files."""

from __future__ import annotations

import email
import io
import os
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from header_cases import ANYTHING, decode
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsgifile.conditions import Validators, date_of_file, etag_of_file
from wsgifile.options import Options
from wsgifile.plan import Plan, make_plan
from wsgifile.recognise import FileRegion

pytestmark = pytest.mark.quick

TYPE = ("Content-Type", "text/plain")


class Named(io.BytesIO):
    name = "/data"


def region(
    size: int | None,
    *,
    start: int = 0,
    limit: int | None = None,
    mtime_ns: int | None = None,
) -> FileRegion:
    """A file with size bytes after start; the application asked for no more than limit."""
    status = None
    if mtime_ns is not None:
        status = os.stat_result([0] * 10, {"st_mtime_ns": mtime_ns})
    return FileRegion(
        Named(),
        kernel=None,
        start=start,
        seek=True,
        end=None if size is None else start + size,
        limit=None if limit is None else start + limit,
        status=status,
    )


def plan(
    method: str = "GET",
    status: str = "200 OK",
    headers: Iterable[tuple[str, str]] = (),
    size: int | None = 100,
    written: int | None = None,
    limit: int | None = None,
) -> Plan:
    """The plan for a file without validators, with ranges switched off."""
    return make_plan(
        {},
        status,
        list(headers),
        region(size, limit=limit),
        method=method,
        options=Options(ranges=False),
        written=written,
    )


def test_length_is_added() -> None:
    result = plan(headers=[TYPE])
    assert result.headers == [TYPE, ("Content-Length", "100")]
    assert result.count == 100
    assert result.sized


def test_length_unknown() -> None:
    result = plan(headers=[TYPE], size=None)
    assert (result.headers, result.count) == ([TYPE], None)
    assert not result.sized


@pytest.mark.parametrize(("length", "count"), [("100", 100), (" 7 ", 7), ("0", 0)])
@pytest.mark.parametrize("size", [100, None])
def test_length_of_the_application_stands(length: str, count: int, size: int | None) -> None:
    headers = [("content-length", length)]
    result = plan(headers=headers, size=size)
    assert (result.headers, result.count) == (headers, count)
    assert result.sized


def test_length_of_a_file_of_unknown_length() -> None:
    assert plan(headers=[("Content-Length", "1000")], size=None).count == 1000


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_length_that_the_file_does_not_have(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets the true one, and the operator a warning."""
    result = plan(method, headers=[TYPE, ("content-length", "1000")])
    assert result.headers == [TYPE, ("Content-Length", "100")]
    assert (result.count, result.sized) == (100 if method == "GET" else 0, True)
    assert "Content-Length is 1000, but" in caplog.text


def test_length_that_is_said_twice() -> None:
    """By Content-Range as well: that part is not there, so the response has to break off."""
    headers = [("Content-Range", "bytes 0-999/1000"), ("Content-Length", "1000")]
    result = plan(status="206 Partial Content", headers=headers)
    assert (result.headers, result.count) == (headers, 1000)


def test_length_of_what_a_proxy_sends() -> None:
    headers = [("X-Sendfile", "/x"), ("Content-Length", "1000")]
    assert plan(headers=headers).headers == headers


def test_length_of_an_empty_file_for_head() -> None:
    """It may be the header of what GET would get."""
    headers = [("Content-Length", "1000")]
    assert plan("HEAD", headers=headers, size=0).headers == headers


def test_written_by_the_application_counts() -> None:
    assert plan(headers=[("Content-Length", "100")], written=30).count == 70
    assert plan(headers=[("Content-Length", "10")], written=30).count == 0


@pytest.mark.parametrize(
    "value", ["", "x", "-1", "1.5", "+5", "5, 5", "²", "0x10", "5\x1f", "5\n"]
)
def test_length_malformed(value: str) -> None:
    with pytest.raises(ValueError, match="Content-Length must be one number"):
        plan(headers=[("Content-Length", value)])


@pytest.mark.parametrize("kind", [tuple, iter, lambda items: dict(items).items()])
def test_headers_that_are_no_list(kind: Callable[[Any], Any]) -> None:
    """Headers may be any iterable, and Content-Length an int, as Werkzeug and Paste set it."""
    items: Any = [("Content-Length", 10), ("X-A", "b")]
    result = make_plan({}, "200 OK", kind(items), region(100), method="GET", options=Options())
    assert (result.headers, result.count) == ([*items, ("Accept-Ranges", "bytes")], 10)


def test_length_beyond_the_range() -> None:
    """A Content-Length beyond the range is an error: the client must not get bytes after it."""
    with pytest.raises(ValueError, match="Content-Length 11 of a range of 10 bytes"):
        plan(headers=[("Content-Length", "11")], size=10, limit=10)
    assert plan(headers=[("Content-Length", "10")], size=10, limit=10).count == 10
    assert plan(headers=[("Content-Length", "10")], size=5, limit=10).count == 5


def test_length_twice() -> None:
    with pytest.raises(ValueError, match="'1, 2'"):
        plan(headers=[("Content-Length", "1"), ("Content-Length", "2")])
    assert plan(headers=[("Content-Length", "1"), ("content-length", "1")]).count == 1


def test_transfer_encoding_of_the_application() -> None:
    """The application must not set it (PEP 3333), and it is not true of a file."""
    headers = [("Transfer-Encoding", "chunked")]
    assert plan(headers=headers).headers == [("Content-Length", "100")]
    assert plan("HEAD", headers=headers).headers == [("Content-Length", "100")]
    assert plan(headers=headers, size=None).headers == []
    assert plan(headers=headers, written=0).headers == headers  # They are out.


@pytest.mark.parametrize("name", ["Content-Length ", "\tcontent-length"])
def test_white_space_around_a_name(name: str) -> None:
    """No second length beside it."""
    assert plan(headers=[(name, "7")]).headers == [(name.strip(), "7")]
    with pytest.raises(ValueError, match="'7, 8'"):
        plan(headers=[(name, "7"), ("Content-Length", "8")])


def test_head() -> None:
    """HEAD gets the header of GET and no body (RFC 9110, section 9.3.2)."""
    result = plan("HEAD")
    assert (result.headers, result.count) == ([("Content-Length", "100")], 0)
    assert plan("HEAD", headers=[("Content-Length", "5")]).headers == [("Content-Length", "5")]
    assert plan("HEAD", size=None).count == 0


@pytest.mark.parametrize("status", ["103 Early Hints", "204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("headers", [[TYPE], [TYPE, ("Content-Length", "100")]])
def test_no_body(status: str, headers: list[tuple[str, str]]) -> None:
    result = plan(status=status, headers=headers)
    assert (result.headers, result.count) == ([TYPE], 0)


def test_headers_of_the_application_are_not_changed() -> None:
    headers = [TYPE]
    plan(headers=headers)
    assert headers == [TYPE]


LENGTH = 1000
MTIME = 1_700_000_000 * 10**9
STATE = Validators(etag_of_file(b"/data", LENGTH, MTIME), date_of_file(MTIME))
FRESH = ("Cache-Control", "max-age=9")


def asked(
    headers: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    status: str = "200 OK",
    kind: str = "by path",
    written: int | None = None,
    ranges: bool = True,
    validators: bool = True,
    **request: str | None,
) -> Plan:
    """The plan for a request with these header fields.

    :param kind: of the file: "by path"; "unnamed", with no time of modification; or "endless",
        with no known size either.
    """
    mtime_ns = MTIME if kind == "by path" else None
    size = None if kind == "endless" else LENGTH
    environ = {f"HTTP_{name.upper()}": value for name, value in request.items()}
    return make_plan(
        environ,
        status,
        [TYPE, *headers],
        region(size, mtime_ns=mtime_ns),
        method=method,
        options=Options(ranges=ranges, validators=validators),
        written=written,
    )


def test_what_a_client_is_told() -> None:
    """The response tells the client that it may ask for ranges, and by which ETag."""
    result = asked()
    assert (result.status, result.parts) == ("200 OK", ((0, LENGTH),))
    assert result.headers == [
        TYPE,
        ("Content-Length", "1000"),
        ("ETag", STATE.etag),
        ("Accept-Ranges", "bytes"),
    ]
    assert asked(method="HEAD").headers == result.headers
    assert asked(method="HEAD").count == 0
    assert asked(ranges=False).headers == result.headers[:-1]
    assert asked(validators=False).headers == [*result.headers[:2], ("Accept-Ranges", "bytes")]


@pytest.mark.parametrize("seconds", [-1, 0, 1, 315532801, 499162500])
def test_time_that_packagers_set(seconds: int) -> None:
    """A time of modification that packagers give to all files makes no validator.

    The next version of the file has the same time.
    """
    file = region(LENGTH, mtime_ns=seconds * 10**9)
    asks = {"HTTP_IF_NONE_MATCH": "*", "HTTP_IF_MODIFIED_SINCE": "Fri, 01 Jan 2100 00:00:00 GMT"}
    result = make_plan(asks, "200 OK", [FRESH], file, method="GET", options=Options())
    assert result.status == "200 OK"
    assert [name for name, _ in result.headers[1:]] == ["Content-Length", "Accept-Ranges"]


@pytest.mark.parametrize("fresh", [FRESH, ("expires", "0"), ("Cache-Control", "no-cache")])
def test_date(fresh: tuple[str, str]) -> None:
    """Last-Modified is added only if the application says how long the file stays fresh.

    With the date alone, a cache guesses that (RFC 9111, section 4.2.2), and a browser may
    show the file of the user who was logged in before.
    """
    assert asked([fresh]).headers == [
        TYPE,
        fresh,
        ("Content-Length", "1000"),
        ("Last-Modified", STATE.last_modified),
        ("ETag", STATE.etag),
        ("Accept-Ranges", "bytes"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "POST"},
        {"status": "201 Created"},
        {"status": "404 Not Found"},
        {"status": "206 Partial Content", "headers": [("Content-Range", "bytes 0-999/9999")]},
        {"kind": "endless"},
        {"headers": [("Content-Length", "1001"), ("X-Sendfile", "/x")]},
        {"written": 0},
        {"written": 5, "headers": [("Content-Length", "1000")]},
    ],
)
def test_not_ours_to_answer(options: Any) -> None:
    """Only a 200 to GET or HEAD with a file of known length gets validators and ranges."""
    result = asked(range="bytes=0-0", if_none_match="*", if_match='"x"', **options)
    assert result.status == options.get("status", "200 OK")
    names = {name.lower() for name, _ in result.headers}
    assert not names & {"etag", "last-modified", "accept-ranges"}
    [(start, _)] = result.parts
    assert start == 0


def test_range() -> None:
    result = asked(range="bytes=10-19")
    assert (result.status, result.parts) == ("206 Partial Content", ((10, 20),))
    assert result.sized
    assert dict(result.headers) == {
        "Content-Type": "text/plain",
        "Content-Length": "10",
        "Content-Range": "bytes 10-19/1000",
        "Accept-Ranges": "bytes",
        "ETag": STATE.etag,
    }


def test_range_of_what_the_application_promised() -> None:
    """A range is a part of what the application's Content-Length promises."""
    result = asked([("content-length", "100")], range="bytes=-10")
    assert result.parts == ((90, 100),)
    assert ("Content-Range", "bytes 90-99/100") in result.headers
    assert [value for name, value in result.headers if name.lower() == "content-length"] == ["10"]


@pytest.mark.parametrize(
    ("headers", "request_"),
    [
        ([], {"range": "bytes=9-1"}),
        ([], {"range": "lines=0-1"}),
        ([], {"range": "bytes=0-0", "method": "HEAD"}),  # RFC 9110, section 14.2
        ([], {"range": "bytes=0-0", "if_range": '"other"'}),
        ([], {"range": "bytes=0-0", "ranges": False}),
        ([("Accept-Ranges", "none")], {"range": "bytes=0-0"}),
        ([("Content-Encoding", "gzip")], {"range": "bytes=0-0"}),
        ([("Content-MD5", "Q2hlY2sgSW50ZWdyaXR5IQ==")], {"range": "bytes=0-0"}),
        ([("Content-Digest", "sha-256=:x:")], {"range": "bytes=0-0"}),
        ([("Content-Range", "bytes 0-999/9999")], {"range": "bytes=0-0"}),
    ],
)
def test_range_is_ignored(headers: list[tuple[str, str]], request_: Any) -> None:
    result = asked(headers, **request_)
    stop = 0 if request_.get("method") == "HEAD" else 1000
    assert (result.status, result.parts) == ("200 OK", ((0, stop),))
    assert ("Content-Length", "1000") in result.headers


@pytest.mark.parametrize(
    "headers", [[("Content-Encoding", "identity")], [("accept-ranges", "bytes")]]
)
def test_range_in_spite_of(headers: list[tuple[str, str]]) -> None:
    result = asked(headers, range="bytes=0-0")
    assert result.count == 1
    assert [name.lower() for name, _ in result.headers].count("accept-ranges") == 1


@pytest.mark.parametrize("if_range", [STATE.etag, STATE.last_modified])
def test_if_range(if_range: str) -> None:
    assert asked([FRESH], range="bytes=0-0", if_range=if_range).count == 1
    assert asked([FRESH], range="bytes=0-0", if_range=if_range, validators=False).count == LENGTH
    assert asked(range="bytes=0-0", if_range=if_range, kind="unnamed").count == LENGTH


@pytest.mark.parametrize(
    "condition",
    [
        {"if_match": '"before"'},
        {"if_unmodified_since": "Sun, 06 Nov 1994 08:49:36 GMT"},
        {"if_none_match": '"own"'},
    ],
)
@pytest.mark.parametrize("kind", ["by path", "unnamed"])
def test_range_of_something_else(condition: dict[str, Any], kind: str) -> None:
    """No range is sent if a condition fails (RFC 9110, section 13.2.2).

    The client gets the whole file. Whether it gets a 412 or a 304 instead is up to the
    application, because the validators are the application's own.
    """
    headers = [("ETag", '"own"'), ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")]
    assert asked(headers, kind=kind, range="bytes=0-0").count == 1
    result = asked(headers, kind=kind, range="bytes=0-0", **condition)
    assert (result.status, result.count) == ("200 OK", LENGTH)


def test_range_of_what_has_no_etag() -> None:
    assert asked(kind="unnamed", range="bytes=0-0", if_match='"x"').count == LENGTH


def test_if_range_of_the_application() -> None:
    """If-Range is compared with the application's validators, not with ours."""
    headers = [("ETag", '"own"')]
    assert asked(headers, range="bytes=0-0", if_range='"own"').count == 1
    assert asked(headers, range="bytes=0-0", if_range=STATE.etag).count == LENGTH


def test_unsatisfiable() -> None:
    """A 416 (RFC 9110, section 15.5.17) has no field that lets a cache keep it as the file."""
    more = [("Cache-Control", "max-age=9"), ("Set-Cookie", "a=b"), ("Content-Disposition", "x")]
    result = asked(more, range="bytes=1000-")
    assert (result.status, result.count) == ("416 Range Not Satisfiable", 26)
    assert result.parts == (b"416 Range Not Satisfiable\n",)
    assert dict(result.headers) == {
        "Set-Cookie": "a=b",
        "Content-Range": "bytes */1000",
        "Content-Type": "text/plain",
        "Content-Length": "26",
    }


def test_multipart() -> None:
    """Several ranges become one body (RFC 9110, section 14.6) that the standard library parses."""
    result = asked(range="bytes=500-501,0-0")
    assert (result.status, result.sized) == ("206 Partial Content", True)
    fields = dict(result.headers)
    assert fields["Content-Length"] == str(result.count)
    assert "Content-Range" not in fields
    body = b"".join(
        p if isinstance(p, bytes) else b"x" * ((p[1] or 0) - p[0]) for p in result.parts
    )
    assert len(body) == result.count
    head = f"Content-Type: {fields['Content-Type']}\r\n".encode()
    message: Any = email.message_from_bytes(head + body)
    assert message.is_multipart()
    assert [
        (part["Content-Type"], part["Content-Range"], part.get_payload())
        for part in message.get_payload()
    ] == [
        ("text/plain", "bytes 500-501/1000", "xx"),
        ("text/plain", "bytes 0-0/1000", "x"),
    ]
    assert fields["Content-Type"] != dict(asked(range="bytes=500-501,0-0").headers)["Content-Type"]


def test_ranges_that_are_one() -> None:
    assert asked(range="bytes=0-9,10-19").count == 20


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_not_modified(method: str) -> None:
    """A 304 has the header without the fields of the content (RFC 9110, section 15.4.5)."""
    headers = [FRESH, ("Content-Disposition", "attachment"), ("Content-MD5", "x")]
    result = asked(headers, method=method, if_none_match=STATE.etag, range="bytes=0-0")
    assert (result.status, result.count, result.sized) == ("304 Not Modified", 0, False)
    assert result.headers == [
        headers[0],
        ("Last-Modified", STATE.last_modified),
        ("ETag", STATE.etag),
    ]


def test_precondition_failed() -> None:
    result = asked([("Repr-Digest", "x")], if_match='"other"')
    assert (result.status, result.count) == ("412 Precondition Failed", 24)
    assert dict(result.headers) == {"Content-Type": "text/plain", "Content-Length": "24"}
    head = asked(if_match='"other"', method="HEAD")
    assert (head.headers, head.count, head.parts) == (result.headers, 0, ((0, 0),))


@pytest.mark.parametrize(
    "headers",
    [
        [("ETag", '"own"')],
        [("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")],
        [("cache-control", "private, No-Store")],
        [("Cache-Control", "private"), ("Cache-Control", "no-store")],
    ],
)
def test_validators_that_are_not_ours(headers: list[tuple[str, str]]) -> None:
    """If the application set a validator or no-store, we add none and answer no conditions.

    The application saw the request too, and could answer them itself.
    """
    result = asked(headers, if_none_match="*", if_match='"x"')
    assert result.status == "200 OK"
    assert result.headers == [
        TYPE,
        *headers,
        ("Content-Length", "1000"),
        ("Accept-Ranges", "bytes"),
    ]


@pytest.mark.parametrize("options", [{"validators": False}, {"kind": "unnamed"}])
def test_no_validators(options: Any) -> None:
    result = asked(if_none_match="*", **options)
    assert result.status == "200 OK"
    assert not {"ETag", "Last-Modified"} & dict(result.headers).keys()


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    data=ANYTHING,
    size=st.none() | st.integers(0, 2000),
    start=st.integers(0, 100),
    limit=st.none() | st.integers(0, 2000),
    written=st.none() | st.integers(0, 50),
    named=st.booleans(),
)
@example(  # The application's Content-Length is the only length, and a range is cut out of it.
    data=random.Random(601).randbytes(100),
    size=None,
    start=0,
    limit=None,
    written=None,
    named=False,
)
def test_any_plan(
    data: bytes,
    size: int | None,
    start: int,
    limit: int | None,
    written: int | None,
    named: bool,
) -> None:
    """Only a Content-Length makes it raise, and no header makes it go beyond the range."""
    case = decode(data)
    if case.method == "HEAD":
        written = None  # HEAD with write() is not tested here.
    file = region(size, start=start, limit=limit, mtime_ns=MTIME if named else None)
    headers = list(case.headers)
    values = [value for name, value in headers if name.lower() == "content-length"]
    try:
        result = make_plan(
            case.request,
            case.status,
            headers,
            file,
            method=case.method,
            options=Options(),
            written=written,
        )
    except ValueError:
        assert values
        return
    finally:
        assert headers == case.headers
    lengths = {int(value) for name, value in result.headers if name.lower() == "content-length"}
    if written is not None and case.method != "HEAD":
        assert (result.status, result.sized) == (case.status, False)
    if result.status.startswith(("1", "204", "304")):
        assert (result.count, lengths) == (0, set())
        return
    if case.method == "HEAD":
        assert result.parts == ((start, start),)
        return
    slices = [part for part in result.parts if not isinstance(part, bytes)]
    if result.count is None:
        assert (slices, size, values, lengths) == ([(start, None)], None, [], set())
        return
    stops = [stop for _, stop in slices if stop is not None]
    text = sum(len(part) for part in result.parts if isinstance(part, bytes))
    assert result.count == text + sum(stops) - sum(begin for begin, _ in slices)
    assert limit is None or all(stop <= start + limit for stop in stops)
    assert not lengths or lengths == {result.count} or written
    if result.status != case.status:
        assert lengths == {result.count}
        # If the length of the file is not known, it is what the application says.
        end = start + int(values[0]) if file.stop is None else file.stop
        assert all(start <= begin for begin, _ in slices)
        assert all(stop <= end for stop in stops)
        assert result.count - text <= end - start
    elif not values:
        assert slices == [(start, file.stop)]
