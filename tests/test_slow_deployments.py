"""Slow clients where a server is deployed in another way, and where something goes wrong.

Each client here stops before the body's first byte. The body is larger than all buffers between
the application and a client that stops.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import faults
import nginx
import pytest
from ports import connect, free_port, running
from slow import (
    DATA,
    SIZE,
    Address,
    Command,
    ask,
    begin,
    gets_all,
    gunicorn,
    logged,
    rest,
    script,
    started,
    uwsgi,
    without_coverage,
)
from tls import CERTIFICATE, wrapped

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll")

#: Seconds that a client stops where nothing shows that the server has waited for it: many times
#: what it waits before the response may leave its worker.
STOP = 0.5


def leaves(address: Address, log: Path, *fields: str, version: str = "1.0") -> None:
    """The only worker serves others while a client has stopped, which gets all afterwards."""
    told = log.read_text()
    sock = begin(address, "/data", version, *fields)
    logged(log, "the file is closed", times=told.count("the file is closed") + 1)
    assert ask(address, "/ping") == "ok"
    assert log.read_text().count("sent background") == told.count("sent background")
    gets_all(sock)
    sent = f"sent background {SIZE} None"
    logged(log, sent, times=told.count(sent) + 1)


def stays(address: Address, log: Path, sender: str, seconds: float = STOP, **request: Any) -> None:
    """A worker waits for the client, which stops for some seconds and gets all."""
    sock = begin(address, "/data", **request)
    time.sleep(seconds)
    assert "the file is closed" not in log.read_text()
    gets_all(sock)
    logged(log, f"sent {sender} ")


def others_are_served(address: Address, **request: Any) -> None:
    """While the response of another client stays with its worker."""
    with begin(address, "/data", **request):
        assert rest(begin(address, "/ping", **request)) == b"ok"


CERTIFIED = ["--certfile", "tls", "--keyfile", "tls"]
#: Servers that encrypt: the command, its module, and whether there are more workers than one.
TLS: dict[str, tuple[Command, str, bool]] = {
    "gunicorn": (gunicorn(*CERTIFIED, "--timeout", "2", "--preload"), "gunicorn", False),
    "gthread": (gunicorn(*CERTIFIED, "--threads", "2"), "gunicorn", True),
    "cheroot": (script("cheroot", "2", "tls"), "cheroot", True),
    "werkzeug": (script("werkzeug", "", "tls"), "werkzeug", True),
}


@pytest.mark.parametrize("name", TLS)
def test_tls(tmp_path: Path, name: str) -> None:
    """What a thread of ours sent would not be encrypted. The worker waits instead."""
    command, module, threads = TLS[name]
    (tmp_path / "tls").write_text(CERTIFICATE)
    with started(tmp_path, command, module) as (port, _, log):
        # gunicorn's arbiter and cheroot would end it sooner.
        stays(port, log, "read", 1.5 if threads else 4, wrap=wrapped)
        assert "Traceback" not in log.read_text()
        if threads:
            others_are_served(port, wrap=wrapped)


#: Servers with one worker: the command and its module.
UPSTREAMS: dict[str, tuple[Command, str]] = {
    "gunicorn": (gunicorn(), "gunicorn"),
    "gthread": (gunicorn("--threads", "1", "--worker-class", "gthread"), "gunicorn"),
    "gunicorn_uwsgi": (gunicorn("--protocol", "uwsgi"), "gunicorn"),
    "uwsgi": (uwsgi(), "pyuwsgi"),
    "uwsgi_uwsgi": (uwsgi(socket="--socket"), "pyuwsgi"),
}


@pytest.mark.parametrize("name", ["gunicorn", "uwsgi"])
def test_unix_socket(tmp_path: Path, name: str) -> None:
    """A client on it falls behind like any other."""
    command, module = UPSTREAMS[name]
    path = str(tmp_path / "socket")
    with started(tmp_path, command, module, address=path) as (_, _, log):
        leaves(path, log)


#: What is in front: nginx's directives for a location, and the server behind.
FRONTS: dict[str, tuple[str, str]] = {
    "gunicorn": ("proxy_pass http://up; proxy_max_temp_file_size 0;", "gunicorn"),
    "gunicorn-reached": ("proxy_pass http://up; proxy_max_temp_file_size 1m;", "gunicorn"),
    "gunicorn-unbuffered": ("proxy_pass http://up; proxy_buffering off;", "gunicorn"),
    "gthread-keepalive": (
        "proxy_pass http://up; proxy_max_temp_file_size 0;"
        'proxy_http_version 1.1; proxy_set_header Connection "";',
        "gthread",
    ),
    "gunicorn_uwsgi": (
        "uwsgi_pass up; include params; uwsgi_max_temp_file_size 0;",
        "gunicorn_uwsgi",
    ),
    "uwsgi_uwsgi": ("uwsgi_pass up; include params; uwsgi_max_temp_file_size 0;", "uwsgi_uwsgi"),
    "uwsgi_uwsgi-reached": (
        "uwsgi_pass up; include params; uwsgi_max_temp_file_size 1m;",
        "uwsgi_uwsgi",
    ),
}


@pytest.mark.parametrize("name", FRONTS)
def test_behind_nginx(tmp_path: Path, name: str) -> None:
    """It takes no more than its buffers hold, so it is a slow client itself."""
    directives, upstream = FRONTS[name]
    command, module = UPSTREAMS[upstream]
    path, front = str(tmp_path / "socket"), free_port()
    (tmp_path / "params").write_text(nginx.PARAMS)
    http = f"""
        upstream up {{ server unix:{path}; keepalive 4; }}
        server {{ listen 127.0.0.1:{front}; location / {{ {directives} }} }}
    """
    with (
        running(nginx.command(tmp_path, http), front, tmp_path / "nginx.log"),
        started(tmp_path, command, module, address=path) as (_, _, log),
    ):
        leaves(front, log)
        assert ask(front, "/ping") == "ok"  # nginx has not kept a connection that has ended.


class Http2:
    """A client that has asked for the file over HTTP/2, and takes nothing before rest()."""

    def __init__(self, port: int) -> None:
        from h2.connection import H2Connection

        self.sock = connect(port, 30)
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        fields = {":method": "GET", ":path": "/data", ":scheme": "http", ":authority": "localhost"}
        self.h2.send_headers(1, list(fields.items()), end_stream=True)
        self.sock.sendall(self.h2.data_to_send())

    def rest(self) -> bytes:
        from h2.events import DataReceived, StreamEnded

        blocks, ended = [], False
        with self.sock:
            while not ended:
                received = self.sock.recv(1 << 16)
                assert received
                for event in self.h2.receive_data(received):
                    if isinstance(event, DataReceived):
                        blocks.append(event.data)
                        self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
                    ended = ended or isinstance(event, StreamEnded)
                self.sock.sendall(self.h2.data_to_send())
        return b"".join(blocks)


def test_http2(tmp_path: Path) -> None:
    """Streams share a connection, which cannot be taken. Others of HTTP/1.1 can."""
    pytest.importorskip("h2")
    options = ["--http-protocols", "h2,h1", "--http2-cleartext", "both", "--threads", "2"]
    with started(tmp_path, gunicorn(*options), "gunicorn") as (port, _, log):
        client = Http2(port)
        assert ask(port, "/ping") == "ok"
        time.sleep(STOP)
        exact = client.rest() == DATA
        assert exact
        logged(log, f"sent read {SIZE} None")
        leaves(port, log, "Connection: close", version="1.1")


#: Servers whose threads are green: the command, its module, the sender, and whether others are
#: served meanwhile.
GREEN: dict[str, tuple[Command, str, str, bool]] = {
    "gunicorn": (gunicorn("--worker-class", "gevent"), "gevent", "os.sendfile", True),
    "pywsgi": (gunicorn("--worker-class", "gevent_pywsgi"), "gevent", "read", True),
    "gevent": (script("wsgiref_gevent"), "gevent", "os.sendfile", True),
    # A thread that waits stops all others, with wsgifile or without.
    "gevent_threads": (script("wsgiref_gevent_threads"), "gevent", "os.sendfile", False),
    "eventlet": (script("wsgiref_eventlet"), "eventlet", "os.sendfile", True),
    "uwsgi": (uwsgi("--gevent", "4"), "pyuwsgi", "wsgi.file_wrapper", True),
}


@pytest.mark.parametrize("name", GREEN)
def test_green_threads(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no need, or no thread that would not stop the others."""
    command, module, sender, others = GREEN[name]
    if name == "uwsgi":
        without_coverage(monkeypatch)
        pytest.importorskip("gevent")
    with started(tmp_path, command, module) as (port, _, log):
        stays(port, log, sender)
        if others:
            others_are_served(port)


