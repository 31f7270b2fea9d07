"""Behind monitoring agents: the real ones, on real servers, under Django and Flask.

Each agent runs in a server of its own, because it patches what it finds. ``agents_app`` has the
application, and tells what the agent reports. The same reports are expected without wsgifile.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import launch
import pytest
from ports import free_port, wait_until_listening

HERE = os.path.dirname(__file__)
DATA = os.urandom(1 << 20) * 6
#: By name: the module that has to be installed.
AGENTS = {
    "sentry": "sentry_sdk",
    "newrelic": "newrelic",
    "ddtrace": "ddtrace",
    "opentelemetry": "opentelemetry.instrumentation.wsgi",
    "elastic": "elasticapm",
}
SERVERS: dict[str, dict[str, Any]] = {
    "waitress": {},
    "gunicorn_gthread": {},
    "uwsgi": {"more": ["--lazy-apps", "--master", "--offload-threads", "1"]},
}
PAGE = b"<html><head></head><body>text</body></html>"
OURS = ["inside", "around", "outside"]


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # Nor is its package.
        return False


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes
    #: Whether all of the body has come.
    whole: bool


class Running:
    """A server with an agent."""

    def __init__(self, agent: str, server: str, files: Path) -> None:
        self.agent, self.server, self.files = agent, server, files
        self.port = free_port()
        self.log = files / "log"
        #: How much of what was reported has been looked at.
        self.seen = 0
        path = os.path.join(HERE, "agents_app.py")
        environ = {"WSGIFILE_TEST_FILES": str(files), "WSGIFILE_TEST_AGENT": agent}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                launch.command(server, path, self.port, **SERVERS[server]),
                env={**os.environ, **environ, "PYTHONWARNINGS": "default::ResourceWarning"},
                stdout=output,
                stderr=output,
            )
        wait_until_listening(self.port, self.process, self.log)

    def stop(self) -> None:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            with contextlib.suppress(OSError):
                self.get("/coverage")
        self.process.terminate()
        self.process.wait(20)

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=fields)
        response = connection.getresponse()
        try:
            body, whole = response.read(), True
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
        connection.close()
        return Answer(response.status, response.headers, body, whole)

    def reported(self) -> list[list[Any]]:
        """All that there is since the last call of expect()."""
        body = self.get("/reported").body
        events: list[list[Any]] = json.loads(body)[self.seen :]
        return events

    def skip_without_close(self, place: str) -> None:
        if self.agent == "elastic" and place not in {"bare", "inside"}:
            pytest.skip("Elastic's WSGI middleware never calls close(): see test_elastic")

    def wait_for(self, kind: str) -> list[Any]:
        """The next event of this kind."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for event in self.reported():
                if event[0] == kind:
                    return event
            time.sleep(0.02)
        raise TimeoutError(kind)

    def expect(self, *events: list[Any], sent: int = 1, loses: Sequence[Any] = ()) -> None:
        """Wait for these events, in any order. Others are an error, now or the next time.

        :param sent: where to begin in the fields of ["sent", ...].
        :param loses: those which may be missing.
        """
        deadline = time.monotonic() + (2 if loses else 10)
        while len(found := self.reported()) < len(events) and time.monotonic() < deadline:
            time.sleep(0.02)
        events = tuple(event for event in events if event not in loses or event in found)
        self.seen += len(found)
        found = [["sent", *event[sent:]] if event[0] == "sent" else event for event in found]
        assert sorted(map(repr, found)) == sorted(map(repr, events)), self.log.read_text()[-5000:]

    def transactions(self, framework: str, view: str, status: int, method: str = "GET") -> Any:
        """What the agent reports of a request without an error."""
        if self.agent == "sentry" and method == "HEAD":
            return []
        # Werkzeug does not call what call_on_close() has, if send_file() sends a file.
        if self.agent == "elastic" and (framework, view) == ("flask", "file") and method == "GET":
            return []
        return [["transaction", 200 if self.agent == "elastic" else status]]

    def errors(self, framework: str, place: str, error: str) -> Any:
        """What the agent reports if reading the file fails: one for each layer that sees it."""
        count = 1
        if self.agent in {"opentelemetry", "elastic"}:
            # A middleware of Django, or hooks of Flask: these have returned long before.
            count = int(place in {"around", "outside"})
        elif self.agent == "ddtrace":
            count = int(framework == "flask") + int(place in {"around", "outside"})
        return [["error", error]] * count

    def closed(self, framework: str, view: str, method: str = "GET") -> Any:
        return [] if (framework, view, method) == ("flask", "file", "GET") else [["closed"]]

    def is_around(self, place: str) -> bool:
        """Whether the agent is outside of wsgifile. New Relic also patches waitress."""
        return place == "outside" or (self.agent, self.server) == ("newrelic", "waitress")

    def sender(self, place: str, view: str, framework: str) -> str:
        """By what a large file is sent."""
        if (self.agent, self.server) == ("newrelic", "waitress"):
            return "read"
        if place == "outside" and (self.agent, self.server) != ("sentry", "uwsgi"):
            return "read"
        if self.server == "gunicorn_gthread":
            return "os.sendfile"
        in_thread = view == "stream" or self.agent == "newrelic"
        if self.agent == "ddtrace":
            in_thread |= framework == "flask" or place == "around"
        in_thread |= self.agent == "opentelemetry" and place == "around"
        in_thread |= (self.agent, framework) == ("elastic", "django")
        return "read" if self.server == "waitress" and in_thread else "wsgi.file_wrapper"

    def recognised(self, framework: str, place: str, view: str) -> bool:
        if place != "around" or self.agent in {"sentry", "newrelic"}:
            return place != "bare"
        if self.agent == "ddtrace":
            return (framework, view) != ("django", "stream")
        return view == "file"


