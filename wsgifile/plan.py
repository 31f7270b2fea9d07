"""What is sent: the status, the header and the bytes.

A pure computation, done before the first byte is sent, from the request, from what the
application said and from what is known of the file. What the application did itself
stands: its length, its validators, its own 206 or 304.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from .blocks import name_of
from .conditions import UNDATED, Validators, date_of_file, etag_of_file, path_of_file
from .log import logger, one_line, warn_once
from .options import Options
from .ranges import ByteRange, select
from .recognise import FileRegion
from .sources import goes_forwards

__all__ = ["Headers", "Part", "Plan", "ends_connection", "make_plan", "never_has_body"]

Headers = list[tuple[str, str]]

#: Bytes of our own, or a range of the file, whose stop is None if it is not known.
Part = bytes | tuple[int, int | None]

#: Fields of a 200 that describe its content, not the resource.
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
#: Fields that an error must not have. No cache may keep the error in the file's place.
_OF_SUCCESS = _OF_CONTENT | {
    "cache-control",
    "digest",
    "etag",
    "expires",
    "last-modified",
    "repr-digest",
}

#: Fields that a redirect must not have. They are about the file, or let caches keep the response.
_NOT_OF_REDIRECT = _OF_SUCCESS | {
    "age",
    "content-location",
    "location",
    "pragma",
    "surrogate-control",
    "x-accel-expires",
}

#: With one of these fields we must not cut a part out of the response: it is a part
#: already, or the field was computed for the whole (RFC 9530, section 2).
_INDIVISIBLE = frozenset({"content-digest", "content-md5", "content-range"})

#: With one of these fields the application itself leaves the response to a proxy.
_BY_PROXY = frozenset({"x-accel-redirect", "x-lighttpd-send-file", "x-sendfile", "x-sendfile2"})

#: Returns the header that leaves a whole file to a proxy or to a store, or None. It gets the
#: application's header, too, by lower-case names.
Leave = Callable[[FileRegion, Mapping[str, str]], tuple[str, str] | None]

#: Keys in the environ of a request for less than the whole. Most requests have none.
_CONDITIONAL = frozenset(
    {
        "HTTP_IF_MATCH",
        "HTTP_IF_MODIFIED_SINCE",
        "HTTP_IF_NONE_MATCH",
        "HTTP_IF_UNMODIFIED_SINCE",
        "HTTP_RANGE",
    }
)


class Plan:
    """The header for the server, and what to send after it.

    :param parts: what to send, one after the other. Ranges are absolute positions in the file.
    :param sized: whether Content-Length tells the server how many bytes will come.
    :param offload: the header that leaves the file to a proxy or to a store, if one does.
    :param described: the parts that GET would send. None: the method is not HEAD.
    """

    __slots__ = ("count", "described", "headers", "offload", "parts", "sized", "status")
    # Declared because type checkers may infer other types from the assignments.
    status: str
    headers: Headers
    parts: tuple[Part, ...]
    sized: bool
    offload: str | None
    described: tuple[Part, ...] | None
    #: Number of bytes to send; None: all until the end of the file.
    count: int | None

    def __init__(
        self,
        status: str,
        headers: Headers,
        parts: tuple[Part, ...],
        sized: bool,
        offload: str | None = None,
        described: tuple[Part, ...] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.parts = parts
        self.sized = sized
        self.offload = offload
        self.described = described
        self.count = 0
        for part in parts:
            if isinstance(part, bytes):
                self.count += len(part)
            elif part[1] is None:
                self.count = None
                break
            else:
                self.count += part[1] - part[0]


def make_plan(
    environ: Mapping[str, Any],
    status: str,
    headers: Headers,
    region: FileRegion,
    *,
    method: str,
    options: Options,
    written: int | None = None,
    altered: bool = False,
    offload: Leave | None = None,
) -> Plan:
    """Decide on the header and on the bytes to send.

    An application's Content-Length stands. It limits what is sent, together with the bytes
    that the application sent by write(). If the length of the file is certain, it is added
    where there is no Content-Length, and replaces a larger one. HEAD, 1xx, 204 and 304 have no
    body (RFC 9110, sections 9.3.2, 15.2, 15.3.5, 15.4.5).

    :param method: the method that the request came with. The server frames the response by it,
        even if the application changed REQUEST_METHOD.
    :param written: number of bytes that the application sent by write(), after the header;
        None: the header has not been sent.
    :param altered: whether the server changes the bytes. Then the header says nothing of them.
    :param offload: leaves a whole file to a proxy or to a store, if it can. None: nothing is
        left to others, because the header is out or by configuration.
    :raises ValueError: for a Content-Length that is not one number, or that is larger than the
        range of the file that the application asked for.
    """
    headers, fields = _said_by_application(headers, header_is_out=written is not None)
    length = fields.get("content-length")
    promised = None if length is None else _parse_length(length)
    if never_has_body(status):
        # RFC 9110, section 8.6 forbids the field for 1xx and 204. It is of no use for 304,
        # and some servers wait for the bytes.
        return Plan(status, _without(headers, {"content-length"}), _nothing(region), False)
    stop = region.stop
    if promised is not None:
        stop = _promised_stop(promised, region, method=method, written=written, fields=fields)
    # A file on disk with a length of the application's goes past what alters the body.
    says_nothing = altered and (promised is None or region.kernel is None)
    sized = stop is not None and written is None and not says_nothing
    if sized:
        assert stop is not None
        headers = _with_length(headers, promised, stop - region.start)
    plan = Plan(status, headers, ((region.start, stop),), sized)
    if method in ("GET", "HEAD") and not altered and plan.status.startswith("200"):
        plan = _as_requested(
            environ, plan, fields, region, method=method, options=options, offload=offload
        )
    if method == "HEAD":
        nothing = _nothing(region)
        return Plan(
            plan.status,
            plan.headers,
            nothing,
            sized=plan.sized,
            offload=plan.offload,
            described=plan.parts,
        )
    return plan


def _with_length(headers: Headers, promised: int | None, length: int) -> Headers:
    """The header with this Content-Length, unless the application has promised the same."""
    if promised == length:
        return headers
    if promised is not None:
        headers = _without(headers, {"content-length"})
    headers.append(("Content-Length", str(length)))
    return headers


def _nothing(region: FileRegion) -> tuple[Part, ...]:
    return ((region.start, region.start),)


def _promised_stop(
    promised: int,
    region: FileRegion,
    *,
    method: str,
    written: int | None,
    fields: Mapping[str, str],
) -> int:
    """The position behind the last byte that the application's Content-Length promises.

    If the file certainly ends earlier, it is the end of the file. A part is an exception: its
    Content-Range promises the same bytes, so that response has to break off.
    """
    left = max(0, promised - (written or 0))
    stop = region.start + left
    if region.limit is not None and stop > region.limit:
        # The bytes behind the range are not meant for the client.
        raise ValueError(
            f"Content-Length {promised} of a range of {region.limit - region.start} bytes"
        )
    if region.stop is None or region.stop == stop or written is not None:
        return stop
    if "content-range" in fields or (method == "HEAD" and region.stop == region.start):
        return stop  # For HEAD, an application may give the header of GET with an empty file.
    logger.warning(
        "Content-Length is %d, but %s has %d bytes",
        promised,
        one_line(name_of(region.filelike)),
        region.stop - region.start,
    )
    return min(stop, region.stop) if _BY_PROXY.isdisjoint(fields) else stop


def _is_ok_slice_of_file(plan: Plan, fields: Mapping[str, str], region: FileRegion) -> bool:
    """Whether it is a 200 with bytes of a file, and any part of these can be sent.

    If only the application knows the length, the file has to be one that can be moved
    forwards. It must not be one whose length the kernel should know but does not, as in /proc.
    """
    if not (plan.sized and plan.count is not None and _BY_PROXY.isdisjoint(fields)):
        return False
    if region.end is None:
        return region.status is None and goes_forwards(region.filelike)
    return region.start + plan.count <= region.end


def _as_requested(
    environ: Mapping[str, Any],
    plan: Plan,
    fields: Mapping[str, str],
    region: FileRegion,
    *,
    method: str,
    options: Options,
    offload: Leave | None,
) -> Plan:
    """What a client expects of a file: this 200, or a 206, 302, 304, 412 or 416 in its place."""
    divisible = _is_divisible(fields)
    left = _left(plan, fields, region, offload) if divisible and offload is not None else None
    if left is not None:
        return left
    if not _is_ok_slice_of_file(plan, fields, region):
        return plan
    own = _own_validators(plan, fields, region) if options.validators else []
    plan.headers += own
    ranges = options.ranges and divisible
    if ranges and "accept-ranges" not in fields:
        plan.headers.append(("Accept-Ranges", "bytes"))
    if environ.keys().isdisjoint(_CONDITIONAL):
        return plan
    # Range means nothing with HEAD (RFC 9110, section 14.2).
    ranges = ranges and method == "GET"
    return _on_conditions(environ, plan, own=own, fields=fields, region=region, ranges=ranges)


def _on_conditions(
    environ: Mapping[str, Any],
    plan: Plan,
    own: Headers,
    fields: Mapping[str, str],
    region: FileRegion,
    *,
    ranges: bool,
) -> Plan:
    """What a request with conditions or ranges gets: this 200, or what replaces it.

    :param own: the validators that were added to the application's header.
    """
    stated = dict(own)  # If there are any, the application has set neither.
    validators = Validators(
        stated.get("ETag", fields.get("etag")),
        stated.get("Last-Modified", fields.get("last-modified")),
    )
    # An application with validators of its own answers conditions itself.
    refusal = validators.refuse(environ) if own else None
    if refusal is not None:
        return _refused(refusal, plan.headers, region)
    if ranges:
        return _part(plan, fields, region, _selected(environ, validators, plan, region))
    return plan


def _is_divisible(fields: Mapping[str, str]) -> bool:
    """Whether a part of the body is a part of what the header describes."""
    return (
        fields.get("accept-ranges", "bytes").lower() == "bytes"
        and fields.get("content-encoding", "identity").lower() == "identity"
        and _INDIVISIBLE.isdisjoint(fields)
    )


def _left(
    plan: Plan, fields: Mapping[str, str], region: FileRegion, offload: Leave
) -> Plan | None:
    """The response that leaves a whole file to somebody else; None: the file is not left."""
    if not (_BY_PROXY.isdisjoint(fields) and _is_whole_file(plan, region)):
        return None
    field = offload(region, fields)
    if field is None:
        return None
    # Whoever sends the file answers ranges and conditions too, and has an ETag of its own.
    if field[0] == "Location":
        headers = _of_redirect(plan.headers, fields.get("cache-control", ""))
        return Plan("302 Found", [*headers, field], _nothing(region), sized=True, offload=field[0])
    headers = [*_without(plan.headers, {"content-length"}), ("Content-Length", "0"), field]
    return Plan(plan.status, headers, _nothing(region), sized=True, offload=field[0])


def _is_whole_file(plan: Plan, region: FileRegion) -> bool:
    """Whether the body is all of a file that still exists after we have closed it.

    If the length of the file is not known, the length that the application gives is all of it,
    unless the application also set a limit.
    """
    if region.start != 0 or region.temporary:
        return False
    return region.limit is None if region.end is None else plan.count == region.end


def _of_redirect(headers: Headers, control: str) -> Headers:
    """The application's header, changed for a 302.

    For GET and HEAD, a 302 means the same as a 307, and HTTP/1.0 knows it. The application lets
    caches keep the file. A cache must not keep the URL, which expires soon and which nobody else
    may have (RFC 9110, section 15.4.3; RFC 9111, section 5.2.2.5; RFC 9213).

    :param control: the application's Cache-Control.
    """
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() not in _NOT_OF_REDIRECT and not name.lower().endswith("-cache-control")
    ]
    control = control if "no-store" in control.lower() else "private, no-store"
    return [*kept, ("Cache-Control", control), ("Content-Length", "0")]


def _own_validators(plan: Plan, fields: Mapping[str, str], region: FileRegion) -> Headers:
    """ETag, and Last-Modified, of a file whose application set neither."""
    control = fields.get("cache-control")
    if not _VALIDATORS.isdisjoint(fields) or (
        control is not None and "no-store" in control.lower()
    ):
        return []
    known = _etag_of_source(plan, region) if region.status is None else _etag_of_disk(plan, region)
    if known is None:
        return []
    etag, mtime_ns = ("ETag", known[0]), known[1]
    # From a date alone, a cache guesses for how long the response stays fresh: the older the
    # date, the longer (RFC 9111, section 4.2.2). That is wrong if the application gives the next
    # client another file. So the date is added only where it set Cache-Control or Expires.
    date = date_of_file(mtime_ns) if control is not None or "expires" in fields else None
    return [etag] if date is None else [("Last-Modified", date), etag]


def _etag_of_disk(plan: Plan, region: FileRegion) -> tuple[str, int] | None:
    """The ETag of a file that was opened by its path, and its time of modification."""
    assert region.status is not None
    assert plan.count is not None
    mtime_ns = region.status.st_mtime_ns
    path = path_of_file(region.filelike, region.status) if mtime_ns >= UNDATED else None
    if path is None:
        return None
    return etag_of_file(path, plan.count, mtime_ns, region.start), mtime_ns


def _etag_of_source(plan: Plan, region: FileRegion) -> tuple[str, int] | None:
    """The store's ETag of the object and its time of modification, if this is all of it."""
    source = region.source
    if source is None or source.etag is None or region.start or plan.count != region.end:
        return None
    return source.etag, source.modified_ns or 0


