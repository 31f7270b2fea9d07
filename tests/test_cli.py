"""The command line, as a process of its own."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import html
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import IO

import pytest
import webtest
from ports import free_port
from test_clients import Browser, needed

from wsgifile.cli import directory, listing
from wsgifile.cli import main as command_line
from wsgifile.cli.directory import directory_app
from wsgifile.cli.main import main

COMMAND = [sys.executable, "-m", "wsgifile"]

#: A line of the access log: request line, status, bytes, sender, and how it ended.
LINE = re.compile(
    r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    r'"((?:[^"\\]|\\.)*)" (\d{3}|-) (\d+|-) (\S+) \d+\.\d{3}s( .+)?'
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory to serve; what lies beside it must stay out of reach."""
    (tmp_path / "index.html").write_text("secret index")
    (tmp_path / "secret").write_text("secret file")
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "page").mkdir()
    (site / "page" / "index.html").write_text("<p>index")
    (site / "data.bin").write_bytes(os.urandom(300_000))
    (site / "empty").touch()
    (site / "pack.tar.gz").write_bytes(gzip.compress(b"tar"))
    (site / "sub" / "a:b <i>&%41?#.txt").write_text("odd")
    return site


@contextmanager
def serving(
    *args: str, cwd: Path | None = None, log: Path | None = None, env: dict[str, str] | None = None
) -> Iterator[str]:
    """The URL it prints; Ctrl-C must end it, without a word and with status 0.

    What it says on stderr goes to log, or else must be nothing but lines about requests.
    """
    options = [] if env and "PORT" in env else ["--port", "0"]
    with (
        log.open("w") if log else nullcontext(subprocess.PIPE) as stderr,
        started(*COMMAND, *options, *args, cwd=cwd, env=env, stderr=stderr) as (process, line),
    ):
        url = re.search(r"http://\S+", line)
        assert url, line
        yield url[0]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "")
        assert not [line for line in (err or "").splitlines() if not LINE.fullmatch(line)]


@contextmanager
def started(
    *command: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    stderr: IO[str] | int = subprocess.PIPE,
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, which does not outlive the test, and the first line that it prints."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.headers, answer.read()


def address(url: str) -> tuple[str, int]:
    match = re.match(r"http://([^:/]+):(\d+)", url)
    assert match
    return match[1], int(match[2])


def ask(url: str, target: bytes, method: bytes = b"GET") -> bytes:
    """The answer to a request whose target no library would send."""
    with socket.create_connection(address(url), 20) as sock:
        sock.sendall(method + b" " + target + b" HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(65536), b""))


def raw(url: str, target: bytes) -> int:
    """Its status. Nothing in it may be of what is not to be served."""
    answer = ask(url, target)
    assert b"secret" not in answer
    assert b"/tmp/" not in answer
    return int(answer.split()[1])


def links(url: str) -> list[str]:
    """What the lines of the listing lead to."""
    return re.findall(r'<tr><td><a href="(.*?)"', get(url)[2].decode())


def logged(log: Path, count: int) -> list[tuple[str, ...]]:
    """The requests that are in the log, when they are so many."""
    deadline = time.monotonic() + 20
    while len(lines := log.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), lines
    return [match.groups(default="") for match in matches if match]


def test_directory(site: Path) -> None:
    with serving(str(site)) as url:
        assert get(url + "data.bin")[2] == (site / "data.bin").read_bytes()
        assert get(url + "data.bin", Range="bytes=5-9")[0] == 206
        assert get(url + "empty")[2] == b""
        assert get(url + "page/")[2] == b"<p>index"
        status, headers, _ = get(url + "data.bin", method="HEAD")
        assert (status, headers["Content-Length"]) == (200, "300000")
        # Not as a tar in a coding that the browser would take off again.
        _, headers, body = get(url + "pack.tar.gz")
        assert headers["Content-Type"] == "application/gzip"
        assert headers["Content-Encoding"] is None
        assert body == (site / "pack.tar.gz").read_bytes()


def test_listing(site: Path) -> None:
    """Links lead to the files, whatever their names are."""
    with serving(str(site)) as url:
        assert links(url) == ["page/", "sub/", "data.bin", "empty", "pack.tar.gz"]
        page = get(url)[2].decode()
        assert '<data value="300000" title="300,000 bytes">293.0 KiB</data>' in page
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((site / "empty").stat().st_mtime))
        assert f'<time datetime="{when}">{when[:10]} {when[11:16]}</time>' in page
        # A directory without its slash redirects, or relative links would miss.
        page = get(url + "sub")[2].decode()
        assert "<i>" not in page
        up, odd = links(url + "sub")
        assert up == "../"
        assert get(url + "sub/" + odd)[2] == b"odd"


def test_path_of_the_listing(site: Path) -> None:
    """Every directory above is a link; where one is, is none."""
    (site / "sub" / "in it").mkdir()
    with serving(str(site)) as url:
        page = get(url + "sub/in%20it/?sort=-date")[2].decode()
    assert "<title>Index of /sub/in it/</title>" in page
    assert (
        '<h1>Index of <a href="../../?sort=-date">/</a><a href="../?sort=-date">sub/</a>'
        '<span aria-current="page">in it/</span></h1>' in page
    )


def test_sorting(site: Path) -> None:
    """By links, which turn the order round where it is so sorted. Directories come first."""
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
            # It is kept on the way through the directories.
            kept = "" if sort == "name" else f"?sort={sort}"
            assert f'<a href="sub/{kept}">' in page
            for heading in {"name", "-size", "-date"} - {column, f"-{column}"}:
                assert f'<a href="?sort={heading}">' in page
        # What is no order is the usual one.
        for sort in ("", "-", "--size", "nosuch", "%ff", "%00", "size%0a", "name&sort=size"):
            assert links(f"{url}?sort={sort}") == by_name
        assert links(f"{url}?%ff=&&=") == by_name


def test_odd_names(site: Path) -> None:
    """All of them are to be seen as what they are, and their links lead to them."""
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
    """Nothing of it comes from elsewhere or is run, and it is never an old one."""
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
        # The directory's own date does not change with this.
        (site / "empty").write_bytes(b"not any more")
        assert not not_modified(url, etag)
        assert b'value="12"' in get(url)[2]


def not_modified(url: str, etag: str) -> bool:
    try:
        get(url, **{"If-None-Match": etag})
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 304
    return False


def test_many_entries(site: Path) -> None:
    """10,000 of them take a moment."""
    for number in range(10_000):
        (site / "sub" / str(number)).touch()
    with serving(str(site)) as url:
        began = time.perf_counter()
        page = get(url + "sub/?sort=size")[2]
        assert time.perf_counter() - began < 3
        assert page.count(b"<tr>") == 10_003


def test_page_in_a_browser(site: Path, tmp_path: Path) -> None:
    """On a telephone in both schemes, and by the keyboard."""
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
                # The style is there, so the policy allows it.
                style = "getComputedStyle(document.querySelector('table')).borderCollapse"
                assert browser.evaluate(style) == "collapse"
                assert browser.evaluate(CONTRAST) >= 4.5, scheme
            stops = []
            for _ in range(6):
                for kind in ("keyDown", "keyUp"):
                    browser.call("Input.dispatchKeyEvent", type=kind, **TAB)
                stops.append(browser.evaluate("document.activeElement.getAttribute('href')"))
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert browser.evaluate(outline) == "solid"
            sorts = ["?sort=-name", "?sort=-size", "?sort=-date"]
            assert stops[:-1] == ["../", *sorts, "../"]
            assert stops[-1].startswith("a%3Ab")
            go(browser, browser.evaluate("document.querySelectorAll('th a')[1].href"))
            sizes = "document.querySelector('th:nth-child(2)').ariaSort"
            assert browser.evaluate(sizes) == "descending"
        finally:
            browser.close()


PHONE = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
TAB = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}

