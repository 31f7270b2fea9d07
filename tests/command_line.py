"""Start the command line as a separate process, and send it requests."""

from __future__ import annotations

import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from email.message import Message
from pathlib import Path
from typing import IO

import pytest

COMMAND = [sys.executable, "-m", "wsgifile"]


#: A line of the access log: request line, status, bytes, sender, and how it ended.
LINE = re.compile(
    r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    r'"((?:[^"\\]|\\.)*)" (\d{3}|-) (\d+|-) (\S+) \d+\.\d{3}s( .+)?'
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory to serve. The files next to it must stay out of reach."""
    pytest.importorskip("webob")
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
    """Run it, and give the URL that it prints. Ctrl-C must end it silently with status 0.

    What it writes to stderr goes to log. Without log, only lines about requests are allowed.
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
    """The process, which is killed at the end, and the first line that it prints."""
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
    """The answer to a request for any target, also one that no library would send."""
    with socket.create_connection(address(url), 20) as sock:
        sock.sendall(method + b" " + target + b" HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(65536), b""))


def raw(url: str, target: bytes) -> int:
    """The status of the answer, which must not contain anything that must not be served."""
    answer = ask(url, target)
    assert b"secret" not in answer
    assert b"/tmp/" not in answer
    return int(answer.split()[1])


def links(url: str) -> list[str]:
    """The links of the listing, one for each entry."""
    return re.findall(r'<tr><td><a href="(.*?)"', get(url)[2].decode())


def logged(log: Path, count: int) -> list[tuple[str, ...]]:
    """The requests in the log, once there are at least count of them."""
    deadline = time.monotonic() + 20
    while len(lines := log.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), lines
    return [match.groups(default="") for match in matches if match]


def not_modified(url: str, etag: str) -> bool:
    try:
        get(url, **{"If-None-Match": etag})
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 304
    return False
