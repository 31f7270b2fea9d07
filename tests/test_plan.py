"""make_plan(): Content-Length and the number of bytes, without sockets or files."""

from __future__ import annotations

import io

import pytest

from wsgifile.plan import make_plan
from wsgifile.recognise import FileRegion

TYPE = ("Content-Type", "text/plain")


def plan(method="GET", status="200 OK", headers=(), size=100, written=0, limit=None):
    region = FileRegion(io.BytesIO(), None, 0, size, limit, 1)
    return make_plan(method, status, list(headers), region, written)


def test_length_is_added():
    result = plan(headers=[TYPE])
    assert result.headers == [TYPE, ("Content-Length", "100")]
    assert result.count == 100
    assert result.sized


def test_length_unknown():
    result = plan(headers=[TYPE], size=None)
    assert (result.headers, result.count) == ([TYPE], None)
    assert not result.sized


@pytest.mark.parametrize(("length", "count"), [("100", 100), (" 7 ", 7), ("0", 0), ("1000", 1000)])
@pytest.mark.parametrize("size", [100, None])
def test_length_of_the_application_stands(length, count, size):
    headers = [("content-length", length)]
    result = plan(headers=headers, size=size)
    assert (result.headers, result.count) == (headers, count)
    assert result.sized


def test_written_by_the_application_counts():
    assert plan(headers=[("Content-Length", "100")], written=30).count == 70
    assert plan(headers=[("Content-Length", "10")], written=30).count == 0


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "+5", "5, 5", "²", "0x10"])
def test_length_malformed(value):
    with pytest.raises(ValueError, match="Content-Length must be one number"):
        plan(headers=[("Content-Length", value)])


def test_length_beyond_the_range():
    """Bytes of the file that lie behind the range are not for the client."""
    with pytest.raises(ValueError, match="Content-Length 11 of a range of 10 bytes"):
        plan(headers=[("Content-Length", "11")], size=10, limit=10)
    assert plan(headers=[("Content-Length", "10")], size=10, limit=10).count == 10
    # A file that has less than the range is a matter of sending it.
    assert plan(headers=[("Content-Length", "10")], size=5, limit=10).count == 10


def test_length_twice():
    with pytest.raises(ValueError, match="'1, 2'"):
        plan(headers=[("Content-Length", "1"), ("Content-Length", "2")])
    assert plan(headers=[("Content-Length", "1"), ("content-length", "1")]).count == 1


def test_transfer_encoding_of_the_application():
    """Content-Length beside it would be a way to smuggle (RFC 9112, section 6.1)."""
    headers = [("Transfer-Encoding", "chunked")]
    assert plan(headers=headers).headers == headers


def test_head():
    """The header of GET, no body (RFC 9110, section 9.3.2)."""
    result = plan("HEAD")
    assert (result.headers, result.count) == ([("Content-Length", "100")], 0)
    assert plan("HEAD", headers=[("Content-Length", "5")]).headers == [("Content-Length", "5")]
    assert plan("HEAD", size=None).count == 0


@pytest.mark.parametrize("status", ["103 Early Hints", "204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("headers", [[TYPE], [TYPE, ("Content-Length", "100")]])
def test_no_body(status, headers):
    result = plan(status=status, headers=headers)
    assert (result.headers, result.count) == ([TYPE], 0)


def test_headers_of_the_application_are_not_changed():
    headers = [TYPE]
    plan(headers=headers)
    assert headers == [TYPE]