#: Of a link and what is behind it, by WCAG 2.2.
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


def test_nothing_outside(site: Path) -> None:
    """Neither files nor listings nor an index.html of the directory above."""
    with serving(str(site), "--hidden", "--follow-symlinks") as url:
        for target in (
            b"/../secret",
            b"/../",
            b"/..",
            b"/%2e%2e/",
            b"/sub/../../",
            b"//../secret",
            b"/..%2fsecret",
            b"/%2e%2e%2fsecret",
            b"/sub/%2e%2e/%2E%2E/secret",
            b"/%252e%252e/secret",
            b"/..%252fsecret",
            b"/..%5csecret",
            b"/..\\secret",
            b"/%c0%ae%c0%ae/secret",
            b"/%c0%ae%c0%ae%c0%afsecret",
            b"/%uff0e%uff0e/secret",
            b"/../secret%00",
            b"/..;/secret",
            b"/../site/../secret",
            b"/../site/data.bin/../../secret",
        ):
            assert raw(url, target) in (400, 404), target
        for target in (
            b"/%ff",
            b"/%00",
            b"/data.bin%00",
            b"/data.bin%00.txt",
            b"/nosuch",
            b"/data.bin/",
            b"/data.bin/x",
            b"/" + b"a" * 5000,
            b"/a" * 5000,
        ):
            assert raw(url, target) == 404, target
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(url, method="DELETE")
        assert caught.value.code == 405
        caught.value.close()


def test_directory_of_the_same_beginning(site: Path) -> None:
    """A directory beside it whose name goes on as it ends is outside."""
    beside = site.with_name("site2")
    beside.mkdir()
    (beside / "file").write_text("secret")
    (site / "link").symlink_to(beside / "file")
    with serving(str(site)) as url:
        assert raw(url, b"/../site2/file") == 404
        assert raw(url, b"/link") == 404


