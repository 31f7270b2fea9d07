"""What goes out: the response's header and the number of bytes behind it.

Pure computation on what the request and the application said and on what is
known of the file, all of it before the first byte is sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from .recognise import FileRegion

__all__ = ["Headers", "Plan", "make_plan"]

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The header to give to the server, and how much of the file to send."""

    status: str
    headers: Headers
    #: Bytes of the file to send; None: all there are, their number is unknown.
    count: int | None
    #: Whether the header has a Content-Length for it.
    sized: bool


def make_plan(
    method: str, status: str, headers: Headers, region: FileRegion, written: int = 0
) -> Plan:
    """Decide on Content-Length and on the bytes to send.

    An application's Content-Length stands, and bounds what is sent, including
    the bytes that it has written by write() itself. If there is none, it is
    added where the length of the file is certain. HEAD, 1xx, 204 and 304 send
    no body (RFC 9110, sections 9.3.2, 15.2, 15.3.5, 15.4.5).

    :raises ValueError: for a Content-Length that is no number, or two of them, or
        more than the range of the file that the application asked for.
    """
    promised = _content_length(headers)
    if status.startswith(("1", "204", "304")):
        # A length of 1xx and 204 is forbidden (section 8.6), the one of a 304
        # of no use; with either there are servers that wait for the bytes.
        if promised is not None:
            headers = [item for item in headers if item[0].lower() != "content-length"]
        return Plan(status, headers, 0, False)
    count = region.size
    if promised is not None:
        left = max(0, promised - written)
        if region.limit is not None and left > region.limit:
            # What lies behind the range is not meant for the client.
            raise ValueError(f"Content-Length {promised} of a range of {region.limit} bytes")
        count = left
    sized = promised is not None
    if not sized and count is not None and not _has(headers, "transfer-encoding"):
        headers, sized = [*headers, ("Content-Length", str(count))], True
    return Plan(status, headers, 0 if method == "HEAD" else count, sized)


def _content_length(headers: Headers) -> int | None:
    values = {value.strip() for name, value in headers if name.lower() == "content-length"}
    if not values:
        return None
    value = ", ".join(sorted(values))
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"Content-Length must be one number of bytes, not {value!r}")
    return int(value)


def _has(headers: Headers, lower_name: str) -> bool:
    return any(name.lower() == lower_name for name, _ in headers)