def test_uwsgi_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of Python's runs between requests. uWSGI 2.0.30 always has them."""
    without_coverage(monkeypatch)
    with started(tmp_path, uwsgi(app="app:threadless"), "pyuwsgi") as (port, _, log):
        stays(port, log, "wsgi.file_wrapper")


def test_preload(tmp_path: Path) -> None:
    """Each worker has a thread of its own, which starts after the fork."""
    command = gunicorn("--preload", "--workers", "2")
    with started(tmp_path, command, "gunicorn") as (port, _, log), ThreadPoolExecutor(2) as pool:
        workers, clients = [], []
        # While one worker is held, the other one serves.
        held = [pool.submit(ask, port, "/hold/1")]
        logged(log, "held: 1")
        for number in (1, 2):
            workers.append(ask(port, "/pid"))
            clients.append(begin(port, "/data"))
            logged(log, "the file is closed", times=number)
            if number == 1:
                held.append(pool.submit(ask, port, "/hold/2"))
                logged(log, "held: 2")
                (tmp_path / "1").touch()
                assert held[0].result(20) == "None"
        assert len(set(workers)) == 2
        for sock in clients:
            gets_all(sock)
        logged(log, f"sent background {SIZE} None", times=2)
        (tmp_path / "2").touch()
        assert held[1].result(20) == "None"
        assert "Traceback" not in log.read_text()