def test_hidden(site: Path) -> None:
    """What begins with a dot is not there, nor what is below, by whatever name."""
    (site / ".env").write_text("secret")
    (site / ".git").mkdir()
    (site / ".git" / "config").write_text("secret")
    (site / "sub" / ".x").write_text("secret")
    (site / "public").symlink_to(".git")
    (site / "index").symlink_to(".env")
    (site / "page" / "index.html").unlink()
    (site / "page" / "index.html").symlink_to("../.env")
    with serving(str(site)) as url:
        assert raw(url, b"/") == 200
        assert links(url) == ["page/", "sub/", "data.bin", "empty", "pack.tar.gz"]
        for target in (
            b"/.env",
            b"/%2eenv",
            b"/sub/../.env",
            b"/.git",
            b"/.git/",
            b"/.git/config",
            b"/sub/.x",
            b"/public/",
            b"/public/config",
            b"/index",
            b"/page/index.html",
        ):
            assert raw(url, target) == 404, target
        assert links(url + "page/") == ["../"]
    with serving(str(site), "--hidden") as url:
        assert {".git/", "public/", ".env", "index"} < set(links(url))
        for name in (".env", ".git/config", "public/config", "index", "page/"):
            assert get(url + name)[2] == b"secret"


def test_hidden_directory(tmp_path: Path) -> None:
    """The directory that is named is meant, and the file."""
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / ".file").write_text("x")
    (tmp_path / ".hidden" / "file").write_text("x")
    with serving(str(tmp_path / ".hidden")) as url:
        assert get(url + "file")[2] == b"x"
        assert raw(url, b"/.file") == 404
    with serving(str(tmp_path / ".hidden" / ".file")) as url:
        assert get(url)[2] == b"x"


def test_symbolic_links(site: Path) -> None:
    """Those that lead out of the directory, or to nothing, are not there."""
    (site / "inner").symlink_to("data.bin")
    (site / "inner.d").symlink_to("sub")
    (site / "absolute").symlink_to(site / "sub" / ".." / "data.bin")
    (site / "outer").symlink_to("../secret")
    (site / "outer.d").symlink_to("..")
    (site / "outer.d2").symlink_to("sub/up")
    (site / "sub" / "up").symlink_to(site.parent)
    (site / "broken").symlink_to("nosuch")
    (site / "loop").symlink_to("loop")
    (site / "page" / "index.html").unlink()
    (site / "page" / "index.html").symlink_to("../../index.html")
    within = ["inner.d/", "page/", "sub/", "absolute", "data.bin", "empty", "inner"]
    with serving(str(site)) as url:
        assert links(url) == [*within, "pack.tar.gz"]
        data = (site / "data.bin").read_bytes()
        assert get(url + "inner")[2] == get(url + "absolute")[2] == data
        assert get(url + "inner.d/" + links(url + "inner.d/")[1])[2] == b"odd"
        assert links(url + "page/") == ["../"]
        for name in ("outer", "outer.d/", "outer.d/secret", "outer.d2/", "sub/up/secret"):
            assert raw(url, b"/" + name.encode()) == 404
        for target in (b"/broken", b"/loop", b"/loop/", b"/page/index.html", b"/sub/up"):
            assert raw(url, target) == 404, target
    with serving(str(site), "--follow-symlinks") as url:
        assert {"outer", "outer.d/"} < set(links(url))
        assert not {"broken", "loop"} & set(links(url))
        assert get(url + "outer")[2] == get(url + "sub/up/secret")[2] == b"secret file"
        assert get(url + "page/")[2] == get(url + "outer.d/")[2] == b"secret index"
        assert raw(url, b"/loop") == 404


def test_hidden_by_another_name(site: Path) -> None:
    """Links out are followed if one asks for it, those to what is hidden are not."""
    (site / ".git").mkdir()
    (site / ".git" / "config").write_text("of git")
    (site / "public").symlink_to(".git")
    (site / "sub" / "index.html").symlink_to("../.git/config")
    with serving(str(site), "--follow-symlinks") as url:
        assert raw(url, b"/public/config") == raw(url, b"/public/") == 404
        assert b"of git" not in get(url + "sub/")[2]
        assert b"public" not in get(url)[2]


def test_file_whose_name_is_no_utf_8(site: Path) -> None:
    (site / os.fsdecode(b"f\xff.txt")).write_text("odd")
    with serving(os.fsdecode(b"f\xff.txt"), cwd=site) as url:
        assert url.endswith("/f%FF.txt")
        assert get(url)[2] == b"odd"


def test_log_of_an_application_that_has_the_middleware(tmp_path: Path) -> None:
    """Its small files have their line as well."""
    (tmp_path / "inner.py").write_text(
        "from wsgifile import FileWrapperMiddleware\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'text/plain')])\n"
        "    return open(__file__, 'rb')\n"
        "app = FileWrapperMiddleware(app)\n"
    )
    log = tmp_path / "log"
    with serving("inner:app", cwd=tmp_path, log=log) as url:
        size = len(get(url)[2])
        [line] = logged(log, 1)
    assert line[1:3] == ("200", str(size))