@pytest.fixture(
    scope="module",
    params=[(agent, server) for agent in AGENTS for server in SERVERS],
    ids=lambda pair: "-".join(pair),
)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    agent, server = request.param
    if not is_installed(AGENTS[agent]):
        pytest.skip(f"{AGENTS[agent]} is not installed")
    if not launch.SERVERS[server].installed():
        pytest.skip(f"{launch.SERVERS[server].module} is not installed")
    files = tmp_path_factory.mktemp(f"{agent}-{server}")
    (files / "data").write_bytes(DATA)
    (files / "left open").write_bytes(DATA)
    running = Running(agent, server, files)
    try:
        yield running
        assert running.reported() == []
    finally:
        running.stop()
    log = running.log.read_text(errors="replace")
    assert f"unclosed file <_io.BufferedReader name='{files}/data" not in log


@pytest.mark.parametrize("view", ["file", "stream"])
@pytest.mark.parametrize("place", ["bare", *OURS])
@pytest.mark.parametrize("framework", ["django", "flask"])
def test_file(running: Running, framework: str, place: str, view: str) -> None:
    """The whole file, with what wsgifile adds. The agent reports what it reports without us."""
    running.skip_without_close(place)
    ours = running.recognised(framework, place, view)
    if not ours and place != "bare":
        pytest.skip("see test_not_looked_through")
    answer = running.get(f"/{framework}/{place}/{view}/data")
    assert (answer.status, answer.whole, answer.body) == (200, True, DATA)
    transactions = running.transactions(framework, view, 200)
    events = transactions + running.closed(framework, view)
    # waitress's main loop may call close(), where Elastic does not find its transaction.
    loses = (running.agent, running.server, framework, place) == (
        "elastic",
        "waitress",
        "django",
        "bare",
    )
    if ours:
        assert answer.headers["ETag"]
        sender = running.sender(place, view, framework)
        sent = None if (running.server, sender) == ("uwsgi", "wsgi.file_wrapper") else len(DATA)
        events.append(["sent", sender, "200", sent, None])
    running.expect(*events, loses=transactions if loses else ())


@pytest.mark.parametrize("place", ["bare-around", "around"])
@pytest.mark.parametrize("view", ["file", "stream"])
@pytest.mark.parametrize("framework", ["django", "flask"])
def test_not_looked_through(running: Running, framework: str, view: str, place: str) -> None:
    """What the agent's middleware returns is passed on, and the agent reports the same."""
    running.skip_without_close(place)
    if running.recognised(framework, "around", view):
        pytest.skip("wsgifile looks through it: see test_file")
    answer = running.get(f"/{framework}/{place}/{view}/left%20open")
    assert (answer.status, answer.whole, answer.body) == (200, True, DATA)
    assert answer.headers["ETag"] is None
    events = running.transactions(framework, view, 200) + running.closed(framework, view)
    if (running.agent, framework, view) == ("ddtrace", "django", "stream"):
        events.remove(["closed"])  # It closes Django's iterator, which has no close().
    running.expect(*events)


