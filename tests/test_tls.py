"""Servers that encrypt, whose sockets have a timeout for each block."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from client import Client
from ports import free_port
from tls import CERTIFICATE, wrapped

from wsgifile import FileWrapperMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

cheroot_wsgi = pytest.importorskip("cheroot.wsgi")


class TLSClient(Client):
    def connect(self) -> Any:
        if self.sock is None:
            self.sock = wrapped(super().connect())
        return self.sock


class Hidden:
    """A filter with a start_response of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        return self.app(environ, lambda *args: start_response(*args))


@pytest.mark.parametrize("hidden", [False, True])
def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool) -> None:
    """A slow client takes 64 KiB within the timeout. For 256 KiB it needs four times as long."""
    from cheroot.ssl.builtin import BuiltinSSLAdapter

    data = bytes(range(256)) * 2000
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "certificate").write_text(CERTIFICATE)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (tmp_path / "data").open("rb")

    sizes: list[int] = []
    original = cheroot_wsgi.Gateway.write

    def write(self: Any, chunk: bytes) -> Any:
        sizes.append(len(chunk))
        return original(self, chunk)

    monkeypatch.setattr(cheroot_wsgi.Gateway, "write", write)
    middleware = FileWrapperMiddleware(app)
    port, certificate = free_port(), str(tmp_path / "certificate")
    server = cheroot_wsgi.Server(
        ("127.0.0.1", port), Hidden(middleware) if hidden else middleware, numthreads=1
    )
    server.ssl_adapter = BuiltinSSLAdapter(certificate, certificate)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        with TLSClient(port) as client:
            assert client.get("/").body == data
    finally:
        server.stop()
        thread.join()
    assert max(sizes) == 65536
