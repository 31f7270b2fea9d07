"""What the command line says of files, and the pages that show them."""

from __future__ import annotations

import base64
import gzip
import html
import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("webtest")

import webob
import webtest
from command_line import get, links, raw, serving
from test_cli_access import status
from test_cli_listing import PHONE, go
from test_clients import Browser, needed

from wsgifile.cli.content import accepted
from wsgifile.cli.directory import directory_app
from wsgifile.cli.listing import Entry, in_order

#: A picture of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TEXT = b"body { color: green }\n" * 500


def test_text_that_browsers_show(site: Path) -> None:
    """Text that is no HTML is shown as UTF-8 text, whatever mimetypes takes it for."""
    app = webtest.TestApp(directory_app(str(site)))
    for name in ("a.log", "b.md", "c.RST", "d.yaml", "e.yml", "f.toml", "g.ts", "h.ini", "i.cfg"):
        (site / name).write_text("text: ä")
        assert app.get(f"/{name}").headers["Content-Type"] == "text/plain; charset=utf-8", name
        assert app.get(f"/{name}").headers["X-Content-Type-Options"] == "nosniff"
    (site / "video.ts").write_bytes((b"G" + bytes(187)) * 3)
    answer = app.get("/video.ts")
    assert answer.headers["Content-Type"] == "video/mp2t"
    assert len(answer.body) == 564
    (site / "empty.ts").touch()
    assert app.get("/empty.ts").headers["Content-Type"] == "text/plain; charset=utf-8"
    (site / "a.log.gz").write_bytes(gzip.compress(b"a"))
    assert app.get("/a.log.gz").headers["Content-Type"] == "application/gzip"


@pytest.fixture
def packed(site: Path) -> Path:
    """A style with two compressed copies, as tools for web sites make them."""
    (site / "style.css").write_bytes(TEXT)
    (site / "style.css.br").write_bytes(b"not really brotli")
    (site / "style.css.gz").write_bytes(gzip.compress(TEXT))
    return site


def test_compressed_copies(packed: Path) -> None:
    """A client that accepts a copy gets it, with a tag of its own. Caches can tell them apart."""
    with serving(str(packed)) as url:
        tags = set()
        for field, encoding in (
            ("", None),
            ("gzip", "gzip"),
            ("gzip, deflate, br", "br"),
            ("br;q=0, gzip;q=0.5", "gzip"),
            ("gzip;q=0", None),
            ("*", None),
        ):
            code, headers, body = get(url + "style.css", **{"Accept-Encoding": field})
            assert (code, headers["Content-Encoding"]) == (200, encoding), field
            assert headers["Vary"] == "Accept-Encoding"
            assert headers["Content-Type"] == "text/css; charset=utf-8"
            assert int(headers["Content-Length"]) == len(body)
            if encoding == "gzip":
                assert gzip.decompress(body) == TEXT
            elif encoding is None:
                assert body == TEXT
            tags.add((encoding, headers["ETag"]))
        assert len(tags) == len({tag for _, tag in tags}) == 3
        # A tag of one copy is not that of another. A part of a copy is no part of the file.
        for encoding, tag in tags:
            asked = {"Accept-Encoding": "gzip", "If-None-Match": tag}
            assert status(url + "style.css", **asked)[0] == (304 if encoding == "gzip" else 200)
        ranged = {"Range": "bytes=5-9", "Accept-Encoding": "gzip"}
        assert get(url + "style.css", **ranged)[0] == 200
        assert get(url + "style.css", Range="bytes=5-9")[2] == TEXT[5:10]
        assert get(url + "style.css.gz")[1]["Content-Encoding"] is None


