"""Slow clients: what stays with a worker is not cut, and what happens when a server stops."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from slow import (
    SIZE,
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

#: Servers that cut a client off after a second, with one worker.
IMPATIENT = {
    "gunicorn": (gunicorn("--timeout", "2"), "gunicorn"),
    "cheroot": (script("cheroot"), "cheroot"),
    "uwsgi": (uwsgi("--socket-timeout", "1"), "pyuwsgi"),
}


@pytest.mark.parametrize("server", IMPATIENT)
def test_worker_waits(tmp_path: Path, server: str) -> None:
    """A client that stops for longer than the server waits gets all, also of what is read."""
    command, module = IMPATIENT[server]
    with started(tmp_path, command, module) as (port, _, log):
        sock = begin(port, "/read")
        time.sleep(5)
        assert len(rest(sock)) == SIZE
        logged(log, f"sent read {SIZE} None")


#: Servers that are stopped by a signal: the command, its module, the signal, and whether a
#: download under way gets time to finish.
STOPS: dict[str, tuple[Command, str, int, bool]] = {
    "gunicorn": (gunicorn(), "gunicorn", signal.SIGTERM, True),
    "gunicorn_hup": (gunicorn(), "gunicorn", signal.SIGHUP, True),
    "gunicorn_short": (gunicorn("--graceful-timeout", "1"), "gunicorn", signal.SIGTERM, False),
    "gthread": (gunicorn("--threads", "2"), "gunicorn", signal.SIGTERM, True),
    "cheroot": (script("cheroot"), "cheroot", signal.SIGINT, True),
    "wsgiref": (script("wsgiref"), "wsgiref", signal.SIGINT, False),
    "uwsgi": (uwsgi("--master"), "pyuwsgi", signal.SIGTERM, False),
    "uwsgi_reload": (uwsgi("--master", "--lazy-apps"), "pyuwsgi", signal.SIGHUP, True),
}


@pytest.mark.parametrize("name", STOPS)
def test_server_stops(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing hangs, and nothing is a traceback."""
    command, module, number, waits = STOPS[name]
    if module == "pyuwsgi":
        without_coverage(monkeypatch)
    with started(tmp_path, command, module) as (port, process, log):
        sock = begin(port, "/data")
        logged(log, "the file is closed")
        ask(port, "/ping")
        if module == "pyuwsgi":
            logged(log, "GET /ping")  # A worker that is busy ends without its atexit.
        process.send_signal(number)
        if not waits:
            logged(log, "the server has stopped")
        if waits:
            gets_all(sock)
        else:
            assert len(rest(sock)) < SIZE
        logged(log, "sent background")
        if number != signal.SIGHUP:
            process.wait(20)
    assert "Traceback" not in log.read_text()


def test_max_requests(tmp_path: Path) -> None:
    """The worker that has answered enough ends when its downloads have."""
    command = gunicorn("--max-requests", "2")
    with started(tmp_path, command, "gunicorn") as (port, _, log):
        sock = begin(port, "/data")
        ask(port, "/ping")
        logged(log, "Autorestarting worker")
        gets_all(sock)
        ask(port, "/ping")  # The next worker's.
    assert "Traceback" not in log.read_text()
    assert "WORKER TIMEOUT" not in log.read_text()


#: Of the following, those that find out when the client has fallen behind.
ASKED = {"no-sendfile", "wsgiref forks", "werkzeug forks", "route"}
#: Where nothing leaves its worker, with two of them.
STAYS = {
    "filter": (gunicorn("--threads", "2", app="app:filtered"), "gunicorn", "read"),
    "no-sendfile": (gunicorn("--threads", "2", "--no-sendfile"), "gunicorn", "read"),
    "gevent": (gunicorn("--worker-class", "gevent"), "gevent", "os.sendfile"),
    "wsgiref forks": (script("wsgiref_forking"), "wsgiref", "os.sendfile"),
    "werkzeug forks": (script("werkzeug_forking"), "werkzeug", "os.sendfile"),
    "offload": (uwsgi("--offload-threads", "1"), "pyuwsgi", "wsgi.file_wrapper"),
    "async": (uwsgi("--async", "2", "--ugreen"), "pyuwsgi", "wsgi.file_wrapper"),
    "route": (uwsgi("--threads", "2", "--route-run", "log:x"), "pyuwsgi", "wsgi.file_wrapper"),
}


@pytest.mark.parametrize("name", STAYS)
def test_stays(tmp_path: Path, name: str) -> None:
    """Declined, or uWSGI's own background: others are served, and the client gets all."""
    command, module, sender = STAYS[name]
    with started(tmp_path, command, module) as (port, _, log):
        sock = begin(port, "/data")
        ask(port, "/ping")
        if name in ASKED:
            logged(log, "it stays")
        gets_all(sock)
        logged(log, f"sent {sender} ")
        assert "background" not in log.read_text()
