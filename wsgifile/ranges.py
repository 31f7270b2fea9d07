"""The Range header (RFC 9110, section 14).

Pure arithmetic on half open intervals ``(start, stop)``. Files and responses play no part.
WebOb's parser is not used: it takes the first range and ignores the others.
"""

from __future__ import annotations

import re

__all__ = ["MAX_RANGES", "ByteRange", "select"]

ByteRange = tuple[int, int]

#: The largest number of ranges in one request. A request with more is an attack, or its
#: client is better served by the whole (RFC 9110, section 17.15).
MAX_RANGES = 16

#: A gap smaller than this is sent too, because the header of a part takes as many bytes.
_GAP = 80

#: Larger than any file. It stands for every number with more digits.
_HUGE = 10**18

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")


def select(header: str, length: int) -> list[ByteRange] | None:
    """The ranges to send of length bytes, in the order in which they were asked for.

    None means all of it: the header is malformed, asks for too many ranges, or asks for the
    beginning of an empty file. An empty list means 416: no byte that was asked for exists.
    Ranges that overlap or nearly touch become one, so no byte is sent twice. The time is
    linear in the length of the header.
    """
    unit, _, listed = header.partition("=")
    if unit.lower() != "bytes":
        return None
    # Empty elements are allowed in lists (section 5.6.1.2).
    specs = [spec for item in listed.split(",") if (spec := item.strip(" \t"))]
    if not 0 < len(specs) <= MAX_RANGES:
        return None
    found = []
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None or spec == "-":
            return None
        first, last = match.groups()
        if not first:
            start, stop = max(0, length - _number(last)), length
        else:
            start, stop = _number(first), length
            if last:
                if _number(last) < start:
                    return None
                stop = min(length, _number(last) + 1)
        if start < stop:
            found.append((start, stop))
        elif not start:
            # No Content-Range can describe a part of an empty file.
            return None
    return _coalesce(found)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or 0) if len(digits) < 19 else _HUGE


def _coalesce(ranges: list[ByteRange]) -> list[ByteRange]:
    """Merge ranges less than _GAP apart. A merged range takes the place of its first one."""
    merged: list[tuple[int, int, int]] = []
    for start, stop, place in sorted((*range_, place) for place, range_ in enumerate(ranges)):
        if merged and start < merged[-1][1] + _GAP:
            before = merged.pop()
            merged.append((before[0], max(before[1], stop), min(before[2], place)))
        else:
            merged.append((start, stop, place))
    return [(start, stop) for start, stop, _ in sorted(merged, key=lambda range_: range_[2])]