def test_directory_that_is_a_link(site: Path) -> None:
    """It may be changed while it is served, to release something."""
    current = site.parent / "current"
    current.symlink_to("site")
    new = site.parent / "new"
    new.mkdir()
    (new / "data.bin").write_text("new")
    with serving(str(current)) as url:
        assert get(url + "data.bin")[2] == (site / "data.bin").read_bytes()
        current.unlink()
        current.symlink_to("new")
        assert get(url + "data.bin")[2] == b"new"


def test_directory_that_becomes_a_link(site: Path) -> None:
    """Between the look and the opening: what is there then is not followed."""
    (site.parent / "outside").mkdir()
    for name in ("outside", "site/real"):
        (site.parent / name).mkdir(exist_ok=True)
        (site.parent / name / "file").write_text("secret" if name == "outside" else "real")
    (site / "link").symlink_to(site.parent / "outside")
    statuses = set()
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            for name in ("real", "link"):
                with suppress(OSError):
                    os.rename(site / "here", site / "last")
                os.rename(site / name, site / "here")
                time.sleep(0)
                os.rename(site / "here", site / name)

    thread = threading.Thread(target=change)
    with serving(str(site), "--quiet") as url:
        thread.start()
        try:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                statuses.add(raw(url, b"/here/file"))
                statuses.add(raw(url, b"/here/"))
        finally:
            ended.set()
            thread.join()
    assert statuses == {200, 404}


