"""The Range header: which bytes of how many (RFC 9110, section 14).

Pure arithmetic on half open intervals ``(start, stop)``, without files and
without responses. WebOb's parser takes the first range and ignores the others.
"""

from __future__ import annotations

import re

__all__ = ["MAX_RANGES", "ByteRange", "select"]

ByteRange = tuple[int, int]

#: More of them in one request are taken for an attack, or for a client that is
#: better served by the whole (RFC 9110, section 17.15).
MAX_RANGES = 16

#: The header of a part takes about so many bytes. A smaller gap is sent along.
_GAP = 80

#: Larger than any file; of a number with more digits the digits do not matter.
_HUGE = 10**18

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")


def select(header: str, length: int) -> list[ByteRange] | None:
    """The ranges to send of length bytes, in the order in which they were asked for.

    None means all of it: the header is malformed, or asks for too many ranges,
    or for the beginning of nothing. An empty list means that nothing asked for is there:
    416. Ranges that overlap, or nearly touch, are one; each byte is sent once at
    most. Takes time linear in the header.
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
            # There is no Content-Range for what an empty file has.
            return None
    return _coalesce(found)


def _number(digits: str) -> int:
    digits = digits.lstrip("0")
    return int(digits or 0) if len(digits) < 19 else _HUGE


def _coalesce(ranges: list[ByteRange]) -> list[ByteRange]:
    """Merge what is less than _GAP apart; a merged range takes its first one's place."""
    merged: list[tuple[int, int, int]] = []
    for start, stop, place in sorted((*range_, place) for place, range_ in enumerate(ranges)):
        if merged and start < merged[-1][1] + _GAP:
            before = merged.pop()
            merged.append((before[0], max(before[1], stop), min(before[2], place)))
        else:
            merged.append((start, stop, place))
    return [(start, stop) for start, stop, _ in sorted(merged, key=lambda range_: range_[2])]