@pytest.mark.parametrize("place", OURS)
@pytest.mark.parametrize("framework", ["django", "flask"])
def test_without_a_whole_body(running: Running, framework: str, place: str) -> None:
    """206, 304 and HEAD. An agent inside of wsgifile reports the application's status."""
    running.skip_without_close(place)
    path = f"/{framework}/{place}/file/data"
    closed = running.closed(framework, "file")

    def seen(status: int) -> Any:
        status = status if running.is_around(place) else 200
        return running.transactions(framework, "file", status)

    part = running.get(path, Range="bytes=5-104")
    assert (part.status, part.body) == (206, DATA[5:105])
    running.expect(*seen(206), *closed, ["sent", "read", "206", 100, None])

    same = running.get(path, If_None_Match=part.headers["ETag"])
    assert (same.status, same.body) == (304, b"")
    running.expect(*seen(304), *closed, ["sent", "none", "304", 0, None])

    head = running.get(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    # Flask drops the file.
    sent = [] if framework == "flask" else [["sent", "none", "200", 0, None]]
    running.expect(*running.transactions(framework, "file", 200, "HEAD"), ["closed"], *sent)


@pytest.mark.parametrize("place", OURS)
@pytest.mark.parametrize("framework", ["django", "flask"])
def test_client_leaves(running: Running, framework: str, place: str) -> None:
    """The transaction ends, once, and everything is closed."""
    running.skip_without_close(place)
    path = running.files / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        target = f"/{framework}/{place}/file/large"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    events = running.transactions(framework, "file", 200) + running.closed(framework, "file")
    running.expect(*events, ["sent"], sent=5)


@pytest.mark.parametrize("place", ["bare", *OURS])
@pytest.mark.parametrize("framework", ["django", "flask"])
def test_file_breaks(running: Running, framework: str, place: str) -> None:
    """An error of the file gets to the agent, if it does so without wsgifile."""
    running.skip_without_close(place)
    if (running.server, place) == ("uwsgi", "bare"):
        pytest.skip("uWSGI has no iterable for the agent if the file has no descriptor")
    answer = running.get(f"/{framework}/{place}/file/breaks")
    assert (answer.status, len(answer.body)) == (200, 1 << 20)
    assert not answer.whole or running.server == "uwsgi"  # Without chunks nobody can tell.
    error = "OSError" if place == "bare" else "FileReadError"
    events = running.transactions(framework, "file", 200) + running.closed(framework, "file")
    events += running.errors(framework, place, error)
    if place != "bare":
        events.append(["sent", error])
    running.expect(*events, sent=4)


@pytest.mark.parametrize("place", OURS)
@pytest.mark.parametrize("framework", ["django", "flask"])
def test_file_shrinks(running: Running, framework: str, place: str) -> None:
    """So does the error of a file that has become too short, however it is sent."""
    running.skip_without_close(place)
    path = running.files / "shrinks"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(20)
        client.connect(("127.0.0.1", running.port))
        target = f"/{framework}/{place}/file/shrinks"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        count = 0
        while count < 100_000:  # The header, and some of the file.
            count += len(client.recv(1000))
        os.truncate(path, 0)
        while data := client.recv(1 << 20):
            count += len(data)
    assert count < 64 << 20
    events = running.transactions(framework, "file", 200) + running.closed(framework, "file")
    error = running.wait_for("sent")[4]
    events.append(["sent", error])
    if error:
        events += running.errors(framework, place, error)
    else:
        # A thread of uWSGI's sends, and tells nobody, unless the file was too short before that.
        assert running.server == "uwsgi"
        assert running.sender(place, "file", framework) == "wsgi.file_wrapper"
    running.expect(*events, sent=4)


@pytest.mark.parametrize("place", ["bare", "inside"])
@pytest.mark.parametrize("framework", ["django", "flask"])
def test_page(running: Running, framework: str, place: str) -> None:
    """New Relic puts a script into HTML, and decides about that when it is iterated."""
    (running.files / "page.html").write_bytes(PAGE)
    answer = running.get(f"/{framework}/{place}/page/page.html")
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body.endswith(b"<body>text</body></html>")
    assert (answer.body == PAGE) == (running.agent != "newrelic")
    events = running.transactions(framework, "file", 200)
    if place == "inside" and (running.agent != "newrelic" or running.is_around(place)):
        events.append(["sent", "read", "200", len(PAGE), None])
    running.expect(*events)


@pytest.mark.parametrize("framework", ["django", "flask"])
def test_elastic(tmp_path: Path, framework: str) -> None:
    """Elastic's WSGI middleware calls the application, and start_response, when it is iterated."""
    if not is_installed(AGENTS["elastic"]):
        pytest.skip("elasticapm is not installed")
    (tmp_path / "data").write_bytes(DATA)
    running = Running("elastic", "waitress", tmp_path)
    try:
        for place in ("bare-around", "around"):
            answer = running.get(f"/{framework}/{place}/file/data", Range="bytes=5-104")
            assert (answer.status, answer.whole, answer.body) == (200, True, DATA)
        answer = running.get(f"/{framework}/outside/file/data", Range="bytes=5-104")
        assert (answer.status, answer.whole, answer.body) == (206, True, DATA[5:105])
        assert running.wait_for("sent") == ["sent", "read", "206", 100, None]
    finally:
        running.stop()
