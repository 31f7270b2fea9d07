"""The page that lists a directory. It has no script, and loads nothing from elsewhere."""

from __future__ import annotations

import hashlib
import html
import os
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from ..log import one_line
from .media import kind_of_media

__all__ = [
    "POLICY",
    "POLICY_OF_PREVIEW",
    "Entry",
    "Listing",
    "error_page",
    "in_order",
    "known_sort",
    "preview_page",
    "text_of_size",
    "text_of_total",
    "visible",
]

_T = TypeVar("_T")


class Entry(NamedTuple):
    """One line of the page."""

    name: str
    is_directory: bool
    size: int
    #: Seconds since the epoch.
    mtime: float


_STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 0 .5rem }
h1 { font-size: 1.25rem; padding: 0 .5rem }
h1, td { overflow-wrap: anywhere }
h1 a, h1 span { padding: .25rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: 0; text-align: left; vertical-align: baseline; white-space: nowrap }
th + th, td + td { text-align: right; font-variant-numeric: tabular-nums }
td + td { font-size: .875rem }
td { border-top: 1px solid; border-color: light-dark(#ddd, #3a3a3a) }
td:first-child { white-space: normal; width: 100%; position: relative }
td a + a { position: absolute; right: 0; top: 0 }
td:has(a + a) a:first-child { padding-right: 4rem }
form { display: flex; gap: .5rem; padding: .5rem }
input, button { font: inherit; padding: .25rem .5rem }
input { flex: 1; min-width: 0; max-width: 20rem }
img, video { display: block; max-width: 100%; max-height: 80vh; margin: auto }
audio { display: block; width: 100% }
th a, th > span, td a, td data, td time { display: block; padding: .5rem }
a { color: light-dark(#0b57d0, #8ab4f8); text-decoration: none }
td a:visited { color: light-dark(#6d3bb3, #c9a6ff) }
a:hover { text-decoration: underline }
:focus-visible { outline: 3px solid; outline-offset: -3px }
p { padding: 0 .5rem }
@media (max-width: 30rem) {
  th a, td time { white-space: normal }
  td time { min-width: 10ch }
  td a + a { position: static; padding-top: 0 }
  td:has(a + a) a:first-child { padding-right: .5rem }
}
"""

_hash = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: The page's Content-Security-Policy.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_hash}'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'self'"
)

#: That of the page that shows a file of the same site.
POLICY_OF_PREVIEW = f"{POLICY}; img-src 'self'; media-src 'self'"

#: Each column's heading, sort key, and whether the first click sorts the greatest first.
_COLUMNS: dict[str, tuple[str, Callable[[Entry], Any], bool]] = {
    "name": ("Name", lambda entry: _natural(entry.name), False),
    "size": ("Size", lambda entry: 0 if entry.is_directory else entry.size, True),
    "date": ("Changed (UTC)", lambda entry: entry.mtime, True),
}

#: Characters that are invisible, or make a name look like another one: control characters, and
#: those that change the direction of the text after them.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)


def known_sort(sort: str) -> str:
    """``name``, ``size`` or ``date``; with ``-`` in front, the greatest comes first.

    Anything else means ``name``.
    """
    return sort if sort.removeprefix("-") in _COLUMNS else "name"


def in_order(entries: Iterable[_T], sort: str, is_directory: Callable[[_T], bool]) -> list[_T]:
    """Sorted, with directories first. To sort by name, the entries need nothing but a name."""
    column, descending = sort.removeprefix("-"), sort.startswith("-")
    lines: list[Any] = sorted(entries, key=lambda entry: entry.name)
    lines.sort(key=lambda entry: _natural(entry.name))
    if column != "name":
        lines.sort(key=_COLUMNS[column][1], reverse=descending)
    elif descending:
        lines.reverse()
    lines.sort(key=lambda entry: not is_directory(entry))
    return lines


def _natural(name: str) -> list[str | int]:
    """A key by which track2 comes before track10. Every other item is a number."""
    return [
        int(part) if number % 2 else part
        for number, part in enumerate(re.split("([0-9]+)", name.casefold()))
    ]


class Listing(NamedTuple):
    """All that the page depends on."""

    #: Of the directory. It begins and ends with a slash.
    path: str
    #: As known_sort() returns it.
    sort: str
    #: The columns that the page can be sorted by.
    columns: tuple[str, ...]
    #: The number of this page, from 1, and of all pages.
    number: int
    pages: int
    #: A sentence on how many entries the directory has.
    total: str
    #: Those of this page, in order.
    lines: list[Entry]
    #: What the names have to have in them.
    text: str = ""
    #: Whether ?zip gives the directory as one archive.
    zips: bool = False

    def etag(self) -> str:
        """The page's ETag, without making the page, which takes much longer."""
        # Not from the directory's date, which does not change with the files in it.
        digest = hashlib.sha256(_SAMPLE + repr(self).encode())
        return f'"{digest.hexdigest()[:32]}"'

    def page(self) -> str:
        """The page, as HTML."""
        # Links to other directories keep the order.
        query = "" if self.sort == "name" else f"?sort={self.sort}"
        pages = _pages(self)
        return "\n".join(
            [
                *_head(f"Index of {_text(self.path)}"),
                f'<nav aria-label="Path"><h1>Index of {_crumbs(self.path, query)}</h1></nav>',
                *_form(self),
                *pages,
                "<table>",
                "<thead>",
                f"<tr>{''.join(_heading(each, self) for each in _COLUMNS)}</tr>",
                "</thead>",
                "<tbody>",
                *([] if self.path == "/" else [f'<tr><td><a href="../{query}">../</a><td><td>']),
                *(_row(entry, query) for entry in self.lines),
                "</tbody>",
                "</table>",
                f"<p>{self.total}",
                *(['<p><a href="?zip" download>All of this as a zip archive</a>'] * self.zips),
                *pages,
                "</main>",
                "</html>",
                "",
            ]
        )


def error_page(status: str, reason: str) -> str:
    """A page that says why there is nothing else, as HTML."""
    return "\n".join([*_head(status), f"<h1>{status}</h1>", f"<p>{reason}", _HOME])


def preview_page(path: str, kind: str, size: int) -> str:
    """A page that shows this picture, video or sound, as HTML.

    :param kind: as kind_of_media() returns it.
    """
    name = path.rpartition("/")[2]
    link, alt = quote(os.fsencode(name)), _text(name)
    shown = {
        "audio": f'<audio controls src="{link}"></audio>',
        "image": f'<img src="{link}" alt="{alt}">',
        "video": f'<video controls preload="metadata" src="{link}"></video>',
    }[kind]
    return "\n".join(
        [
            *_head(alt),
            f'<nav aria-label="Path"><h1>{_crumbs(path, "")}</h1></nav>',
            shown,
            f'<p><a href="{link}" download>Download</a> ({text_of_size(size)})',
            "</main>",
            "</html>",
            "",
        ]
    )


_HOME = '<p><a href="/">To the beginning</a>\n</main>\n</html>\n'


def _head(title: str) -> list[str]:
    """The beginning of every page.

    :param title: as HTML.
    """
    return [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        "<main>",
    ]


def _crumbs(path: str, query: str) -> str:
    """Links to the directories above. The path of a directory ends with a slash."""
    *above, last = path.removesuffix("/").split("/")
    end = path[-1:] if path.endswith("/") else ""
    # A directory is one level deeper than its name.
    depth = len(above) - (0 if end else 1)
    links = [
        f'<a href="{"../" * (depth - level) or "./"}{query}">{_text(name)}/</a>'
        for level, name in enumerate(above)
    ]
    return "".join([*links, f'<span aria-current="page">{_text(last)}{end}</span>'])


def _form(listing: Listing) -> list[str]:
    """A field for what names have to have in them."""
    kept = ""
    if listing.sort != "name":
        kept = f'<input type="hidden" name="sort" value="{listing.sort}">'
    text = html.escape(listing.text)
    field = f'<input type="search" name="q" value="{text}" aria-label="Part of a name">'
    return [f'<form role="search">{field}{kept}<button>Filter</button></form>']


def _pages(listing: Listing) -> list[str]:
    """Links to the other pages."""
    number, pages = listing.number, listing.pages
    if pages == 1:
        return []
    links = [f"Page {number:,} of {pages:,}"]
    for label, to in (
        ("First", 1),
        ("Previous", number - 1),
        ("Next", number + 1),
        ("Last", pages),
    ):
        if 1 <= to <= pages and to != number:
            link = f"?sort={listing.sort}&amp;page={to}{_filter(listing)}"
            links.append(f'<a href="{link}">{label}</a>')
    return [f'<nav aria-label="Pages"><p>{" · ".join(links)}</nav>']


def _filter(listing: Listing) -> str:
    """The part of a link's query that keeps the filter."""
    return f"&amp;q={quote(listing.text, safe='')}" if listing.text else ""


def _heading(column: str, listing: Listing) -> str:
    label, _, most_first = _COLUMNS[column]
    if column not in listing.columns:
        return f'<th scope="col"><span>{label}</span></th>'
    state = arrow = ""
    if column == listing.sort.removeprefix("-"):
        descending = listing.sort.startswith("-")
        most_first = not descending
        state = f' aria-sort="{"descending" if descending else "ascending"}"'
        arrow = f' <span aria-hidden="true">{"▼" if descending else "▲"}</span>'
    link = f"?sort={'-' if most_first else ''}{column}{_filter(listing)}"
    return f'<th scope="col"{state}><a href="{link}">{label}{arrow}</a></th>'


def _row(entry: Entry, query: str) -> str:
    name, size, view = entry.name, "", ""
    if entry.is_directory:
        name += "/"
    else:
        exact = f"{entry.size:,} {'byte' if entry.size == 1 else 'bytes'}"
        size = f'<data value="{entry.size}" title="{exact}">{text_of_size(entry.size)}</data>'
        if kind_of_media(entry.name):
            view = f'<a href="{quote(os.fsencode(name))}?view" {_label(entry.name)}>view</a>'
    # quote() also quotes a colon. Otherwise browsers would read "a:" as a scheme.
    link = quote(os.fsencode(name)) + (query if entry.is_directory else "")
    return (
        f'<tr><td><a href="{link}"><bdi>{_text(name)}</bdi></a>{view}'
        f"<td>{size}<td>{_time(entry.mtime)}"
    )


def text_of_total(entries: list[Entry]) -> str:
    """A sentence on all that is listed."""
    sizes = [entry.size for entry in entries if not entry.is_directory]
    return (
        f"Directories: {len(entries) - len(sizes)}."
        f" Files: {len(sizes)}, {text_of_size(sum(sizes))}."
    )


def text_of_size(count: float) -> str:
    """As ``12.3 MiB``."""
    if count < 1024:
        return f"{count} B"
    units = iter("KMGTPEZY")
    while round(count, 1) >= 1024:
        count, unit = count / 1024, next(units)
    return f"{count:.1f} {unit}iB"


def _time(seconds: float) -> str:
    try:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):  # The system cannot convert it.
        return ""
    return f'<time datetime="{when}">{when[:10]} {when[11:16]}</time>'


def _label(name: str) -> str:
    return f'aria-label="View {_text(name)}"'


def visible(text: str) -> str:
    """Without what cannot be seen."""
    return _UNSEEN.sub("", text)


def _text(name: str) -> str:
    """A name as HTML, with every character visible."""
    name = os.fsencode(name).decode(errors="backslashreplace")
    return html.escape(_UNSEEN.sub(lambda match: one_line(match[0]), name))


#: A page with a line of each kind. If the next release writes pages in another way, their tags
#: change.
_SAMPLE = (
    Listing(
        "/a/",
        "-size",
        ("name", "size"),
        number=2,
        pages=3,
        total="",
        lines=[Entry("a", True, 0, 0), Entry("b.png", False, 1, 0)],
        text="b",
        zips=True,
    )
    .page()
    .encode()
)
