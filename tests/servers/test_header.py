"""Headers of applications that are not true of the file, on every server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from cases import DATA
from client import Client, events
from known import SERVERS

if TYPE_CHECKING:
    from conftest import Running


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    server.begin()
    events(server.port, closes=0)  # forget
    with Client(server.port, 1 if Client.bare else SERVERS[server.name].patience) as client:
        yield client


@pytest.mark.parametrize("stack", ["ours", "hidden"])
@pytest.mark.parametrize(
    ("name", "body"),
    [
        # Without us these work on waitress alone.
        ("length_too_large", DATA),
        ("small_length_too_large", DATA[:10]),
        # Without us: two fields, one of them with the space; 500 on gunicorn, nothing on twisted.
        ("spaced_name", DATA),
        # Without us: chunks on some servers, 500 on others, on uWSGI bytes that are no chunks.
        ("transfer_encoding", DATA),
    ],
)
def test_untrue_header(
    server: Running, client: Client, stack: str, name: str, body: bytes
) -> None:
    """The client gets all of the file, under a header that is true of it."""
    for method in ("GET", "HEAD"):
        answer = client.get(f"/{stack}/{name}", method=method)
        assert (answer.status, answer.short) == (200, False)
        assert answer.body == (body if method == "GET" else b"")
        assert events(server.port, closes=1).count(["close"]) == 1
        lengths = [field.strip() for field in answer.names].count("content-length")
        assert (lengths, answer.headers["content-length"]) == (1, str(len(body)))
        assert "transfer-encoding" not in answer.names
    assert client.get("/middleware/length_smaller").body == DATA[:10]
    events(server.port, closes=1)
