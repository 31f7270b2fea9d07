"""The command line, as a process of its own."""

from __future__ import annotations

import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "wsgifile"]


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
def serving(*args: str, cwd: Path | None = None) -> Iterator[str]:
    """The URL it prints; Ctrl-C must end it, without a word and with status 0."""
    process: Any = subprocess.Popen(
        [*COMMAND, "--port", "0", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    try:
        line = process.stdout.readline()
        url = re.search(r"http://\S+", line)
        assert url, line + process.stderr.read()
        yield url[0]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


def get(url: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.headers, answer.read()


def raw(url: str, target: bytes) -> int:
    """Status of a request whose target no library would send."""
    [(host, port)] = re.findall(r"http://([^:/]+):(\d+)", url)
    with socket.create_connection((host, int(port)), 20) as sock:
        sock.sendall(b"GET " + target + b" HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b"secret" not in answer
    assert b"/tmp/" not in answer
    return int(answer.split()[1])


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
        page = get(url)[2].decode()
        assert re.findall(r'href="(.*?)"', page) == [
            "./page/",
            "./sub/",
            "./data.bin",
            "./empty",
            "./pack.tar.gz",
        ]
        # A directory without its slash redirects, or relative links would miss.
        page = get(url + "sub")[2].decode()
        assert "<i>" not in page
        up, odd = re.findall(r'href="(.*?)"', page)
        assert up == "./../"
        assert get(url + "sub/" + odd)[2] == b"odd"


def test_nothing_outside(site: Path) -> None:
    """Neither files nor listings nor an index.html of the directory above."""
    with serving(str(site)) as url:
        for target in (
            b"/../secret",
            b"/../",
            b"/..",
            b"/%2e%2e/",
            b"/sub/../../",
            b"//../secret",
            b"/..%2fsecret",
        ):
            assert raw(url, target) in (400, 403, 404), target
        for target in (b"/%ff", b"/%00", b"/nosuch", b"/data.bin/", b"/" + b"a" * 5000):
            assert raw(url, target) == 404, target
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(url, method="DELETE")
        assert caught.value.code == 405
        caught.value.close()


def test_name_that_is_no_utf_8(site: Path) -> None:
    """The listing links to it, and the link leads to it."""
    directory = os.path.join(os.fsencode(site), b"sub", b"\xe9t\xe9")
    os.mkdir(directory)
    with open(os.path.join(directory, b"\xff"), "wb") as file:
        file.write(b"odd")
    with serving(str(site)) as url:
        assert './%E9t%E9/"' in get(url + "sub/")[2].decode()
        # Without its slash it redirects.
        assert './%FF"' in get(url + "sub/%E9t%E9?x=1")[2].decode()
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
        (["json:nosuch"], "json has no nosuch"),
        (["json:__doc__"], "json:__doc__ is not callable, so it is no WSGI application"),
        (["fifo"], "fifo is neither a file nor a directory"),
        (["--port", "x"], "argument --port: 'x' is no number from 0 to 65535"),
        (["--port", "65536"], "argument --port: '65536' is no number from 0 to 65535"),
        (["--threads", "0"], "argument --threads: '0' is no number from 1 to 1024"),
        (["--block-size", "-1"], "argument --block-size: '-1' is no number from 1 to 1073741824"),
        (["--nosuch"], "unrecognized arguments: --nosuch"),
        (["--host", "host.invalid"], "cannot listen on host.invalid port 8080: "),
    ],
)
def test_one_clear_line(tmp_path: Path, args: list[str], message: str) -> None:
    """Exit status 2, no traceback."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
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


def test_help() -> None:
    result = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    for word in ("TARGET", "--host", "--port", "--threads", "--block-size", "8080"):
        assert word in result.stdout


def test_script() -> None:
    """The console script is the same program."""
    script = os.path.join(os.path.dirname(sys.executable), "wsgifile")
    result = subprocess.run([script, "nosuch"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr[:17]) == (2, "wsgifile: nosuch ")