def test_copies_that_are_none(packed: Path) -> None:
    """Not if it is older, of another length, hidden, outside, or beside what nobody compresses."""
    app = directory_app(str(packed))
    (packed / "style.css.br").unlink()

    def field(field: str, name: str = "style.css") -> str | None:
        request = webob.Request.blank(f"/{name}", headers={"Accept-Encoding": "br, gzip"})
        answer = request.get_response(app)
        answer.app_iter.close()
        found: str | None = answer.headers.get(field)
        return found

    def encoding(name: str = "style.css") -> str | None:
        return field("Content-Encoding", name)

    assert encoding() == "gzip"
    os.utime(packed / "style.css.gz", (1, 1))
    assert encoding() is None
    for data in (gzip.compress(TEXT + b"."), b"\x1f\x8b", b"something else that is long"):
        (packed / "style.css.gz").write_bytes(data)
        assert encoding() is None
    (packed.parent / "copy").write_bytes(gzip.compress(TEXT))
    (packed / "style.css.gz").unlink()
    (packed / "style.css.gz").symlink_to(packed.parent / "copy")
    assert encoding() is None
    (packed / "style.css.gz").unlink()
    os.mkfifo(packed / "style.css.gz")
    assert encoding() is None
    (packed / "notes.txt").write_bytes(TEXT)
    (packed / "notes.txt.gz").write_bytes(gzip.compress(TEXT))
    assert encoding("notes.txt") is None
    assert field("Vary", "notes.txt") is None
    (packed / "page" / "index.html.gz").write_bytes(gzip.compress(b"<p>index"))
    assert encoding("page/") == "gzip"
    # What cannot be read, such as a directory, does not hide the file.
    (packed / "style.css.br").mkdir()
    assert encoding() is None
    assert field("Content-Type") == "text/css; charset=utf-8"


def test_links_to_outside(packed: Path) -> None:
    """They have copies and pages as other files have."""
    (packed.parent / "outside.png").write_bytes(PNG)
    (packed / "sub" / "linked.png").symlink_to(packed.parent / "outside.png")
    (packed.parent / "outside.css").write_bytes(TEXT)
    (packed / "sub" / "linked.css").symlink_to(packed.parent / "outside.css")
    (packed / "sub" / "linked.css.gz").write_bytes(gzip.compress(TEXT))
    app = webtest.TestApp(directory_app(str(packed), follow_symlinks=True))
    assert "<img " in app.get("/sub/linked.png?view").text
    request = webob.Request.blank("/sub/linked.css", headers={"Accept-Encoding": "gzip"})
    answer = request.get_response(app.app)
    answer.app_iter.close()
    assert answer.headers["Content-Encoding"] == "gzip"


def test_curl_with_compressed_copies(packed: Path) -> None:
    curl = needed("curl")
    (packed / "style.css.br").unlink()
    with serving(str(packed)) as url:
        command = [curl, "-s", "--compressed", "-w", "%{size_download}", url + "style.css"]
        done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == TEXT + str((packed / "style.css.gz").stat().st_size).encode()


def test_accept_encoding() -> None:
    assert accepted("") == {""}
    assert accepted("GZIP ; Q=1 ,br; q=0.000, x;q = 0") == {"gzip"}
    assert "br" not in accepted("a," * 1000 + "br")


def test_natural_order(site: Path) -> None:
    """track2 comes before track10."""
    names = ["track10", "Track2", "track1b", "track01", "1", "a", "٣", "9" * 200, "2b", "10a"]
    expected = ["1", "2b", "10a", "9" * 200, "a", "track01", "track1b", "Track2", "track10", "٣"]
    entries = [Entry(name, False, 0, 0) for name in names]
    assert [each.name for each in in_order(entries, "name", lambda entry: False)] == expected
    for name in names:
        (site / "page" / name).touch()
    (site / "page" / "index.html").unlink()
    with serving(str(site)) as url:
        assert links(url + "page/?sort=-name")[1:] == links(url + "page/")[:0:-1]


def test_filter(site: Path) -> None:
    """?q= lists what has this text in its name. The order and the pages keep it."""
    for name in ("Film 1.mp4", "film 2.MP4", "ä film", "music"):
        (site / "sub" / name).touch()
    with serving(str(site)) as url:
        names = ["../", "Film%201.mp4", "film%202.MP4", "%C3%A4%20film"]
        assert links(url + "sub/?q=FILM") == names
        assert links(url + "sub/?q=%C3%84") == ["../", "%C3%A4%20film"]
        assert links(url + "sub/?q=nosuch") == ["../"]
        page = get(url + "sub/?q=film&sort=-name")[2].decode()
        assert 'name="q" value="film"' in page
        assert '<input type="hidden" name="sort" value="-name">' in page
        assert '<a href="?sort=-size&amp;q=film">' in page
        assert "Directories: 0. Files: 3, 0 B." in page


@pytest.mark.parametrize(
    "text",
    ['"><script>alert(1)</script>', "' onfocus='alert(1)", "&quot;", "\x00\x1b\u202ea", "\xff"],
)
def test_filter_is_no_html(site: Path, text: str) -> None:
    app = webtest.TestApp(directory_app(str(site)))
    page = app.get("/", {"q": text, "page": "1", "sort": text}).text
    value = re.search('name="q" value="([^"<>]*)"', page)
    assert value
    assert html.unescape(value[1]) == "".join(char for char in text if char.isprintable())
    assert "<script" not in page
    assert 'onfocus="' not in page


