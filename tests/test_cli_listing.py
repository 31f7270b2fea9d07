"""The listing of a directory, as the command line serves it."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import time
import urllib.error
from pathlib import Path

import pytest
from command_line import get, links, not_modified, serving
from test_clients import Browser, needed

from wsgifile.cli import listing


def test_listing(site: Path) -> None:
    """The listing shows names, sizes and dates, and its links lead to the files."""
    with serving(str(site)) as url:
        assert links(url) == ["page/", "sub/", "data.bin", "empty", "pack.tar.gz"]
        page = get(url)[2].decode()
        assert '<data value="300000" title="300,000 bytes">293.0 KiB</data>' in page
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((site / "empty").stat().st_mtime))
        assert f'<time datetime="{when}">{when[:10]} {when[11:16]}</time>' in page
        # Without its slash the directory redirects, because relative links would be wrong.
        page = get(url + "sub")[2].decode()
        assert "<i>" not in page
        up, odd = links(url + "sub")
        assert up == "../"
        assert get(url + "sub/" + odd)[2] == b"odd"


def test_path_of_the_listing(site: Path) -> None:
    """Every directory above the current one is a link."""
    (site / "sub" / "in it").mkdir()
    with serving(str(site)) as url:
        page = get(url + "sub/in%20it/?sort=-date")[2].decode()
    assert "<title>Index of /sub/in it/</title>" in page
    assert (
        '<h1>Index of <a href="../../?sort=-date">/</a><a href="../?sort=-date">sub/</a>'
        '<span aria-current="page">in it/</span></h1>' in page
    )


def test_sorting(site: Path) -> None:
    """Each heading is a link that sorts by its column, or reverses the order if it is sorted.

    Directories always come first.
    """
    for mtime, name in enumerate(["pack.tar.gz", "empty", "data.bin", "sub", "page"]):
        os.utime(site / name, (mtime, mtime))
    by_name = ["page/", "sub/", "data.bin", "empty", "pack.tar.gz"]
    expected = {
        "name": by_name,
        "-name": ["sub/", "page/", "pack.tar.gz", "empty", "data.bin"],
        "size": ["page/", "sub/", "empty", "pack.tar.gz", "data.bin"],
        "-size": ["page/", "sub/", "data.bin", "pack.tar.gz", "empty"],
        "date": ["sub/", "page/", "pack.tar.gz", "empty", "data.bin"],
        "-date": ["page/", "sub/", "data.bin", "empty", "pack.tar.gz"],
    }
    with serving(str(site)) as url:
        for sort, names in expected.items():
            assert [link.partition("?")[0] for link in links(f"{url}?sort={sort}")] == names
            page = get(f"{url}?sort={sort}")[2].decode()
            column, other = sort.lstrip("-"), sort[1:] if sort[0] == "-" else f"-{sort}"
            order = "descending" if sort[0] == "-" else "ascending"
            assert re.findall(r'aria-sort="(\w+)"><a href="(.*?)"', page) == [
                (order, f"?sort={other}")
            ]
            # Links to other directories keep the order.
            kept = "" if sort == "name" else f"?sort={sort}"
            assert f'<a href="sub/{kept}">' in page
            for heading in {"name", "-size", "-date"} - {column, f"-{column}"}:
                assert f'<a href="?sort={heading}">' in page
        # An unknown order means the usual one.
        for sort in ("", "-", "--size", "nosuch", "%ff", "%00", "size%0a", "name&sort=size"):
            assert links(f"{url}?sort={sort}") == by_name
        assert links(f"{url}?%ff=&&=") == by_name


def test_odd_names(site: Path) -> None:
    """The listing shows every character of an odd name, and its link leads to the file."""
    shown = {
        b" ": " ",
        b"%41": "%41",
        b"&lt;": "&amp;lt;",
        b"<script>alert('1')": "&lt;script&gt;alert(&#x27;1&#x27;)",
        b"a#b?c": "a#b?c",
        b"a:b": "a:b",
        b"back\\..\\slash": "back\\..\\slash",
        b"line\r\n": "line\\r\\n",
        b'quote"': "quote&quot;",
        "zero\u200bwidth".encode(): "zero\\u200bwidth",
        "cod\u202egpj.exe".encode(): "cod\\u202egpj.exe",
        "\u2066isolate".encode(): "\\u2066isolate",
        "日本語 é".encode(): "日本語 é",
        b"\xe9t\xe9\x1b": "\\xe9t\\xe9\\x1b",
        b"n" * 255: "n" * 255,
    }
    for where in (site, site / "sub"):
        for name in shown:
            Path(where, os.fsdecode(name)).write_bytes(name)
    with serving(str(site)) as url:
        for base in (url, url + "sub/"):
            page = get(base)[2].decode()
            for name, text in shown.items():
                link = re.search(f'<a href="(.*?)"><bdi>{re.escape(text)}</bdi></a>', page)
                assert link, text
                assert get(base + html.unescape(link[1]))[2] == name


def test_header_of_the_listing(site: Path) -> None:
    """The policy forbids scripts and anything from elsewhere, and caches must revalidate."""
    with serving(str(site)) as url:
        _, headers, page = get(url)
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["X-Content-Type-Options"] == "nosniff"
        style = re.search(b"<style>(.*?)</style>", page, re.DOTALL)
        assert style
        digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
        assert headers["Content-Security-Policy"].startswith(
            f"default-src 'none'; style-src 'sha256-{digest}'; "
        )
        assert headers["Cache-Control"] == "no-cache"
        assert headers["Last-Modified"] is None
        etag = headers["ETag"]
        assert not_modified(url, etag)
        assert not_modified(url, "*")
        status, headers, body = get(url, Range="bytes=0-1,5-6")
        assert (status, body) == (200, get(url)[2])
        with pytest.raises(urllib.error.HTTPError, match="412") as failed:
            get(url, **{"If-Match": '"other"'})
        failed.value.close()
        assert get(url, method="HEAD")[1]["ETag"] == etag
        # The directory's own date stays the same, but the listing changes.
        (site / "empty").write_bytes(b"not any more")
        assert not not_modified(url, etag)
        assert b'value="12"' in get(url)[2]


def test_page_in_a_browser(site: Path, tmp_path: Path) -> None:
    """The page works on a phone, in light and dark colours, and with the keyboard."""
    (site / "sub" / ("long" * 60)).touch()
    with serving(str(site)) as url:
        browser = Browser(needed("chromium"), tmp_path / "profile")
        try:
            browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
            for scheme in ("light", "dark"):
                feature = {"name": "prefers-color-scheme", "value": scheme}
                browser.call("Emulation.setEmulatedMedia", features=[feature])
                go(browser, url + "sub/")
                assert browser.evaluate("document.documentElement.scrollWidth") == 360
                # The style is applied, so the policy allows it.
                style = "getComputedStyle(document.querySelector('table')).borderCollapse"
                assert browser.evaluate(style) == "collapse"
                assert browser.evaluate(CONTRAST) >= 4.5, scheme
            stops = []
            for _ in range(8):
                for kind in ("keyDown", "keyUp"):
                    browser.call("Input.dispatchKeyEvent", type=kind, **TAB)
                stops.append(browser.evaluate("document.activeElement.getAttribute('href')"))
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert browser.evaluate(outline) == "solid"
            sorts = ["?sort=-name", "?sort=-size", "?sort=-date"]
            assert stops[:-1] == ["../", None, None, *sorts, "../"]
            assert stops[-1].startswith("a%3Ab")
            go(browser, browser.evaluate("document.querySelectorAll('th a')[1].href"))
            sizes = "document.querySelector('th:nth-child(2)').ariaSort"
            assert browser.evaluate(sizes) == "descending"
        finally:
            browser.close()


PHONE = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}


TAB = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}


#: JavaScript for the contrast of a link with its background, as WCAG 2.2 defines it.
CONTRAST = """
    document.body.style.background = 'Canvas';
    [document.querySelector('td a'), document.body].map(element => {
        let style = getComputedStyle(element);
        let color = element == document.body ? style.backgroundColor : style.color;
        return color.match(/[0-9]+/g).slice(0, 3).map(value => value / 255).map(
            value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
        ).reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0.05)
    }).sort((a, b) => b - a).reduce((a, b) => a / b)
"""


def go(browser: Browser, url: str) -> None:
    browser.call("Page.navigate", url=url)
    browser.wait_for(f"location.href == '{url}' && document.readyState == 'complete'")


def test_dates_that_cannot_be_shown() -> None:
    entry = listing.Entry("old", False, 1, 1e20)
    page = listing.Listing("/", "name", ("name",), 1, 1, "", [entry]).page()
    assert "old" in page
    assert "<time" not in page


def test_name_that_is_no_utf_8(site: Path) -> None:
    """The listing links to a file whose name is not UTF-8, and the link works."""
    directory = os.path.join(os.fsencode(site), b"sub", b"\xe9t\xe9")
    os.mkdir(directory)
    with open(os.path.join(directory, b"\xff"), "wb") as file:
        file.write(b"odd")
    with serving(str(site)) as url:
        assert "%E9t%E9/" in links(url + "sub/")
        # The directory is asked for without its slash, so it redirects.
        assert "%FF" in links(url + "sub/%E9t%E9?x=1")
        assert get(url + "sub/%E9t%E9/%FF")[2] == b"odd"
