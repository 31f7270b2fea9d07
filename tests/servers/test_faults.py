"""Each system call fails in turn, in real servers with real sockets.

Whatever fails, the client gets all of the bytes, or an error page, or the end of the connection,
and in the last case on_sent has the error.
"""

from __future__ import annotations

import errno
import json
import time
from collections import Counter
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import faults
import launch
import pytest

pytest.importorskip("h11")

import h11
from cases import DATA
from client import Client, events
from known import SERVERS

from conftest import Running

#: The errors to try, by system call.
ERRORS = {
    "dup": ["EMFILE"],
    "fstat": ["EIO", "ENOMEM"],
    "lseek": ["EIO", "EINVAL"],
    "pread": ["EIO", "EINVAL", "ENOMEM"],
    "preadv": ["EIO", "EINVAL", "ENOMEM"],
    "read": ["EIO", "EINVAL", "ENOMEM"],
    "sendfile": ["EIO", "EINVAL", "ENOMEM"],
    "setsockopt": ["EINVAL", "ENOMEM"],
    "socket": ["EMFILE"],
}
#: The call that is the first to fail; negative: the only one.
NUMBERS = [1, 3, -1, -2]
FRAMING = {"content-length", "transfer-encoding"}
#: What is sent, by the stack and the case: by the server's fastest sender, at once, by read(),
#: ahead, behind a filter and by a wrapper that nobody knows.
SENT = {
    ("faulty", "plain"): DATA,
    ("faulty", "small"): DATA[:10],
    ("faulty", "gzip_file"): DATA,
    ("faulty_ahead", "gzip_file"): DATA,
    ("faulty_hidden", "plain"): DATA,
    ("faulty_wrapper", "plain"): DATA,
}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults.library(tmp_path_factory.mktemp("faults"))


def disarm(port: int) -> int:
    """How many calls have failed."""
    deadline = time.monotonic() + 20
    while True:
        # A call on sockets may fail only now, when the server accepts this connection.
        with suppress(h11.RemoteProtocolError), Client(port, 10) as client:
            failed: int = json.loads(client.get("/bare/-/disarm").body)
            return failed
        assert time.monotonic() < deadline, "the server answers nothing"


def outcome(server: Running, stack: str, case: str, fault: str, expected: bytes) -> str:
    """What the client saw, or "nothing failed"."""
    port = server.port
    # Some leave the client waiting for an answer if there is an error before it.
    waits = "test_directory" in SERVERS[server.name].faults
    with Client(port, 2 if waits else 10) as client:
        try:
            answer = client.get(f"/{stack}/{case}/{fault}")
        except h11.RemoteProtocolError:
            seen = "refused"  # Nothing was sent, as some servers do for errors before that.
        except TimeoutError:
            if not waits or client.h11.their_state is not h11.SEND_RESPONSE:
                raise
            seen = "refused"
        else:
            if answer.status == 500:
                seen = "500"
            else:
                assert expected.startswith(answer.body)
                framed = not answer.headers.keys().isdisjoint(FRAMING)
                whole = answer.body == expected and not answer.short
                assert whole or answer.short or not (framed or answer.reusable)
                seen = "all" if whole else "ended"
    failed = disarm(port)
    told = events(port, closes=1)
    assert told.count(["close"]) == 1
    if seen == "ended":
        deadline = time.monotonic() + 5
        while not any(event[0] == "transfer" for event in told):
            told += events(port, closes=0)
            assert time.monotonic() < deadline, "on_sent was not called"
        [error] = [event[6] for event in told if event[0] == "transfer"]
        assert error != "NoneType"
    return seen if failed else "nothing failed"


@pytest.mark.parametrize(
    "name",
    [
        "waitress",
        "gunicorn",
        "gunicorn_gthread",
        "gunicorn_gevent",
        "uwsgi",
        "uwsgi_http11",
        "uwsgi_router",
        "cheroot",
        "gevent",
        "eventlet",
        "wsgiref",
        "werkzeug_http11",
    ],
)
def test_system_calls(
    name: str, files: str, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(launch.SERVERS[name].module)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    server = Running(name, files, tmp_path / "log")
    monkeypatch.delenv("LD_PRELOAD")
    wrong: dict[str, Any] = {}
    outcomes: Counter[str] = Counter()
    try:
        for (stack, case), expected in SENT.items():
            for call, codes in ERRORS.items():
                for code, number in product(codes, NUMBERS):
                    fault = f"{call}/{getattr(errno, code)}/{number}"
                    try:
                        seen = outcome(server, stack, case, fault, expected)
                    except (AssertionError, OSError) as error:
                        wrong[f"{stack} {case} {call} {code} {number}"] = error
                        seen = "wrong"
                    if seen == "nothing failed" and number == 1:
                        break  # This sender does not use it.
                    outcomes[seen] += 1
                    if seen == "refused":
                        break  # Before anything is sent. On uWSGI this takes seconds.
    finally:
        server.stop()
    print(name, dict(outcomes))
    assert not wrong
    assert outcomes["all"]
    assert outcomes["ended"] or outcomes["500"]