FORKS = ["fork_and_end", "fork_and_stay", "run_a_program", "use_multiprocessing"]


@pytest.mark.parametrize("name", ["gunicorn", "gthread", "uwsgi"])
def test_fork(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a response is in the background. The child keeps no connection open."""
    command, module = UPSTREAMS[name]
    if module == "pyuwsgi":
        without_coverage(monkeypatch)
    with started(tmp_path, command, module) as (port, _, log):
        # In a thread of a pool, multiprocessing's children end by an error of Python's.
        forks = FORKS[:-1] if name == "gthread" else FORKS
        for number, fork in enumerate(forks, 1):
            before = begin(port, "/data")
            logged(log, "the file is closed", times=2 * number - 1)
            begin(port, f"/{fork}").close()  # uWSGI's connection is open in the child too.
            after = begin(port, "/data")
            logged(log, "the file is closed", times=2 * number)
            gets_all(before)
            gets_all(after)
            logged(log, f"sent background {SIZE} None", times=2 * number)
        assert "Traceback" not in log.read_text()


def is_short(sock: socket.socket) -> None:
    """The connection ends within the body, by a reset or not."""
    count = 0
    with sock, suppress(ConnectionResetError):
        while got := len(sock.recv(1 << 16)):
            count += got
    assert count < SIZE


#: Servers that start a worker in the place of one that has died.
MASTERS: dict[str, tuple[Command, str]] = {
    "gunicorn": (gunicorn(), "gunicorn"),
    "gthread": (gunicorn("--threads", "2"), "gunicorn"),
    "uwsgi": (uwsgi("--master"), "pyuwsgi"),
}


@pytest.mark.parametrize("name", MASTERS)
def test_worker_is_killed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients see that the body is short, and the next worker serves the others."""
    command, module = MASTERS[name]
    if module == "pyuwsgi":
        without_coverage(monkeypatch)
    with started(tmp_path, command, module) as (port, _, log):
        clients = [begin(port, "/data") for _ in range(3)]
        logged(log, "the file is closed", times=3)
        pid = ask(port, "/pid")
        os.kill(int(pid), signal.SIGKILL)
        for sock in clients:
            is_short(sock)
        assert ask(port, "/pid") != pid
        leaves(port, log)


#: Servers that a developer ends by Ctrl-C.
INTERRUPTED: dict[str, tuple[Command, str]] = {
    "werkzeug": (script("werkzeug"), "werkzeug"),
    "runserver": (script("runserver"), "django"),
    "paste": (script("paste"), "paste"),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_interrupt(tmp_path: Path, name: str) -> None:
    """The process ends at once, and with it the connections, without a traceback."""
    command, module = INTERRUPTED[name]
    with started(tmp_path, command, module, stop=signal.SIGINT) as (port, process, log):
        sock = begin(port, "/data")
        logged(log, "the file is closed")
        process.send_signal(signal.SIGINT)
        process.wait(20)
        is_short(sock)
        logged(log, "sent background")
        assert "Traceback" not in log.read_text()
        assert "the server has stopped" in log.read_text()


#: Servers that may keep a connection: the command and its module.
KEEPING: dict[str, tuple[Command, str]] = {
    "gunicorn": (gunicorn(), "gunicorn"),
    "gthread": (gunicorn("--worker-class", "gthread"), "gunicorn"),
    "cheroot": (script("cheroot"), "cheroot"),
    "werkzeug": (script("werkzeug", "1"), "werkzeug"),
    "runserver": (script("runserver"), "django"),
    "paste": (script("paste", "HTTP/1.1"), "paste"),
    "uwsgi_http11": (uwsgi(socket="--http11-socket"), "pyuwsgi"),
}
NEXT = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
UNREAD = bytes(100_000)
#: Version and field of a request, and what comes with it.
MORE = [
    ("1.0", "X-Field: 1", NEXT),
    ("1.0", "Connection: keep-alive", NEXT),
    ("1.1", "X-Field: 1", NEXT),
    ("1.1", f"Content-Length: {len(UNREAD)}", UNREAD),
]


@pytest.mark.parametrize("name", KEEPING)
def test_more_input(tmp_path: Path, name: str) -> None:
    """Another request, or a body that nobody reads: it has no answer, and destroys nothing."""
    command, module = KEEPING[name]
    with started(tmp_path, command, module) as (port, _, log):
        for number, (version, field, after) in enumerate(MORE, 1):
            sock = begin(port, "/data", version, field, after=after)
            logged(log, "the file is closed", times=number)
            sock.sendall(NEXT)
            gets_all(sock)
            logged(log, f"sent background {SIZE} None", times=number)
        assert "asked for" not in log.read_text()
        assert "Traceback" not in log.read_text()
        assert ask(port, "/ping") == "ok"


CALLS = {"epoll_create": 1, "epoll_ctl": 1, "socketpair": 1, "dup2": 1}
#: Servers with one worker, where no other thread makes these calls: the command, its module, the
#: sender that goes on, and how many calls a hand-over makes. gunicorn's heartbeat needs a
#: descriptor too, and on uWSGI each block that is sent.
FAULTS: dict[str, tuple[Command, str, str, dict[str, int]]] = {
    "gunicorn": (gunicorn(), "gunicorn", "os.sendfile", {**CALLS, "dup": 3}),
    "wsgiref": (script("wsgiref"), "wsgiref", "os.sendfile", {**CALLS, "dup": 2}),
    "uwsgi": (uwsgi(), "pyuwsgi", "wsgi.file_wrapper", CALLS),
}
#: Further calls, when the response has left already: uWSGI's log is told of it.
LOGGING = {"uwsgi": {"dup2": 2}}


@pytest.mark.parametrize("name", FAULTS)
def test_no_more_descriptors(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call of a hand-over fails, the worker goes on, and nothing is left behind."""
    command, module, worker, calls = FAULTS[name]
    if module == "pyuwsgi":
        without_coverage(monkeypatch)
    library = faults.library(tmp_path)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    with started(tmp_path, command, module) as (port, _, log):
        monkeypatch.delenv("LD_PRELOAD")
        leaves(port, log)
        ask(port, "/idle")
        before = ask(port, "/descriptors")
        for call, count in calls.items():
            for number in range(1, count + 1):
                # From this call on, and this one only.
                meets(port, log, f"{call}/{errno.EMFILE}/{number}", worker)
                meets(port, log, f"{call}/{errno.EMFILE}/{-number}", worker)
            logging = LOGGING.get(name, {}).get(call, 0)
            for number in range(count + 1, count + logging + 1):
                meets(port, log, f"{call}/{errno.EMFILE}/{number}", "background", fails=True)
                meets(port, log, f"{call}/{errno.EMFILE}/{-number}", "background", fails=True)
            # There is no such call any more.
            meets(port, log, f"{call}/{errno.EMFILE}/{count + logging + 1}", "background")
        assert ask(port, "/descriptors") == before


def meets(port: int, log: Path, fault: str, sender: str, *, fails: bool = False) -> None:
    """A client stops, and its response meets this fault.

    :param fails: whether a call fails although the response leaves.
    """
    log.write_text("")
    sock = begin(port, f"/fault/{fault}")
    # The thread that sends makes such calls too, once it has the connection.
    first = logged(log, "a call has failed", "the file is closed")
    leaves = sender == "background" and not fails
    assert first == ("the file is closed" if leaves else "a call has failed")
    gets_all(sock)
    logged(log, f"sent {sender} {SIZE} None")
    ask(port, "/disarm")
    ask(port, "/idle")