def test_pages_keep_the_filter(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgifile.cli.directory._PAGE", 1)
    app = webtest.TestApp(directory_app(str(site)))
    page = app.get("/?q=a%26").text
    assert "Page" not in page
    page = app.get("/?q=a").text
    assert '<a href="?sort=name&amp;page=2&amp;q=a">Next</a>' in page


def test_preview(site: Path) -> None:
    """Media have a page that shows them; nothing else has."""
    names = {"a b.png": "<img ", "film.mp4": "<video ", "song.mp3": "<audio "}
    for name in (*names, "x.ts", "pack.png.gz"):
        (site / "sub" / name).write_bytes(PNG)
    (site / "sub" / '"><script>.jpg').write_bytes(PNG)
    (site / "folder.png").mkdir()
    with serving(str(site)) as url:
        page = get(url + "sub/")[2].decode()
        assert re.findall(r'href="([^"]*\?view)"', page) == [
            "%22%3E%3Cscript%3E.jpg?view",
            "a%20b.png?view",
            "film.mp4?view",
            "song.mp3?view",
        ]
        assert 'aria-label="View a b.png"' in page
        for name, tag in names.items():
            link = name.replace(" ", "%20")
            _, headers, body = get(url + f"sub/{link}?view")
            page = body.decode()
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert "; img-src 'self'; media-src 'self'" in headers["Content-Security-Policy"]
            assert tag in page
            assert f'src="{link}"' in page
            assert '<a href="../">/</a><a href="./">sub/</a>' in page
            assert get(url + f"sub/{link}")[2] == PNG
        page = get(url + "sub/%22%3E%3Cscript%3E.jpg?view")[2].decode()
        assert "<script" not in page
        assert get(url + "data.bin?view")[2] == (site / "data.bin").read_bytes()
        assert raw(url, b"/sub/nosuch.png?view") == 404
        assert raw(url, b"/sub/../../secret.png?view") == 404
        assert raw(url, b"/folder.png/?view") == 200
        os.mkfifo(site / "fifo.png")
        assert raw(url, b"/fifo.png?view") == 404


def test_error_pages(site: Path) -> None:
    """They look like the listing, and do not repeat what the client sent."""
    with serving(str(site)) as url:
        for path, method, expected in (
            ("%3Cscript%3E", "GET", 404),
            ("nosuch", "HEAD", 404),
            ("data.bin", "PUT", 405),
        ):
            code, headers, body = status(url + path, method)
            assert code == expected
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert b"script" not in body
            assert (b"<style>" in body) is (method != "HEAD")
        assert headers["Allow"] == "GET, HEAD"


def test_pages_in_a_browser(site: Path, tmp_path: Path) -> None:
    """The film of a preview page seeks, the filter filters, and all fit on a phone."""
    ffmpeg, chromium = needed("ffmpeg"), needed("chromium")
    film = site / "sub" / "film.webm"
    command = [ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=5"]
    subprocess.run([*command, "-t", "20", "-c:v", "libvpx", str(film)], check=True)
    (site / "sub" / "dot.png").write_bytes(PNG)
    with serving(str(site)) as url:
        browser = Browser(chromium, tmp_path / "profile")
        try:
            browser.call("Emulation.setDeviceMetricsOverride", **PHONE)
            width = "document.documentElement.scrollWidth"
            go(browser, url + "sub/dot.png?view")
            browser.wait_for("document.querySelector('img').naturalWidth == 1")
            go(browser, url + "sub/film.webm?view")
            browser.wait_for("document.querySelector('video').readyState >= 1")
            browser.evaluate("document.querySelector('video').currentTime = 15")
            browser.wait_for("!document.querySelector('video').seeking")
            assert browser.evaluate("document.querySelector('video').currentTime") == 15
            assert browser.evaluate(width) == 360
            go(browser, url + "sub/")
            browser.evaluate("document.querySelector('input').value = 'FILM'")
            browser.evaluate("document.querySelector('button').click()")
            browser.wait_for("location.search == '?q=FILM' && document.readyState == 'complete'")
            assert browser.evaluate("document.querySelectorAll('td a').length") == 3
            assert browser.evaluate(width) == 360
            go(browser, url + "nosuch")
            assert browser.evaluate("document.querySelector('h1').innerText") == "404 Not Found"
            assert browser.evaluate(width) == 360
        finally:
            browser.close()
