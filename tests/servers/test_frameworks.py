"""Every way in which frameworks send files, including common mistakes, on real servers."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import cases
import pytest
from cases import DATA
from client import Client, events, open_files
from frameworks import WAYS, Way
from known import SERVERS
from ports import wait_until_full

from conftest import Running

#: Servers: waitress has a wrapper of its own, the others send with os.sendfile.
ON = ["waitress", "cheroot", "gunicorn"]


@pytest.fixture(scope="session", params=ON)
def running(
    request: pytest.FixtureRequest, files: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    for module in (request.param, "h11"):
        skip_without(module)
    running = Running(request.param, files, tmp_path_factory.mktemp(request.param) / "log")
    yield running
    assert running.process.poll() is None, f"the server has exited:\n{running.log.read_text()}"
    running.stop()


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    events(running.port, closes=0)  # forget
    with Client(running.port) as client:
        yield client


@pytest.fixture(params=WAYS, ids=lambda way: f"{way.framework}-{way.path}")
def way(request: pytest.FixtureRequest) -> Any:
    skip_without(request.param.framework)
    return request.param


def skip_without(framework: str) -> None:
    """Skip if it is not installed. Only the process of the server imports it."""
    module = {"paste_file": "paste", "web_py": "web"}.get(framework, framework)
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")


def check_sender(running: Running, way: Way, sent: str) -> None:
    """It is sent by descriptor, or read in large blocks. Never by lines or in small pieces."""
    if sent == "fast" and way.threaded and running.name == "waitress":
        sent = "read"
    seen = [
        event for event in events(running.port, closes=0) if event[0] not in ("finished", "thread")
    ]
    senders = {tuple(event) if event[0] == "wrapper" else event[0] for event in seen}
    expected = {"fast": SERVERS[running.name].fast, "read": {"read"}, "own": set()}
    assert senders == expected[sent]
    assert all(event[1] >= 65536 for event in seen if event[0] == "read")


def check_closed(running: Running) -> None:
    """No file is still open, a moment later."""
    deadline = time.monotonic() + 5
    while names := open_files(running.port):
        assert time.monotonic() < deadline, names
        time.sleep(0.02)


def test_whole(running: Running, client: Client, way: Way) -> None:
    answer = client.get(f"/{way.framework}/{way.path}")
    assert (answer.status, answer.body, answer.short) == (200, way.body, False)
    check_sender(running, way, way.sent)
    check_closed(running)
    assert len(answer.names) == len(set(answer.names))
    if way.sent != "own":
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-length"] == str(len(way.body))
        assert ("etag" in answer.headers) == way.etag


def test_part(running: Running, client: Client, way: Way) -> None:
    """The 206 of the framework, or ours, has the right bytes."""
    headers = (("Range", "bytes=70000-899999"),)
    answer = client.get(f"/{way.framework}/{way.path}", headers=headers)
    if answer.status == 200:
        # The framework ignores the field, and we cannot see that it is a file.
        assert (way.part, answer.body) == ("own", way.body)
    else:
        assert (answer.status, answer.body, answer.short) == (206, DATA[70_000:900_000], False)
        assert answer.headers["content-range"] == f"bytes 70000-899999/{len(DATA)}"
        assert len(answer.names) == len(set(answer.names))
    check_sender(running, way, way.part)
    check_closed(running)


def test_not_modified(running: Running, client: Client, way: Way) -> None:
    """A second request, with the validator from the first answer."""
    first = client.get(f"/{way.framework}/{way.path}")
    if "etag" in first.headers:
        headers = (("If-None-Match", first.headers["etag"]),)
    elif "last-modified" in first.headers:
        headers = (("If-Modified-Since", first.headers["last-modified"]),)
    else:
        assert way.sent == "own" or way.path == "content_file"
        return
    events(running.port, closes=0)
    answer = client.get(f"/{way.framework}/{way.path}", headers=headers)
    if way.path == "streaming_temporary":
        assert answer.status == 200  # Each request makes another file.
        return
    assert (answer.status, answer.body) == (304, b"")
    check_sender(running, way, "own")
    check_closed(running)


def test_head(running: Running, client: Client, way: Way, request: pytest.FixtureRequest) -> None:
    """No body, and a Content-Length if the length is known, as in the answer to a GET."""
    if way.sent == "own":
        return  # We see no file, so the server alone decides.
    if running.name == "waitress" and not way.head_sized:
        reason = "the framework drops the file, and waitress ends a HEAD by a last chunk"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    answer = client.get(f"/{way.framework}/{way.path}", method="HEAD")
    assert answer.body == b""
    if answer.status == 405:
        assert way.framework == "web_py"
        return
    assert answer.status == 200
    assert ("content-length" in answer.headers) == way.head_sized
    if way.head_sized:
        assert answer.headers["content-length"] == str(len(way.body))
    check_sender(running, way, "own")


def finished(running: Running) -> int:
    """How often the application was told of the end of a response. Waits for the first time."""
    deadline = time.monotonic() + 5
    seen: list[list[Any]] = []
    while ["finished"] not in seen:
        assert time.monotonic() < deadline, seen
        seen += events(running.port, closes=0)
    time.sleep(0.05)
    return (seen + events(running.port, closes=0)).count(["finished"])


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("file_response", "GET"),
        ("file_response", "HEAD"),
        ("streaming", "GET"),
        ("streaming", "HEAD"),
        ("http_response", "GET"),
    ],
)
def test_django_signals_the_end(running: Running, client: Client, path: str, method: str) -> None:
    """It sends request_finished once. Django returns database connections at that signal."""
    skip_without("django")
    client.get(f"/django/{path}", method=method)
    assert finished(running) == 1


@pytest.mark.parametrize("path", ["flask/closing", "web_py/hooked"])
def test_what_a_framework_does_in_the_end(running: Running, client: Client, path: str) -> None:
    """call_on_close() of Flask and unloadhook() of web.py are called once."""
    skip_without(path.partition("/")[0])
    assert client.get(f"/{path}").body == DATA
    assert finished(running) == 1


@pytest.mark.parametrize("path", ["flask/closing", "django/streaming"])
def test_thread_of_the_end(running: Running, client: Client, path: str) -> None:
    """It is the right thread: sessions and database connections belong to one."""
    skip_without(path.partition("/")[0])
    with open(cases.path("large"), "wb") as file:
        file.truncate(32 * 2**20)
    client.send(f"/{path}?file=large")
    # A server that sends from another thread must wait there.
    wait_until_full(client.connect())
    assert len(client.receive(piece=1 << 20).body) == 32 * 2**20
    deadline = time.monotonic() + 5
    seen: list[list[Any]] = []
    while not [event for event in seen if event[0] == "thread"]:
        assert time.monotonic() < deadline, seen
        seen += events(running.port, closes=0)
    assert ["thread", True] in seen


def test_gzip_of_the_framework(client: Client) -> None:
    """Its stream is not a file any more, and we add no field."""
    skip_without("django")
    answer = client.get("/django/gzip", headers=(("Accept-Encoding", "gzip"),))
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == DATA
    assert not {"accept-ranges", "etag", "content-length"} & answer.headers.keys()
    ranged = (("Accept-Encoding", "gzip"), ("Range", "bytes=0-9"))
    assert client.get("/django/gzip", headers=ranged).status == 200


def test_conditional_get_of_the_framework(client: Client) -> None:
    """The middleware of Django makes an ETag of a body that it sees, and answers with 304."""
    skip_without("django")
    first = client.get("/django/http_response")
    headers = (("If-None-Match", first.headers["etag"]),)
    assert client.get("/django/http_response", headers=headers).status == 304


def test_several_ranges(client: Client) -> None:
    """We answer several ranges where the framework answers one or none."""
    headers = (("Range", "bytes=0-9,1000000-1000009"),)
    for path in ("django/static/data", "bottle/open", "falcon/stream", "flask/view"):
        skip_without(path.partition("/")[0])
        answer = client.get(f"/{path}", headers=headers)
        assert answer.status == 206
        assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
        assert DATA[:10] in answer.body
        assert DATA[1_000_000:1_000_010] in answer.body
        assert len(answer.body) < 600