def test_neither_file_nor_directory(site: Path) -> None:
    """They are not opened: a pipe would wait, and whoever writes to it be disturbed."""
    os.mkfifo(site / "fifo")
    with socket.socket(socket.AF_UNIX) as sock, serving(str(site)) as url:
        sock.bind(str(site / "sock"))
        assert not {"fifo", "sock"} & set(links(url))
        for _ in range(6):  # More than there are threads.
            assert raw(url, b"/fifo") == raw(url, b"/sock") == raw(url, b"/fifo/") == 404
        # Nobody reads from it.
        with pytest.raises(OSError, match="No such device or address"):
            os.open(site / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        code = f"open({str(site / 'fifo')!r}, 'wb').write(b'x')"
        with subprocess.Popen([sys.executable, "-c", code]) as writer:
            try:
                for _ in range(20):
                    assert raw(url, b"/fifo") == 404
                    time.sleep(0.05)
                assert writer.poll() is None
            finally:
                writer.kill()


def test_not_to_be_read(site: Path) -> None:
    """403. What a directory has that may be entered, but not listed, is served."""
    (site / "data.bin").chmod(0)
    (site / "sub").chmod(0o100)
    (site / "page").chmod(0o100)
    command = [*as_nobody(), *COMMAND]
    done = subprocess.run([*command, "data.bin"], cwd=site, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "wsgifile: no permission to read data.bin\n")
    try:
        with started(*command, str(site), "--port", "0", "--quiet") as (_, line):
            url = line.split()[-1]
            assert raw(url, b"/data.bin") == raw(url, b"/sub/") == 403
            assert get(url + "page/")[2] == b"<p>index"
            assert get(url + "sub/a%3Ab%20%3Ci%3E%26%2541%3F%23.txt")[2] == b"odd"
    finally:
        (site / "sub").chmod(0o700)
        (site / "page").chmod(0o700)


def as_nobody() -> list[str]:
    """Begins the command of somebody who may not read everything, as root may."""
    if os.geteuid():
        return []
    return [needed("unshare"), "--user", "--map-user=65534", "--map-group=65534"]


def test_no_descriptor_left(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not said that a file is not there because of it."""

    def no_more(*args: object, **kwargs: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    app = webtest.TestApp(directory_app(str(site)))
    monkeypatch.setattr(directory, "_open", no_more)
    with pytest.raises(OSError, match="Too many open files"):
        app.get("/data.bin")


def test_without_descriptors_of_directories(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: by paths."""
    monkeypatch.setattr(directory, "_BY_DESCRIPTOR", False)
    app = webtest.TestApp(directory_app(str(site)))
    assert app.get("/data.bin").body == (site / "data.bin").read_bytes()
    assert "data.bin" in app.get("/").text
    app.get("/sub/nosuch", status=404)
    os.mkfifo(site / "fifo")
    app.get("/fifo", status=404)


def test_forbidden(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_for_us(*args: object, **kwargs: object) -> int:
        raise PermissionError

    app = webtest.TestApp(directory_app(str(site)))
    monkeypatch.setattr(directory, "_open", not_for_us)
    app.get("/data.bin", status=403)


def test_another_kind_of_file_by_now(site: Path) -> None:
    """What was put in a file's place since it was looked at is closed again."""
    held = len(os.listdir("/proc/self/fd"))
    answers = iter([True, False])
    with pytest.raises(FileNotFoundError):
        directory._open(str(site), "data.bin", lambda mode: next(answers))
    assert len(os.listdir("/proc/self/fd")) == held


def test_dates_that_cannot_be_shown() -> None:
    page = listing.listing([listing.Entry("old", False, 1, 1e20)], "/", "")
    assert "old" in page
    assert "<time" not in page


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system has no /proc")
def test_descriptors(site: Path) -> None:
    """Whatever is asked for, none stays open."""
    (site / "outer").symlink_to("../secret")
    os.mkfifo(site / "fifo")
    with started(*COMMAND, str(site), "--port", "0", "--quiet") as (process, line):
        url = line.split()[-1]
        held = f"/proc/{process.pid}/fd"
        before = len(os.listdir(held))
        for path in ("", "sub/", "sub", "data.bin", "data.bin/", "data.bin/x", "fifo", "outer"):
            for method in (b"GET", b"HEAD", b"POST"):
                ask(url, b"/" + path.encode(), method)
        deadline = time.monotonic() + 10  # For the last connection to end.
        while len(os.listdir(held)) > before:
            assert time.monotonic() < deadline, os.listdir(held)
            time.sleep(0.05)


def test_no_sniffing(site: Path) -> None:
    """No other site can have a file of data run as a script."""
    with serving(str(site)) as url:
        for name in ("data.bin", "page/"):
            assert get(url + name)[1]["X-Content-Type-Options"] == "nosniff"


def test_name_that_is_no_utf_8(site: Path) -> None:
    """The listing links to it, and the link leads to it."""
    directory = os.path.join(os.fsencode(site), b"sub", b"\xe9t\xe9")
    os.mkdir(directory)
    with open(os.path.join(directory, b"\xff"), "wb") as file:
        file.write(b"odd")
    with serving(str(site)) as url:
        assert "%E9t%E9/" in links(url + "sub/")
        # Without its slash it redirects.
        assert "%FF" in links(url + "sub/%E9t%E9?x=1")
        assert get(url + "sub/%E9t%E9/%FF")[2] == b"odd"


def test_file(site: Path) -> None:
    path = site / "data.bin"
    with serving(str(path)) as url:
        assert url.endswith("/data.bin")
        assert get(url)[2] == path.read_bytes()
        assert raw(url, b"/other") == 404


def test_callable(tmp_path: Path) -> None:
    """From the current directory, as every WSGI server's command line does."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(
        "class app:\n"
        "    def wsgi(environ, start_response):\n"
        "        assert environ['wsgi.file_wrapper'].__module__ == 'wsgifile.wrapper'\n"
        "        start_response('200 OK', [])\n"
        "        return open(__file__, 'rb')\n"
    )
    with serving("package.module:app.wsgi", cwd=tmp_path) as url:
        assert get(url)[2] == (tmp_path / "package" / "module.py").read_bytes()


def test_options(site: Path) -> None:
    options = ["--host", "localhost", "--threads", "2", "--block-size", "1000"]
    with serving(str(site / "data.bin"), *options) as url:
        assert get(url)[2] == (site / "data.bin").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nosuch"], "nosuch does not exist, and is not of the form package.module:callable"),
        (["nosuch:app"], "cannot import nosuch: ModuleNotFoundError: No module named 'nosuch'"),
        (["broken:app"], "cannot import broken: ZeroDivisionError: division by zero"),
        (["exits:app"], "cannot import exits: SystemExit: 3"),
        (["stopped:app"], "cannot import stopped: KeyboardInterrupt\n"),
        (["json:nosuch"], "json has no nosuch"),
        (["json:__doc__"], "json:__doc__ is not callable, so it is no WSGI application"),
        (["fifo"], "fifo is neither a file nor a directory"),
        (["--port", "x"], "argument --port: 'x' is not a number from 0 to 65535"),
        (["--port", "65536"], "argument --port: '65536' is not a number from 0 to 65535"),
        (["--threads", "0"], "argument --threads: '0' is not a number from 1 to 1024"),
        (
            ["--block-size", "-1"],
            "argument --block-size: '-1' is not a number from 1 to 1073741824",
        ),
        (["--nosuch"], "unrecognized arguments: --nosuch"),
        (["data", "--hidden"], "--hidden and --follow-symlinks are for directories, not data"),
        (
            ["json:loads", "--follow-symlinks"],
            "--hidden and --follow-symlinks are for directories",
        ),
        (["--host", "host.invalid"], "cannot listen on host.invalid port 8080: "),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 8080: "),
    ],
)
def test_one_clear_line(tmp_path: Path, args: list[str], message: str) -> None:
    """Exit status 2, no traceback."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "data").touch()
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "stopped.py").write_text("raise KeyboardInterrupt  # As Ctrl-C does.\n")
    result = subprocess.run(
        [*COMMAND, *args], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"wsgifile: {message}")
    assert result.stderr.count("\n") == 1


def test_port_in_use(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        result = subprocess.run(
            [*COMMAND, str(site), "--port", str(port)], capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 2
    expected = f"wsgifile: cannot listen on 127.0.0.1 port {port}: the port is in use\n"
    assert result.stderr == expected


@pytest.mark.parametrize("port", ["x", "65536", "-1"])
def test_port_of_the_environment(site: Path, port: str) -> None:
    """PORT is the port, unless --port is there; and it is named if it is none."""
    wanted = str(free_port())
    with serving(str(site), env={"PORT": wanted}) as url:
        assert url == f"http://127.0.0.1:{wanted}/"
    with serving(str(site), "--port", "0", env={"PORT": port}) as url:
        assert get(url + "empty")[2] == b""
    result = subprocess.run(
        [*COMMAND, str(site)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PORT": port},
    )
    assert (result.returncode, result.stdout) == (2, "")
    message = f"environment variable PORT: {port!r} is not a number from 0 to 65535"
    assert result.stderr == f"wsgifile: {message}\n"


def test_sigterm(site: Path) -> None:
    """As Ctrl-C: by it a service is stopped, and a container."""
    with started(*COMMAND, str(site), "--port", "0") as (process, _):
        process.terminate()
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


def test_open(site: Path, tmp_path: Path) -> None:
    """The browser gets the page, and Ctrl-C does not wait for it."""
    browser, got = tmp_path / "browser", tmp_path / "got"
    browser.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time, urllib.request\n"
        "with urllib.request.urlopen(sys.argv[1], timeout=20) as answer:\n"
        "    data = sys.argv[1].encode() + b' ' + answer.read()\n"
        f"with open({str(got) + '.new'!r}, 'wb') as file:\n"
        "    file.write(data)\n"
        f"os.rename({str(got) + '.new'!r}, {str(got)!r})\n"
        "time.sleep(1)\n"
    )
    browser.chmod(0o700)
    (site / "a b.txt").write_text("text")
    env = {"BROWSER": str(browser)}
    with serving("--open", str(site / "a b.txt"), env=env) as url:
        deadline = time.monotonic() + 20
        while not got.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert url.endswith("/a%20b.txt")
        assert got.read_text() == f"{url} text"


def test_open_without_a_browser(site: Path, tmp_path: Path) -> None:
    """It says so, and serves."""
    log = tmp_path / "log"
    env = {"BROWSER": "/nonexistent", "PATH": "/nonexistent", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    with serving("--open", "--quiet", str(site), log=log, env=env) as url:
        deadline = time.monotonic() + 20
        while log.read_text() != f"wsgifile: no browser has opened {url}\n":
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert get(url + "empty")[2] == b""


def test_browser_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: url.endswith("/1"))
    command_line._open("http://127.0.0.1/1")
    command_line._open("http://127.0.0.1/")
    assert capsys.readouterr().err == "wsgifile: no browser has opened http://127.0.0.1/\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_exposed(site: Path, host: str) -> None:
    """What is there for others than this machine is told. Here in a network of its own."""
    alone = [needed("unshare"), "--user", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this system lets us have no network of our own")
    command = [*alone, *COMMAND, "--host", host, "--port", "8080", "--quiet", str(site)]
    with started(*command) as (process, line):
        shown = f"[{host}]" if ":" in host else host
        assert line == f"Serving {site} on http://{shown}:8080/\n"
        process.send_signal(signal.SIGINT)
        message = f"{site} is open to anyone who can reach {host} port 8080"
        assert process.communicate(timeout=20) == ("", f"wsgifile: {message}\n")


def test_log(site: Path, tmp_path: Path) -> None:
    """A line for each request, with the sender, which is waitress's own wrapper as ever."""
    log = tmp_path / "log"
    with serving(str(site), log=log) as url:
        get(url + "data.bin")
        get(url + "data.bin", Range="bytes=100000-")
        get(url + "data.bin", method="HEAD")
        _, headers, _ = get(url + "empty")
        assert not_modified(url + "empty", headers["ETag"])
        page = get(url + "sub/?sort=size")[2]
        get(url + "sub/", method="HEAD")
        missing = ask(url, b"/nosuch").partition(b"\r\n\r\n")[2]
        lines = logged(log, 8)
    # One may be written when the answer to the next has left.
    assert set(lines) == {
        ("GET /data.bin HTTP/1.1", "200", "300000", "wsgi.file_wrapper", ""),
        ("GET /data.bin HTTP/1.1", "206", "200000", "wsgi.file_wrapper", ""),
        ("HEAD /data.bin HTTP/1.1", "200", "0", "none", ""),
        ("GET /empty HTTP/1.1", "200", "0", "none", ""),
        ("GET /empty HTTP/1.1", "304", "0", "none", ""),
        ("GET /sub/?sort=size HTTP/1.1", "200", str(len(page)), "-", ""),
        ("HEAD /sub/ HTTP/1.1", "200", "0", "-", ""),
        ("GET /nosuch HTTP/1.0", "404", str(len(missing)), "-", ""),
    }


def test_log_of_an_application(tmp_path: Path) -> None:
    """Its errors, its blocks without a length, and what write() has taken."""
    (tmp_path / "module.py").write_text(
        "import io\n"
        "class Bad(io.RawIOBase):\n"
        "    def read(self, size=-1): raise OSError('no disk')\n"
        "    def __repr__(self): return '<Bad>'\n"
        "def app(environ, start_response):\n"
        "    path = environ['PATH_INFO']\n"
        "    if path == '/raises': raise ZeroDivisionError\n"
        "    length = [('Content-Length', '9')] if path in ('/bad', '/long') else []\n"
        "    write = start_response('201 Created', length)\n"
        "    if path == '/exits': raise SystemExit\n"
        "    if path == '/write': write(b'12345')\n"
        "    if path == '/file':\n"
        "        environ.clear()\n"
        "        write(b'12345')\n"
        "        return open('large', 'rb')\n"
        "    if path == '/bad': return Bad()\n"
        "    if path == '/breaks': return (1 // n * b'x' for n in (1, 0))\n"
        "    if path == '/long': return [b'123456', b'7890']\n"
        "    return (block for block in (b'678', b'90'))\n"
    )
    (tmp_path / "large").write_bytes(bytes(100_000))
    log = tmp_path / "log"
    with serving("module:app", cwd=tmp_path, log=log) as url:
        for path in ("raises", "bad", "breaks"):
            with pytest.raises((urllib.error.HTTPError, http.client.IncompleteRead)) as caught:
                get(url + path)
            if isinstance(caught.value, urllib.error.HTTPError):
                caught.value.close()
        assert get(url + "write")[2] == b"1234567890"
        assert get(url + "blocks")[2] == b"67890"
        get(url + "blocks", method="HEAD")
        assert len(get(url + "file")[2]) == 100_005
        assert get(url + "long")[2] == b"123456789"
        with socket.create_connection(address(url), 20) as sock:
            sock.sendall(b"GET /exits HTTP/1.1\r\n\r\n")
            deadline = time.monotonic() + 20
            while '"GET /exits ' not in log.read_text():  # It gets no answer.
                assert time.monotonic() < deadline
                time.sleep(0.02)
    # The rest is of waitress and the middleware, about the errors.
    matches = [LINE.fullmatch(line) for line in log.read_text().splitlines()]
    assert {match.groups(default="") for match in matches if match} == {
        ("GET /raises HTTP/1.1", "500", "-", "-", " aborted: ZeroDivisionError()"),
        (
            "GET /bad HTTP/1.1",
            "500",
            "-",
            "read",
            " aborted: FileReadError('reading <Bad> failed: no disk')",
        ),
        (
            "GET /breaks HTTP/1.1",
            "201",
            "1",
            "-",
            " aborted: ZeroDivisionError('integer division or modulo by zero')",
        ),
        ("GET /write HTTP/1.1", "201", "10", "-", ""),
        ("GET /blocks HTTP/1.1", "201", "5", "-", ""),
        # waitress sends it, whatever the request was.
        ("HEAD /blocks HTTP/1.1", "201", "5", "-", ""),
        ("GET /file HTTP/1.1", "201", "100005", "read", ""),
        ("GET /long HTTP/1.1", "201", "9", "-", ""),
        ("GET /exits HTTP/1.1", "-", "-", "-", " aborted: SystemExit()"),
    }


def test_log_of_a_download_that_ends_early(site: Path, tmp_path: Path) -> None:
    """The bytes that have left, and why no more: the client, or the file."""
    size = 200_000_000
    for name in ("large", "short"):
        with (site / name).open("wb") as file:
            file.truncate(size)
    log = tmp_path / "log"
    with serving(str(site), log=log) as url:
        for name in ("large", "short"):
            with urllib.request.urlopen(url + name, timeout=20) as answer:
                answer.read(100_000)
                if name == "short":
                    os.truncate(site / name, 1000)
                    with pytest.raises(http.client.IncompleteRead):
                        answer.read()
        deadline = time.monotonic() + 20
        while log.read_text().count(" aborted ") < 2:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
    lines = [match for line in log.read_text().splitlines() if (match := LINE.fullmatch(line))]
    lines.sort(key=lambda match: match[1])  # Each is written when its connection is closed.
    for match, name in zip(lines, ("large", "short"), strict=True):
        request, status, sent, sender, end = match.groups()
        assert (request, status) == (f"GET /{name} HTTP/1.1", "200")
        assert 100_000 <= int(sent) < size
        assert sender == "wsgi.file_wrapper"
        assert end.startswith(f" aborted of {size}: ")
    assert lines[0][5].endswith(": the connection was closed")
    assert "ShortFileError" in lines[1][5]


def test_log_cannot_be_forged(site: Path, tmp_path: Path) -> None:
    """Whatever a client sends is one line, and ends where it ends."""
    log = tmp_path / "log"
    with serving(str(site), log=log) as url:
        for target in (
            b'/x" 200 5 - 0.000s\\',
            b'/?"-\\',
            b"/?\x1b[31m\x07\x7f",
            b"/\x1b[31m\x07\x7f\xa0",
            b"/%0a%1b",
            b"/\r127.0.0.1",
            b"/\n127.0.0.1",
            b"/" + b"a" * (262_144 - len(b"GET / HTTP/1.0\r\n\r\n")),  # No byte more.
        ):
            assert raw(url, target) in (200, 400, 404, 431), target
    # What waitress refuses does not reach the application, and has no line.
    assert sorted(line[:2] for line in logged(log, 3)) == [
        ("GET /%0a%1b HTTP/1.0", "404"),
        ('GET /?\\"-\\\\ HTTP/1.0', "200"),
        ("GET /?\\x1b[31m\\x07\\x7f HTTP/1.0", "200"),
    ]


def test_log_of_waitress_cannot_be_forged(tmp_path: Path) -> None:
    """It tells of the path of a request that raised."""
    (tmp_path / "raises.py").write_text("def app(environ, start_response): 1 / 0\n")
    log = tmp_path / "log"
    with serving("raises:app", cwd=tmp_path, log=log) as url:
        assert b" 500 " in ask(url, b"/%0aforged%1b[31m")
    assert "Exception while serving /\\nforged\\x1b[31m\n" in log.read_text()
    assert "ZeroDivisionError" in log.read_text()


def test_moved(site: Path) -> None:
    """To where it came from, whatever the client calls that; and nothing ends the header."""
    with serving(str(site)) as url:
        for target, location in (
            (b"/sub", b"./sub/"),
            (b"/sub?sort=size", b"./sub/?sort=size"),
            (b"//sub?a=\x1b<\xe9>", b"./sub/?a=%1B%3C%E9%3E"),
        ):
            answer = ask(url, target)
            assert answer.startswith(b"HTTP/1.0 301 ")
            assert b"\r\nLocation: " + location + b"\r\n" in answer


def test_quiet(site: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(str(site), "--quiet", log=log) as url:
        get(url)
        get(url + "data.bin")
        assert raw(url, b"/nosuch") == 404
        assert raw(url, b"/ /") == 400
    assert log.read_text() == ""


def test_log_that_nobody_reads(site: Path) -> None:
    """The files are sent, even so."""
    with started(*COMMAND, str(site), "--port", "0") as (process, line):
        assert process.stderr is not None
        process.stderr.close()
        url = line.split()[-1]
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
        for _ in range(3):
            for path, length in (("/data.bin", 300_000), ("/empty", 0), ("/page/", 8)):
                connection.request("GET", path)
                assert len(connection.getresponse().read()) == length
            connection.request("GET", "/nosuch")
            assert b"not be found" in connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_help() -> None:
    """On two screens of 80 columns at most."""
    result = subprocess.run(
        [*COMMAND, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80
    for option in ("host", "port", "open", "hidden", "follow-symlinks", "quiet", "threads"):
        assert f"  --{option} " in result.stdout
    for word in ("TARGET", "--block-size", "8080", "--explain", "--header", "PORT", "BROWSER"):
        assert word in result.stdout
    for part in ("usage:", "examples:", "environment:", "exit status:"):
        assert f"{part}" in result.stdout


@pytest.mark.parametrize(
    ("module", "package", "args"),
    [
        ("waitress", "waitress", ["."]),
        ("waitress", "waitress", ["json:loads"]),
        ("waitress", "waitress", ["--explain", "."]),
        ("webob", "WebOb", ["."]),
        ("webob", "WebOb", ["data.bin"]),
        ("webob", "WebOb", ["--explain", "."]),
    ],
)
def test_not_installed(site: Path, module: str, package: str, args: list[str]) -> None:
    """It says what to install."""
    code = (
        f"import sys; sys.modules[{module!r}] = None; from wsgifile.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, *args]
    result = subprocess.run(command, cwd=site, capture_output=True, text=True)
    message = f"wsgifile: {package} is not installed: pip install 'wsgifile[serve]'\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)


def test_application_without_webob(tmp_path: Path) -> None:
    """Only a directory or a file needs it."""
    (tmp_path / "module.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return open(__file__, 'rb')\n"
    )
    code = "import sys; sys.modules['webob'] = None; from wsgifile.cli.main import main; main()"
    command = [sys.executable, "-c", code, "--port", "0", "module:app"]
    with started(*command, cwd=tmp_path) as (_, line):
        pass
    assert line.startswith("Serving module:app on http://127.0.0.1:")
    command = [sys.executable, "-c", code, "--explain", "module:app"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "the client:           200 OK" in result.stdout


def test_version_of_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == "wsgifile, not installed\n"


def test_version() -> None:
    result = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    assert result.stdout == f"wsgifile {metadata.version('wsgifile')}\n"


def test_script() -> None:
    """The console script is the same program."""
    script = os.path.join(os.path.dirname(sys.executable), "wsgifile")
    result = subprocess.run([script, "nosuch"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr[:17]) == (2, "wsgifile: nosuch ")