_VALIDATORS = frozenset({"etag", "last-modified"})


def _refused(status: str, headers: Headers, region: FileRegion) -> Plan:
    """The 304 or 412 that a condition of the request asks for."""
    if status == "304 Not Modified":
        return Plan(status, _without(headers, _OF_CONTENT), _nothing(region), False)
    return _error(status, headers)


def _selected(
    environ: Mapping[str, Any], validators: Validators, whole: Plan, region: FileRegion
) -> list[ByteRange] | None:
    """The ranges that the request asks for; None: it gets the whole.

    It also gets the whole if a condition says that the client has parts of another version;
    refusing by that condition is up to the application. The third case is a file that can only
    go forwards, and ranges that go back in it.
    """
    wanted = environ.get("HTTP_RANGE")
    if (
        wanted is None
        or not validators.allow_range(environ.get("HTTP_IF_RANGE"))
        or validators.refuse(environ) is not None
    ):
        return None
    assert whole.count is not None
    selected = select(wanted, whole.count)
    if selected is not None and not region.random and selected != sorted(selected):
        return None
    return selected


def _part(
    whole: Plan, fields: Mapping[str, str], region: FileRegion, selected: list[ByteRange] | None
) -> Plan:
    """The whole, or a 206 with the selected ranges of it, or a 416 if there are none."""
    if selected is None:
        return whole
    length, headers = whole.count, whole.headers
    if not selected:
        unsatisfied = ("Content-Range", f"bytes */{length}")
        return _error("416 Range Not Satisfiable", headers, unsatisfied)
    if len(selected) == 1:
        [(start, stop)] = selected
        parts: tuple[Part, ...] = ((region.start + start, region.start + stop),)
        replaced = {"content-length"}
        added = ("Content-Range", f"bytes {start}-{stop - 1}/{length}")
    else:
        boundary = secrets.token_hex(16)
        content_type = fields.get("content-type")
        parts = _multipart(boundary, content_type, whole=whole, region=region, selected=selected)
        replaced = {"content-length", "content-type"}
        added = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    plan = Plan("206 Partial Content", [*_without(headers, replaced), added], parts, True)
    plan.headers.append(("Content-Length", str(plan.count)))
    return plan


