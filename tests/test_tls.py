"""Servers that encrypt, whose sockets have a timeout for each block."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from client import Client
from ports import free_port

from wsgifile import FileWrapperMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

cheroot_wsgi = pytest.importorskip("cheroot.wsgi")

#: Of localhost, made for this test.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgRRY6JVGaJleAd6N1
+tPk7rajv+n7ei+F6u0yXHwcUpqhRANCAASE612vXkUfuzkzwxiE+olSaffr3TxR
tBmCtDd8irctlVDOWhIHMdj+qqQgPjqQczULEce+YR/eyQk6Gt2p1z9c
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBgDCCASWgAwIBAgIUGIkVWU8CNw8QQ8jkwpJg+6DkTrkwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjAyMTYxNFoYDzIxMjYxMTAy
MDIxNjE0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASE612vXkUfuzkzwxiE+olSaffr3TxRtBmCtDd8irctlVDOWhIHMdj+
qqQgPjqQczULEce+YR/eyQk6Gt2p1z9co1MwUTAdBgNVHQ4EFgQU/yIYH/I6Mr27
UYNBjlJ8qi3i2lYwHwYDVR0jBBgwFoAU/yIYH/I6Mr27UYNBjlJ8qi3i2lYwDwYD
VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEA22qbcPBxoOa5H9QCgDG7
/hyDhdmpufCRAjEsgO8icZYCIQCZV/t+qNwvfyy59ism5+Lhs1Ua2twPiTAbSynk
ZgtT/Q==
-----END CERTIFICATE-----
"""


class TLSClient(Client):
    def connect(self) -> Any:
        if self.sock is None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.sock = context.wrap_socket(super().connect())
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
