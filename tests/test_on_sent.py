"""What on_sent raises, when waitress's main loop has sent the file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("h11")

import waitress
from client import Client
from ports import serving
from waitress import wasyncore

from wsgifile import FileWrapperMiddleware, Transfer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: More than the sockets hold, so the main loop sends the end of it and calls on_sent.
SIZE = 32 << 20


def app_for(path: Path, error: type[BaseException], loops: list[bool]) -> FileWrapperMiddleware:
    """An application for the file. loops: whether on_sent was called in another thread."""
    path.write_bytes(bytes(SIZE))
    workers: list[threading.Thread] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        workers.append(threading.current_thread())
        start_response("200 OK", [("Content-Type", "text/plain")])
        return open(path, "rb")

    def on_sent(transfer: Transfer) -> None:
        loops.append(threading.current_thread() is not workers[-1])
        raise error

    return FileWrapperMiddleware(app, on_sent=on_sent)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_the_server_goes_on(
    tmp_path: Path, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """SystemExit too is logged. It used to end the server."""
    loops: list[bool] = []
    with serving(app_for(tmp_path / "file", error, loops)) as port:
        for _ in range(2):
            with Client(port, timeout=10) as client:
                for _ in range(2):
                    assert len(client.get("/").body) == SIZE
    assert loops == [True] * 4
    logged = [record for record in caplog.records if record.name == "wsgifile"]
    assert [record.getMessage() for record in logged] == ["on_sent failed"] * 4
    assert [record.exc_info and record.exc_info[0] for record in logged] == [error] * 4


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C may come while on_sent runs, and ends the server."""
    loops: list[bool] = []
    app = app_for(tmp_path / "file", KeyboardInterrupt, loops)
    server = waitress.create_server(app, host="127.0.0.1", port=0)
    loop = threading.Thread(target=server.run, daemon=True)
    loop.start()
    try:
        with Client(server.effective_port, timeout=10) as client:
            assert len(client.get("/").body) == SIZE
            loop.join(10)
    finally:
        wasyncore.close_all(server._map)
        assert not loop.is_alive()
    assert loops == [True]