def _multipart(
    boundary: str,
    content_type: str | None,
    whole: Plan,
    region: FileRegion,
    selected: list[ByteRange],
) -> tuple[Part, ...]:
    """Several ranges as multipart/byteranges (RFC 9110, section 14.6)."""
    typed = f"Content-Type: {content_type}\r\n" if content_type is not None else ""
    parts: list[Part] = []
    for start, stop in selected:
        head = f"\r\n--{boundary}\r\n{typed}Content-Range: bytes {start}-{stop - 1}/{whole.count}"
        parts.append(f"{head}\r\n\r\n".encode("latin-1"))
        parts.append((region.start + start, region.start + stop))
    parts.append(f"\r\n--{boundary}--\r\n".encode())
    return tuple(parts)


def _error(status: str, headers: Headers, *more: tuple[str, str]) -> Plan:
    """One line of text in place of the file."""
    text = f"{status}\n".encode()
    headers = [
        *_without(headers, _OF_SUCCESS),
        *more,
        ("Content-Type", "text/plain"),
        ("Content-Length", str(len(text))),
    ]
    return Plan(status, headers, (text,), True)


def never_has_body(status: str) -> bool:
    """Whether a response with this status has no body, whatever the method."""
    return status.startswith(("1", "204", "304"))


def ends_connection(headers: Headers) -> Headers:
    """The header with "Connection: close", whatever it said of the connection before."""
    return [*_without(headers, {"connection", "keep-alive"}), ("Connection", "close")]


