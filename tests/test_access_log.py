"""The access log of the command line: one line for each response, of any kind."""

from __future__ import annotations

import io
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ports import serving

from wsgifile.cli.access_log import AccessLog

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SIZE = Path(__file__).stat().st_size
ZERO = " aborted: ZeroDivisionError()"


class Closing:
    """Blocks whose close() raises."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)

    def close(self) -> None:
        raise ZeroDivisionError


class Unclosable(io.BytesIO):
    """A file whose close() raises."""

    def close(self) -> None:
        super().close()
        raise ZeroDivisionError

    def __del__(self) -> None:
        """Do not close it again."""


def application(
    make: Callable[[Any, Any], Any],
    status: str = "200 OK",
    *headers: tuple[str, str],
) -> WSGIApplication:
    """An application that calls start_response and returns make(environ, write)."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(status, list(headers))
        made: Iterable[bytes] = make(environ, write)
        return made

    return app


def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("201 Created", [])
    yield b"12345"


def again(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [])
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        start_response("502 Bad Gateway", [], sys.exc_info())
    return [b"bad"]


def breaks(*blocks: bytes, error: type[BaseException] = ZeroDivisionError) -> Iterator[bytes]:
    yield from blocks
    raise error


def raises(error: type[BaseException]) -> Any:
    raise error


def calls(*results: Any) -> Any:
    """The last of these results. In a lambda, the others are calls made for their effect."""
    return results[-1]


@pytest.mark.parametrize(
    ("app", "line"),
    [
        (late, "201 5 -"),
        (again, "502 3 -"),
        (application(lambda *_: [b"123", b"", b"45"]), "200 5 -"),
        (application(lambda *_: (b"123",)), "200 3 -"),
        (application(lambda *_: []), "200 0 -"),
        (application(lambda *_: [b"123"], "204 No Content"), "204 0 -"),
        (application(lambda *_: [b"12", b"34"], "200 OK", ("Content-Length", "3")), "200 3 -"),
        (application(lambda environ, _: calls(environ.clear(), [b"12"])), "200 2 -"),
        # Errors before anything is sent, and after.
        (lambda *_: raises(ZeroDivisionError), f"500 - -{ZERO}"),
        (application(lambda *_: raises(ZeroDivisionError)), f"500 - -{ZERO}"),
        (application(lambda *_: raises(SystemExit)), "- - - aborted: SystemExit()"),
        (application(lambda *_: breaks()), f"500 - -{ZERO}"),
        (application(lambda *_: breaks(b"")), f"500 - -{ZERO}"),
        (application(lambda *_: breaks(b"12")), f"200 2 -{ZERO}"),
        (
            application(lambda *_: breaks(b"12", error=SystemExit)),
            "200 2 - aborted: SystemExit()",
        ),
        (application(lambda *_: Closing()), f"500 - -{ZERO}"),
        (application(lambda *_: Closing(b"12")), f"200 2 -{ZERO}"),
        (application(lambda *_: None), "500 - - aborted: TypeError("),
        (application(lambda *_: [1]), "500 - - aborted: TypeError("),
        (application(lambda *_: ["12"]), "200 0 - aborted: TypeError("),
        (lambda *_: [], "500 - -"),
        (lambda *_: [b"12"], "500 - - aborted: RuntimeError("),
        (application(lambda *_: [b"12"], "200 OK", ("X", "\n")), "500 - - aborted: ValueError("),
        # Bytes from write().
        (application(lambda _, write: calls(write(b"12"), [b"345"])), "200 5 -"),
        (
            application(lambda _, write: calls(write(b"12"), raises(ZeroDivisionError))),
            f"200 2 -{ZERO}",
        ),
        (
            application(lambda _, write: calls(write(b""), raises(ZeroDivisionError))),
            f"200 0 -{ZERO}",
        ),
        # Files.
        (application(lambda *_: io.BytesIO(b"12345")), "200 5 read"),
        (
            application(lambda *_: open(__file__, "rb")),
            f"200 {Path(__file__).stat().st_size} read",
        ),
        (application(lambda *_: io.StringIO("12")), "500 - - aborted: TypeError("),
        (application(lambda *_: Unclosable(b"12")), f"200 2 read{ZERO}"),
        (
            application(
                lambda environ, write: calls(environ.clear(), write(b"12"), io.BytesIO(b"345"))
            ),
            "200 5 read",
        ),
    ],
)
def test_one_line(
    app: WSGIApplication, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line has the status, the bytes sent, the sender and the error, if there was one."""

    def wait(sock: socket.socket, log: Path) -> None:
        wait_for(lambda: log.read_text())  # Not for an answer: SystemExit gets none.

    [found] = lines(app, wait, tmp_path, monkeypatch)
    assert found.startswith(line) if line.endswith("(") else found == line


class Endless:
    """A file that does not end."""

    def read(self, size: int) -> bytes:
        return bytes(size)


@pytest.mark.parametrize(
    ("returned", "sender"),
    [
        ([bytes(100_000)] * 3_000, "-"),
        (iter([bytes(100_000)] * 3_000), "-"),
        (Endless(), "read"),
    ],
)
def test_client_that_leaves(
    returned: Any, sender: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(sock: socket.socket, log: Path) -> None:
        assert len(sock.recv(1000)) > 0
        sock.close()
        wait_for(lambda: log.read_text())

    [line] = lines(application(lambda *_: returned), leave, tmp_path, monkeypatch)
    match = re.fullmatch(rf"200 (\d+) {sender} aborted: the connection was closed", line)
    assert match
    assert 0 < int(match[1]) < 300_000_000


def lines(
    app: WSGIApplication,
    meet: Callable[[socket.socket, Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """The log's lines for one request: status, bytes, sender and end.

    :param meet: is called with the client's socket once the request is sent.
    """
    log = tmp_path / "log"
    with log.open("w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with (
            serving(AccessLog(app)) as port,
            socket.create_connection(("127.0.0.1", port), 20) as sock,
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            meet(sock, log)
    pattern = r'127\.0\.0\.1 - - \[.*\] "GET / HTTP/1\.1" (.*) \d+\.\d{3}s(.*)'
    matches = [re.fullmatch(pattern, line) for line in log.read_text().splitlines()]
    return [match[1] + match[2] if match else "" for match in matches]


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
