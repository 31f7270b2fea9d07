"""docs/troubleshooting.rst: each answer is shown by a test, which is here or elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, ROOT, sections
from ports import free_port, running, serving
from respond import sends
from slow import begin, gunicorn, logged

import wsgifile
from wsgifile import FileWrapperMiddleware

ANSWERS = sections((DOCS / "troubleshooting.rst").read_text())


@pytest.mark.parametrize("symptom", ANSWERS)
def test_shown(symptom: str) -> None:
    """The test that an answer names exists."""
    [(file, name)] = re.findall(r"^Test: ``(.+)::(\w+)``$", ANSWERS[symptom], re.MULTILINE)
    assert f"\ndef {name}(" in (ROOT / file).read_text()


class Short:
    """A file of 99,000 bytes. Nothing but reading shows that there are no more."""

    left = 99_000

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def test_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """curl reports it, and so does the log."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    app = sends(Short, ("Content-Length", "100000"))
    with serving(FileWrapperMiddleware(app)) as port:
        command = [curl, "-sS", "-o", "/dev/null", f"http://127.0.0.1:{port}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 18
    assert "curl: (18)" in done.stderr
    assert "bytes remaining to read" in done.stderr
    assert "the response is cut off" in caplog.text


APP = """
from wsgifile import FileWrapperMiddleware

def read():
    with open("film.mp4", "rb") as film:
        while block := film.read(65536):
            yield block

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "video/mp4"), ("Content-Length", "24000000")])
    return open("film.mp4", "rb") if environ["PATH_INFO"] == "/file" else read()

app = FileWrapperMiddleware(app)
"""


def test_worker_timeout(tmp_path: Path) -> None:
    """gunicorn kills the worker that a client holds by a generator, and not by a file."""
    pytest.importorskip("gunicorn")
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "film.mp4").write_bytes(bytes(24_000_000))
    port, log = free_port(), tmp_path / "log"
    with running(gunicorn("--timeout", "4")(port), port, log, cwd=tmp_path):
        with begin(port, "/file"), begin(port, "/file"):  # The one worker takes both.
            begin(port, "/generator").close()
        assert "WORKER TIMEOUT" not in log.read_text()
        with begin(port, "/generator"):
            logged(log, "WORKER TIMEOUT")


def answer(app: Any, **fields: str) -> Any:
    """The status and header with which waitress answers."""
    with serving(FileWrapperMiddleware(app)) as port:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=fields)
        with urllib.request.urlopen(request, timeout=20) as got:
            got.read()
            return got.status, got.headers


@pytest.mark.parametrize(
    ("make", "field", "ranges"),
    [
        (lambda: (bytes(10) for _ in range(100)), ("X-Field", "1"), False),
        (lambda: open(__file__, "rb"), ("Content-Encoding", "gzip"), False),
        (lambda: open(__file__, "rb"), ("X-Field", "1"), True),
    ],
)
def test_no_ranges(make: Callable[[], Any], field: tuple[str, str], ranges: bool) -> None:
    """For a generator, and for what is compressed."""
    status, headers = answer(sends(make, field), Range="bytes=0-9")
    assert status == (206 if ranges else 200)
    assert ("Accept-Ranges" in headers) is ranges


@pytest.mark.parametrize("fields", [(), (("Cache-Control", "no-cache"),)])
def test_date(fields: tuple[tuple[str, str], ...]) -> None:
    """There is one if the application says how to cache the response."""
    _, headers = answer(sends(lambda: open(__file__, "rb"), *fields))
    assert ("Last-Modified" in headers) is bool(fields)
    assert "ETag" in headers


def test_stable() -> None:
    """The page of what is stable names everything that is exported."""
    page = (DOCS / "stability.rst").read_text()
    assert [name for name in wsgifile.__all__ if f"``{name}``" not in page] == []