def _said_by_application(
    headers: Headers, *, header_is_out: bool
) -> tuple[Headers, dict[str, str]]:
    """A copy of the application's header, and its fields by lower-case name.

    White space around a name is taken off, because some servers and clients do so, and others
    do not (RFC 9112, section 5.1). Transfer-Encoding is for the server alone to set (PEP 3333).
    """
    headers, said = [], headers
    fields: dict[str, str] = {}
    for name, value in said:
        name = name.strip()
        headers.append((name, value))
        # Fields of one name form one list (RFC 9110, section 5.3). Equal values count once.
        key = name.lower()
        before = fields.setdefault(key, value)
        if before != value:
            fields[key] = f"{before}, {value}"
    if "transfer-encoding" in fields and not header_is_out:
        del fields["transfer-encoding"]
        warn_once("the application's Transfer-Encoding is left out: only the server may set it")
        headers = _without(headers, {"transfer-encoding"})
    return headers, fields


def _parse_length(value: str) -> int:
    # Werkzeug and Paste set an int. Spaces and tabs around it are no fault. Servers disagree about
    # other white space.
    value = str(value).strip(" \t")
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"Content-Length must be one number of bytes, not {value!r}")
    return int(value)


def _without(headers: Headers, lower_names: frozenset[str] | set[str]) -> Headers:
    return [item for item in headers if item[0].lower() not in lower_names]
