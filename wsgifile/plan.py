"""What goes out: the response's status and header, and the bytes behind it.

Pure computation on what the request and the application said and on what is
known of the file, all of it before the first byte is sent. What the application
did itself stands: its length, its validators, its own 206 or 304.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .conditions import UNDATED, Validators, date_of_file, etag_of_file
from .log import logger, one_line
from .ranges import ByteRange, select
from .recognise import FileRegion, KernelFile
from .wrapper import name_of

__all__ = ["Headers", "Plan", "make_plan"]

Headers = list[tuple[str, str]]

#: Fields of a 200 that say something of its content, not of the resource.
_OF_CONTENT = frozenset(
    {
        "accept-ranges",
        "content-digest",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
    }
)
#: And those that are not for an error instead of it, which no cache may keep in its place.
_OF_SUCCESS = _OF_CONTENT | {
    "cache-control",
    "digest",
    "etag",
    "expires",
    "last-modified",
    "repr-digest",
}

#: With one of these a part of the response is not ours to cut off, or would be
#: described by what was computed for the whole (RFC 9530, section 2).
_WHOLE_ONLY = frozenset({"content-digest", "content-md5", "content-range"})

#: The application has left its response to a proxy itself.
_BY_PROXY = frozenset({"x-accel-redirect", "x-lighttpd-send-file", "x-sendfile", "x-sendfile2"})

#: In the environ of a request that may be for less than the whole. Most have none.
_ASKING = frozenset(
    {
        "HTTP_IF_MATCH",
        "HTTP_IF_MODIFIED_SINCE",
        "HTTP_IF_NONE_MATCH",
        "HTTP_IF_UNMODIFIED_SINCE",
        "HTTP_RANGE",
    }
)


@dataclass(slots=True)
class Plan:
    """The header to give to the server, and how much of the file to send."""

    status: str
    headers: Headers
    #: Bytes to send; None: all there are, their number is unknown.
    count: int | None
    #: Whether the server is told so, by Content-Length.
    sized: bool
    #: Bytes of the region to leave out before them.
    start: int = 0
    #: What to send instead of one slice of the region: bytes, and ranges of it, in turn.
    parts: tuple[bytes | ByteRange, ...] | None = None
    #: The header by which it is left to a proxy.
    offload: str | None = None


def make_plan(
    environ: Mapping[str, Any],
    status: str,
    headers: Headers,
    region: FileRegion,
    *,
    method: str,
    written: int | None = None,
    ranges: bool = True,
    validators: bool = True,
    offload: Callable[[KernelFile], tuple[str, str] | None] | None = None,
) -> Plan:
    """Decide on the header and on the bytes to send.

    An application's Content-Length stands, and bounds what is sent, including
    the bytes that it has written by write() itself. If there is none, it is
    added where the length of the file is certain. HEAD, 1xx, 204 and 304 send
    no body (RFC 9110, sections 9.3.2, 15.2, 15.3.5, 15.4.5).

    :param method: that of the request when it came: by this one the server frames the
        response, whatever has become of REQUEST_METHOD.
    :param written: the bytes that the application has written itself, so that the
        header is out; None: it is not.
    :param ranges: whether to answer Range requests.
    :param validators: whether to add ETag and Last-Modified, and to answer
        conditional requests by them.
    :param offload: from a whole kernel file to the header that has a proxy send it,
        or None.
    :raises ValueError: for a Content-Length that is no number, or two of them, or
        more than the range of the file that the application asked for.
    """
    headers = list(headers)  # The application's is its own; and servers take items() as well.
    fields = {name.lower(): value for name, value in headers}
    if len(fields) < len(headers):
        fields = _merged(headers)
    length = fields.get("content-length")
    promised = None if length is None else _content_length(length)
    if status.startswith(("1", "204", "304")):
        # A length of 1xx and 204 is forbidden (section 8.6), the one of a 304
        # of no use; with either there are servers that wait for the bytes.
        if promised is not None:
            headers = _without(headers, {"content-length"})
        return Plan(status, headers, 0, False)
    count = region.length
    # Another middleware of ours has nothing of a file to send to HEAD.
    if promised is not None and (method != "HEAD" or region.limit is None):
        left = max(0, promised - (written or 0))
        if region.limit is not None and left > region.limit:
            # What lies behind the range is not meant for the client.
            raise ValueError(f"Content-Length {promised} of a range of {region.limit} bytes")
        if count is not None and count != left and not written and "content-range" not in fields:
            logger.warning(
                "Content-Length is %d, but %s has %d bytes",
                promised,
                one_line(name_of(region.filelike)),
                count,
            )
        count = left
    if written is not None:
        # The header is out as it was.
        return Plan(status, headers, 0 if method == "HEAD" else count, False)
    sized = promised is not None
    if not sized and count is not None and "transfer-encoding" not in fields:
        headers, sized = [*headers, ("Content-Length", str(count))], True
    plan = Plan(status, headers, count, sized)
    if sized and method in ("GET", "HEAD") and status.startswith("200"):
        plan = _as_asked_for(environ, method, plan, fields, region, ranges, validators, offload)
    if method == "HEAD":
        plan.count, plan.parts = 0, None
    return plan


def _as_asked_for(
    environ: Mapping[str, Any],
    method: str,
    plan: Plan,
    fields: Mapping[str, str],
    region: FileRegion,
    ranges: bool,
    validators: bool,
    offload: Callable[[KernelFile], tuple[str, str] | None] | None,
) -> Plan:
    """The plan, or a 206, 304, 412 or 416 in its place: what a client expects of a file."""
    if not _is_sliceable(plan, fields, region):
        return plan
    divisible = _is_divisible(fields)
    if offload is not None and divisible and _is_whole(plan, region):
        field = offload(region.kernel) if region.kernel is not None else None
        if field is not None:
            return _left_to_proxy(plan, field)
    own = _own_validators(plan, fields, region) if validators else []
    plan.headers = [*plan.headers, *own]
    if ranges and divisible and "accept-ranges" not in fields:
        plan.headers.append(("Accept-Ranges", "bytes"))
    if environ.keys().isdisjoint(_ASKING):
        return plan
    stated = {**fields, **{name.lower(): value for name, value in own}}
    state = Validators(stated.get("etag"), stated.get("last-modified"))
    # By the application's own validators it is for the application to refuse.
    refusal = state.refuse(environ) if own else None
    if refusal is not None:
        return _refused(refusal, plan.headers)
    # With HEAD the field means nothing (section 14.2).
    if ranges and divisible and method == "GET":
        return _part(plan, fields, _select(environ, state, plan.count or 0))
    return plan


def _is_sliceable(plan: Plan, fields: Mapping[str, str], region: FileRegion) -> bool:
    """Whether the body is so many bytes of a file, which may be had from anywhere in it."""
    return (
        plan.count is not None
        and region.size is not None
        and region.offset is not None
        and plan.count <= region.size
        and "transfer-encoding" not in fields
        and _BY_PROXY.isdisjoint(fields)
    )


def _is_divisible(fields: Mapping[str, str]) -> bool:
    """Whether a part of it is a part of what the application described."""
    return (
        fields.get("accept-ranges", "bytes").lower() == "bytes"
        and fields.get("content-encoding", "identity").lower() == "identity"
        and _WHOLE_ONLY.isdisjoint(fields)
    )


def _is_whole(plan: Plan, region: FileRegion) -> bool:
    """Whether it is all of the file, which is there when we have closed it, too."""
    return region.offset == 0 and plan.count == region.size and not region.temporary


def _left_to_proxy(plan: Plan, field: tuple[str, str]) -> Plan:
    # Conditions are the proxy's to answer as well, which has its own ETag.
    headers = [*_without(plan.headers, {"content-length"}), ("Content-Length", "0"), field]
    return Plan(plan.status, headers, 0, True, offload=field[0])


def _own_validators(plan: Plan, fields: Mapping[str, str], region: FileRegion) -> Headers:
    """ETag, and Last-Modified, where the application set neither and they tell something."""
    mtime_ns, control = region.mtime_ns, fields.get("cache-control")
    if "etag" in fields or "last-modified" in fields or mtime_ns is None or mtime_ns < UNDATED:
        return []
    if control is not None and "no-store" in control.lower():
        return []
    assert plan.count is not None
    assert region.offset is not None
    own = [("ETag", etag_of_file(plan.count, mtime_ns, region.offset))]
    # By the date alone caches take a response for fresh, the longer the older it is (RFC
    # 9111, section 4.2.2): not what an application said that may give another file.
    date = date_of_file(mtime_ns) if control is not None or "expires" in fields else None
    return own if date is None else [("Last-Modified", date), *own]


def _refused(status: str, headers: Headers) -> Plan:
    if status == "304 Not Modified":
        return Plan(status, _without(headers, _OF_CONTENT), 0, False)
    return _error(status, headers)


def _part(plan: Plan, fields: Mapping[str, str], selected: list[ByteRange] | None) -> Plan:
    """What was selected of it: all, nothing, one range or several."""
    if selected is None:
        return plan
    length, headers = plan.count or 0, plan.headers
    if not selected:
        unsatisfied = ("Content-Range", f"bytes */{length}")
        return _error("416 Range Not Satisfiable", headers, unsatisfied)
    if len(selected) > 1:
        return _multipart(headers, fields.get("content-type"), selected, length)
    [(start, stop)] = selected
    headers = [
        *_without(headers, {"content-length"}),
        ("Content-Range", f"bytes {start}-{stop - 1}/{length}"),
        ("Content-Length", str(stop - start)),
    ]
    return Plan("206 Partial Content", headers, stop - start, True, start)


def _select(environ: Mapping[str, Any], state: Validators, length: int) -> list[ByteRange] | None:
    """The ranges that the request is for; None: it is for the whole.

    So is one that says by a condition that the client has parts of something else,
    though it is the application's affair to answer that.
    """
    wanted = environ.get("HTTP_RANGE")
    if (
        wanted is None
        or not state.allow_range(environ.get("HTTP_IF_RANGE"))
        or state.refuse(environ) is not None
    ):
        return None
    return select(wanted, length)


def _multipart(
    headers: Headers, content_type: str | None, selected: list[ByteRange], length: int
) -> Plan:
    """Several ranges as multipart/byteranges (section 14.6)."""
    boundary = secrets.token_hex(16)
    typed = f"Content-Type: {content_type}\r\n" if content_type is not None else ""
    parts: list[bytes | ByteRange] = []
    for start, stop in selected:
        head = f"\r\n--{boundary}\r\n{typed}Content-Range: bytes {start}-{stop - 1}/{length}"
        parts += [f"{head}\r\n\r\n".encode("latin-1"), (start, stop)]
    parts.append(f"\r\n--{boundary}--\r\n".encode())
    count = sum(len(p) if isinstance(p, bytes) else p[1] - p[0] for p in parts)
    headers = [
        *_without(headers, {"content-length", "content-type"}),
        ("Content-Type", f"multipart/byteranges; boundary={boundary}"),
        ("Content-Length", str(count)),
    ]
    return Plan("206 Partial Content", headers, count, True, parts=tuple(parts))


def _error(status: str, headers: Headers, *more: tuple[str, str]) -> Plan:
    """A line of text that says what is wrong, instead of the file."""
    text = f"{status}\n".encode()
    headers = [
        *_without(headers, _OF_SUCCESS),
        *more,
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(text))),
    ]
    return Plan(status, headers, len(text), True, parts=(text,))


def _merged(headers: Headers) -> dict[str, str]:
    """By lower name; fields of one name are one list (section 5.3), equal ones one."""
    fields: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        before = fields.get(key, value)
        fields[key] = value if before == value else f"{before}, {value}"
    return fields


def _content_length(value: str) -> int:
    # Werkzeug and Paste take an int. Of other space a server would make something else.
    value = str(value).strip(" \t")
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"Content-Length must be one number of bytes, not {value!r}")
    return int(value)


def _without(headers: Headers, lower_names: frozenset[str] | set[str]) -> Headers:
    return [item for item in headers if item[0].lower() not in lower_names]
