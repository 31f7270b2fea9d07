"""An ETag tells a file from every other: by a real server, with two users at one URL."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ports import serving

from wsgifile import FileWrapperMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SIZE = 200_000


def get(port: int, user: str, **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", "/report", headers={"Cookie": user, **sent})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, response.headers["ETag"], data


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (10**9, 10**9))  # As tar and image layers do: whole seconds.


@contextmanager
def application(open_for: Callable[[str], Any]) -> Iterator[int]:
    """Gives each user his own file, and says so as RFC 9111 wants it."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        private = [("Cache-Control", "private, no-cache"), ("Vary", "Cookie")]
        start_response("200 OK", [("Content-Type", "text/plain"), *private])
        return open_for(environ["HTTP_COOKIE"])

    with serving(FileWrapperMiddleware(app)) as port:
        yield port


# Up to 64 KiB are sent another way.
@pytest.mark.parametrize("size", [SIZE, 1000])
@pytest.mark.parametrize(
    "names", ["absolute", "bytes", "path", "relative", "descriptor", "opener"]
)
def test_two_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, names: str) -> None:
    """Of equal size and time: neither 304 nor a splice of the two."""
    for user in "ab":
        write(tmp_path / user / "report", user.encode() * size)
    monkeypatch.chdir(tmp_path)

    def open_for(user: str) -> Any:
        path = tmp_path / user / "report"
        if names == "descriptor":  # As programs do that check a path before they open it.
            descriptor = os.open(path, os.O_RDONLY)
            try:
                return open(f"/dev/fd/{descriptor}", "rb")
            finally:
                os.close(descriptor)
        if names == "opener":
            return open("/report", "rb", opener=lambda name, flags: os.open(path, flags))
        written: dict[str, Any] = {
            "absolute": str(path),
            "bytes": os.fsencode(path),
            "path": path,
            "relative": f"{user}/report",
        }
        return open(written[names], "rb")

    with application(open_for) as port:
        _, of_a, data = get(port, "a")
        assert data == b"a" * size
        assert get(port, "a", If_None_Match=of_a) == (304, of_a, b"")
        status, of_b, data = get(port, "b", If_None_Match=of_a)
        assert (status, data) == (200, b"b" * size)
        assert of_a != of_b
        part = get(port, "a", Range="bytes=500-", If_Range=of_a)
        assert part == (206, of_a, b"a" * (size - 500))
        whole = get(port, "b", Range="bytes=500-", If_Range=of_a)
        assert whole == (200, of_b, b"b" * size)


def test_same_on_another_machine(tmp_path: Path) -> None:
    """The tree was deployed twice, in releases of different names, and served from `current`."""
    path, tags = tmp_path / "current" / "static" / "report", set()
    for release in ("20260101", "20260102"):
        (tmp_path / "current").unlink(missing_ok=True)
        (tmp_path / "current").symlink_to(release)
        write(tmp_path / release / "static" / "report", b"x" * SIZE)
        with application(lambda user: open(path, "rb")) as port:
            tags.add(get(port, "a")[1])
    assert len(tags) == 1


def test_same_in_another_process(tmp_path: Path) -> None:
    """Of workers, each with its own seed of hash()."""
    write(tmp_path / "report", b"x" * SIZE)
    code = (
        "import os, sys; from wsgifile.conditions import etag_of_file, path_of_file;"
        "file = open(sys.argv[1], 'rb');"
        "print(etag_of_file(path_of_file(file, os.fstat(file.fileno())), 5, 6))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "report")]
    assert len({subprocess.check_output(command) for _ in range(2)}) == 1
