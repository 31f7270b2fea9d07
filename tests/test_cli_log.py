"""The access log of the command line."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from command_line import (
    COMMAND,
    LINE,
    address,
    ask,
    get,
    logged,
    not_modified,
    raw,
    serving,
    started,
)


def test_log_of_an_application_that_has_the_middleware(tmp_path: Path) -> None:
    """Small files of an application that has the middleware itself get a line too."""
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


def test_log(site: Path, tmp_path: Path) -> None:
    """Each request has a line with its sender. The log does not stop waitress's wrapper."""
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
    # The order may differ: a line may come after the next answer has been sent.
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
    """The log counts what write() took and blocks without a length, and shows errors."""
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
        # waitress sends the body even for HEAD. A client that does not read it has left early.
        assert ask(url, b"/blocks", b"HEAD").endswith(b"67890")
        assert len(get(url + "file")[2]) == 100_005
        assert get(url + "long")[2] == b"123456789"
        with socket.create_connection(address(url), 20) as sock:
            sock.sendall(b"GET /exits HTTP/1.1\r\n\r\n")
            deadline = time.monotonic() + 20
            # This one gets no answer. A line may be written after the client has its answer.
            while sum(map(bool, map(LINE.fullmatch, log.read_text().splitlines()))) < 9:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    # The other lines are from waitress and the middleware, about the errors.
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
        ("HEAD /blocks HTTP/1.0", "201", "5", "-", ""),
        ("GET /file HTTP/1.1", "201", "100005", "read", ""),
        ("GET /long HTTP/1.1", "201", "9", "-", ""),
        ("GET /exits HTTP/1.1", "-", "-", "-", " aborted: SystemExit()"),
    }


def test_log_of_a_download_that_ends_early(site: Path, tmp_path: Path) -> None:
    """The line tells how many bytes were sent, and whether the client or the file ended it."""
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
            # Before the next request: the server may notice the end of that one first.
            deadline = time.monotonic() + 20
            while f'"GET /{name} ' not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
    lines = [match for line in log.read_text().splitlines() if (match := LINE.fullmatch(line))]
    for match, name in zip(lines, ("large", "short"), strict=True):
        request, status, sent, sender, end = match.groups()
        assert (request, status) == (f"GET /{name} HTTP/1.1", "200")
        assert 100_000 <= int(sent) < size
        assert sender == "wsgi.file_wrapper"
        assert end.startswith(f" aborted of {size}: ")
    assert lines[0][5].endswith(": the connection was closed")
    assert "ShortFileError" in lines[1][5]


def test_log_cannot_be_forged(site: Path, tmp_path: Path) -> None:
    """Whatever a client sends stays within quotes on one line."""
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
            # Just too long for waitress. It would leave a further byte unread, and so reset.
            b"/" + b"a" * (262_144 - len(b"GET / HTTP/1.0\r\n\r\n")),
        ):
            assert raw(url, target) in (200, 400, 404, 431), target
    # A request that waitress refuses does not reach the application, and gets no line.
    assert sorted(line[:2] for line in logged(log, 3)) == [
        ("GET /%0a%1b HTTP/1.0", "404"),
        ('GET /?\\"-\\\\ HTTP/1.0', "200"),
        ("GET /?\\x1b[31m\\x07\\x7f HTTP/1.0", "200"),
    ]


def test_log_of_waitress_cannot_be_forged(tmp_path: Path) -> None:
    """waitress logs the path of a request that raised, with control characters escaped."""
    (tmp_path / "raises.py").write_text("def app(environ, start_response): 1 / 0\n")
    log = tmp_path / "log"
    with serving("raises:app", cwd=tmp_path, log=log) as url:
        assert b" 500 " in ask(url, b"/%0aforged%1b[31m")
    assert "Exception while serving /\\nforged\\x1b[31m\n" in log.read_text()
    assert "ZeroDivisionError" in log.read_text()


def test_quiet(site: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(str(site), "--quiet", log=log) as url:
        get(url)
        get(url + "data.bin")
        assert raw(url, b"/nosuch") == 404
        assert raw(url, b"/ /") == 400
    assert log.read_text() == ""


def test_log_that_nobody_reads(site: Path) -> None:
    """The files are sent even if stderr is closed."""
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
            assert b"nothing here" in connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
