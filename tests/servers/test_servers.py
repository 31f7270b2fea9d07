"""One suite of behaviour for all servers, and so for all senders.

In the stack "ours", the middleware is next to the server, and known.py says which sender it uses
there. In other stacks there is a filter between them. Then the read loop has to send the same.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cases
import pytest
from cases import DATA, EXPECTED
from client import Answer, Client, events
from known import SERVERS
from ports import wait_until_full

h11 = pytest.importorskip("h11")

if TYPE_CHECKING:
    from conftest import Running

BODILESS = {"not_modified", "no_content"}
# Cases that are sent by descriptor if the server allows it: each is a slice of a file on disk
# that is not small.
BY_DESCRIPTOR = {
    "plain",
    "length_given",
    "read_a_little",
    "seeked",
    "unbuffered",
    "unbuffered_read",
    "sparse",
    "huge_range",
    "deleted",
    "wrapped",
    "range_206",
    "temporary_file",
    "named_temporary_file",
    "spooled_rolled_over",
}
#: The bytes that exist, in the cases where fewer exist than were promised.
SHORT = {
    "length_larger": DATA,
    "small_length_larger": DATA[:10],
    "medium_length_larger": DATA[:100_000],
    "read_raises_later": DATA[:262144] * 2,
    "unsized_read_raises_later": DATA[:262144] * 2,
}
# Cases that have no close(), or one that cannot be counted.
UNCOUNTED = {"only_read", "generator", "list_"}


@pytest.fixture
def client(server: Running, request: pytest.FixtureRequest) -> Iterator[Client]:
    server.begin()
    events(server.port, closes=0)  # forget
    # A test that is expected to hang should not take long.
    hangs = Client.bare or request.node.get_closest_marker("xfail")
    timeout = 1 if hangs else SERVERS[server.name].patience
    with Client(server.port, timeout) as client:
        yield client
    if Client.bare and server.process.poll() is None:
        # It may spin or wait forever.
        server.process.kill()
        server.process.wait()


def log_since(server: Running) -> str:
    """What the server has logged since the test began."""
    return server.log.read_bytes()[server.logged :].decode()


def assert_logged(server: Running, pattern: str) -> None:
    """Wait until the server has logged it, which may be after the client has its answer."""
    deadline = time.monotonic() + 5
    while not re.search(pattern, log_since(server)):
        assert time.monotonic() < deadline, f"not logged: {pattern}"
        time.sleep(0.02)


def senders(seen: list[list[Any]]) -> set[Any]:
    """The kinds of the senders that ran. A wrapper comes with the name of its server."""
    return {tuple(e[:2]) if e[0] == "wrapper" else e[0] for e in seen if e[0] != "close"}


def assert_500(server: Running, client: Client, target: str) -> None:
    """The server sends a 500, or does what known.py says it does instead."""
    try:
        answer = client.get(target)
    except h11.RemoteProtocolError:
        assert SERVERS[server.name].ends_instead_of_500
        client.close()
    else:
        assert answer.status == 500 or (
            SERVERS[server.name].ends_instead_of_500 and answer.short and not answer.body
        )


def assert_broken_off(server: Running, answer: Answer, sent: bytes) -> None:
    """The client got the bytes before the error, and then the connection ended."""
    if SERVERS[server.name].joins:
        assert (answer.status, answer.short) == (500, False)
    else:
        assert answer.short
        if SERVERS[server.name].resets:
            assert sent.startswith(answer.body)
        else:
            assert answer.body == sent


def send_large(client: Client, stack: str = "ours", size: int = 64 * 2**20) -> str:
    """Ask for a file of zeros, do not read the answer, and return the path of the file."""
    path = cases.path("large")
    with open(path, "wb") as file:
        file.truncate(size)
    client.send(f"/{stack}/large")
    return path


def check_usable(client: Client, closes: int = 1) -> None:
    """The next request works, on the same connection if the server left it open."""
    answer = client.get("/middleware/length_smaller")
    assert (answer.status, answer.body) == (200, DATA[:10])
    # close() may be called after the client has everything, but not as late as the next test.
    if closes:
        events(client.port, closes=closes)


@pytest.mark.parametrize("stack", ["ours", "hidden", "twice", "filter_between", "ahead"])
@pytest.mark.parametrize("name", EXPECTED)
def test_bytes(server: Running, client: Client, stack: str, name: str) -> None:
    """Every source: the exact bytes and none after them, one close(), and the right sender.

    "hidden" has a filter outermost, with a start_response of its own: plain WSGI.
    "filter_between" has the filter between two of our middlewares. The outer one is next to the
    server, and gets what the inner one made. "ahead" has read_ahead for files that are not on
    disk.
    """
    answer = client.get(f"/{stack}/{name}")
    assert answer.body == EXPECTED[name]
    assert not answer.short
    sized = name in BY_DESCRIPTOR | {"empty", "length_smaller", "spooled_in_memory"}
    if sized and not client.bare:
        assert answer.headers["content-length"] == str(len(EXPECTED[name]))
    closes = 0 if name in UNCOUNTED else 1
    seen = events(server.port, closes=closes)
    assert seen.count(["close"]) == closes
    check_usable(client)
    if client.bare:
        return
    if name in {"generator", "list_", "empty", "length_smaller"} | BODILESS:
        # Not a file, no byte of one, or a small file: no sender is used.
        assert senders(seen) == set()
    elif name == "huge_range" and len(EXPECTED[name]) <= SERVERS[server.name].at_once:
        assert senders(seen) == set()
    elif name == "huge_range" and SERVERS[server.name].within_2_gib:
        assert senders(seen) == {"read"}
    elif name in BY_DESCRIPTOR and stack != "hidden":
        assert senders(seen) == SERVERS[server.name].fast
    else:
        assert senders(seen) == {"read"}


def test_filter_is_not_bypassed_by_body(server: Running, client: Client) -> None:
    """A filter that changes the blocks sees them, even without a start_response of its own."""
    assert client.get("/upper/plain").body == DATA.upper()
    assert client.get("/upper/range_206").body == EXPECTED["range_206"].upper()
    assert events(server.port, closes=2).count(["close"]) == 2


@pytest.mark.parametrize("name", ["plain", "length_given", "gzip_file", "range_206"])
def test_head(server: Running, client: Client, name: str) -> None:
    """No body, and a Content-Length if the length is known. The file is closed."""
    answer = client.get(f"/ours/{name}", method="HEAD")
    assert answer.status in (200, 206)
    if name != "gzip_file" and not client.bare:
        assert answer.headers["content-length"] == str(len(EXPECTED[name]))
    seen = events(server.port, closes=1)
    assert seen.count(["close"]) == 1
    assert client.bare or senders(seen) <= {"read"}
    check_usable(client)


@pytest.mark.parametrize(("method", "other"), [("HEAD", "GET"), ("GET", "HEAD")])
def test_overridden(server: Running, client: Client, method: str, other: str) -> None:
    """The client goes by the method that it sent, even if the application changes it."""
    headers = (("X-HTTP-Method-Override", other),)
    answer = client.get("/ours/overridden", method=method, headers=headers)
    assert answer.body == (DATA if method == "GET" else b"")
    if not client.bare:
        assert answer.headers["content-length"] == str(len(DATA))
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("connection", ["", "keep-alive"])
@pytest.mark.parametrize("name", ["plain", "gzip_file", "range_206"])
def test_http_1_0(server: Running, client: Client, name: str, connection: str) -> None:
    headers = (("Connection", connection),) if connection else ()
    answer = client.get(f"/ours/{name}", version="1.0", headers=headers)
    assert answer.body == EXPECTED[name]
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_huge(server: Running, client: Client) -> None:
    """A file of more than 4 GiB has the right length, and on some servers all the bytes."""
    answer = client.get("/ours/huge", method="HEAD")
    assert answer.headers["content-length"] == str(cases.HUGE + 7)
    assert events(server.port, closes=1).count(["close"]) == 1
    if SERVERS[server.name].huge:
        client.send("/ours/huge", headers=(("Connection", "close"),))
        length, end = client.receive_length()
        assert length == cases.HUGE + 7
        assert end == bytes(100) + b"the end"
        assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["ours", "hidden", "filter_between"])
def test_range(server: Running, client: Client, stack: str) -> None:
    """One range is sent like a whole file, several are read, and one beyond the end is a 416."""
    target = f"/{stack}/plain"
    answer = client.get(target, headers=(("Range", "bytes=70000-899999"),))
    assert (answer.status, answer.body) == (206, DATA[70_000:900_000])
    assert answer.headers["content-range"] == f"bytes 70000-899999/{len(DATA)}"
    seen = events(server.port, closes=1)
    assert seen.count(["close"]) == 1
    assert senders(seen) == (SERVERS[server.name].fast if stack != "hidden" else {"read"})
    answer = client.get(target, headers=(("Range", "bytes=-7,0-299999"),))
    assert answer.status == 206
    parts = answer.body.split(answer.headers["content-type"].partition("=")[2].encode())
    assert [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n--") for part in parts[1:-1]] == [
        DATA[-7:],
        DATA[:300_000],
    ]
    seen = events(server.port, closes=1)
    assert (seen.count(["close"]), senders(seen)) == (1, {"read"})
    answer = client.get(target, headers=(("Range", f"bytes={len(DATA)}-"),))
    assert (answer.status, answer.body) == (416, b"416 Range Not Satisfiable\n")
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["ours", "hidden"])
def test_conditions(server: Running, client: Client, stack: str) -> None:
    """A client that has the file gets a 304, and one that wants another version a 412."""
    target = f"/{stack}/plain"
    etag = client.get(target, method="HEAD").headers["etag"]
    events(server.port, closes=1)
    answer = client.get(target, headers=(("If-None-Match", etag),))
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert events(server.port, closes=1) == [["close"]]
    answer = client.get(target, headers=(("If-Match", '"other"'),))
    assert (answer.status, answer.body) == (412, b"412 Precondition Failed\n")
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["mounted", "validator"])
def test_composition(server: Running, client: Client, stack: str) -> None:
    """A mounted application, and wsgiref.validate on both sides. The inner one iterates lines."""
    answer = client.get(f"/{stack}/length_given")
    assert (answer.status, answer.body, answer.short) == (200, DATA, False)
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_restarted(server: Running, client: Client) -> None:
    """A second start_response, with exc_info, replaces the first."""
    answer = client.get("/ours/restarted")
    assert (answer.status, answer.body) == (500, DATA)
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["ours", "hidden"])
def test_length_larger(server: Running, client: Client, stack: str) -> None:
    """If Content-Length is larger than the file, the connection ends, and a line is logged."""
    answer = client.get(f"/{stack}/length_larger")
    assert_broken_off(server, answer, DATA)
    assert events(server.port, closes=1).count(["close"]) == 1
    if not client.bare:
        assert_logged(server, f"data' ended after {len(DATA)} of the {len(DATA) + 5} bytes")
    check_usable(client)


def test_small_and_short(server: Running, client: Client) -> None:
    """A small file that is too short does not leave the client waiting, either."""
    try:
        answer = client.get("/ours/small_length_larger")
    except h11.RemoteProtocolError:
        client.close()  # It has received nothing.
    else:
        assert answer.status == 500 or (answer.short and DATA[:10].startswith(answer.body))
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["ours", "hidden"])
def test_truncated_while_sent(server: Running, client: Client, stack: str) -> None:
    """The connection ends, the server does not spin, and serves others."""
    large = send_large(client, stack)
    stacks = SERVERS[server.name].buffers
    buffers = bool(stacks) if client.bare else stack in stacks
    seen = []
    if buffers:
        seen += events(server.port, closes=1)
    else:
        wait_until_full(client.connect())
    os.truncate(large, 1000)
    answer = client.receive(piece=1 << 20)
    if not buffers:
        seen += events(server.port, closes=1)
    assert seen.count(["close"]) == 1
    if buffers:
        assert (len(answer.body), answer.short) == (64 * 2**20, False)
    else:
        assert answer.short
        assert len(answer.body) < 64 * 2**20
        if not client.bare:
            assert_logged(server, rf"large' ended after \d+ of the {64 * 2**20} bytes")
    check_usable(client)
    before = cpu_seconds(server.process.pid)
    time.sleep(0.3)
    assert cpu_seconds(server.process.pid) - before < 0.2


@pytest.mark.parametrize("stack", ["ours", "hidden"])
@pytest.mark.parametrize("name", SHORT)
def test_next_request_at_once(server: Running, client: Client, stack: str, name: str) -> None:
    """The next response never comes in the place of the bytes that are missing.

    The client asks for it on the same connection, the moment nothing more comes.
    """
    client.send(f"/{stack}/{name}")
    try:
        answer = client.receive(next_at=len(SHORT[name]))
    except h11.RemoteProtocolError:
        assert client.h11.trailing_data[0] == b""
        client.close()  # It had nothing yet.
    else:
        # Without any of these, only the end of the connection tells where the body ends.
        framed = not answer.headers.keys().isdisjoint({"content-length", "transfer-encoding"})
        short = answer.short or not (framed or answer.reusable)
        assert answer.status == 500 or (short and SHORT[name].startswith(answer.body))
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["ours", "hidden"])
def test_next_request_before_truncation(server: Running, client: Client, stack: str) -> None:
    """Nor does it if the client has asked before the file becomes shorter."""
    large = send_large(client, stack)
    buffers = stack in SERVERS[server.name].buffers
    seen = events(server.port, closes=1) if buffers else []
    assert client.connect().recv(1, socket.MSG_PEEK)
    client.send_next()
    os.truncate(large, 1000)
    answer = client.receive(piece=1 << 20) if not buffers else None
    if answer is not None:
        assert answer.short
        assert answer.body.count(0) == len(answer.body) < 64 * 2**20
        seen += events(server.port, closes=1)
    assert seen.count(["close"]) == 1
    client.close()
    check_usable(client)


def test_growing_while_sent(server: Running, client: Client) -> None:
    """The length stays what it was when the response began."""
    large = send_large(client, size=16 * 2**20)
    wait_until_full(client.connect())
    with open(large, "ab") as file:
        file.write(b"more" * 1000)
    answer = client.receive(piece=1 << 20)
    assert not answer.short
    assert len(answer.body) == 16 * 2**20
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["ours", "hidden"])
def test_client_leaves(server: Running, client: Client, stack: str) -> None:
    """close() is called once, and the server serves others."""
    send_large(client, stack)
    assert client.connect().recv(1000)
    client.close()
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_read_raises_first(server: Running, client: Client) -> None:
    """Before the first byte is sent, the server can still send a 500."""
    assert_500(server, client, "/ours/read_raises_first")
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_read_raises_later(server: Running, client: Client) -> None:
    """After the first byte, only the connection can be ended."""
    answer = client.get("/ours/read_raises_later")
    assert_broken_off(server, answer, DATA[:262144] * 2)
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_read_ahead_raises(server: Running, client: Client) -> None:
    """The error comes after all bytes that were read before it."""
    answer = client.get("/ahead/read_raises_much_later")
    sizes = [16384, 32768, 65536, 131072, 262144, 262144]
    assert_broken_off(server, answer, b"".join(DATA[:size] for size in sizes))
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


@pytest.mark.parametrize("stack", ["ours", "ahead"])
def test_trickle(server: Running, client: Client, stack: str) -> None:
    """A piece is sent as soon as it is there, unless the server joins the whole body."""
    joins = SERVERS[server.name].joins
    go = Path(cases.path("go"))
    go.touch() if joins else go.unlink(missing_ok=True)
    client.send(f"/{stack}/trickles")
    seen = b""
    while b"one" not in seen:
        seen += client.connect().recv(65536)
    assert (b"two" in seen) == joins
    go.touch()
    client.close()
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_client_leaves_a_slow_source(server: Running, client: Client) -> None:
    """The reader stops, and the source is closed once, in whatever thread."""
    client.send("/ahead/slow")
    assert client.connect().recv(1000)
    client.close()
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_client_stops_reading(server: Running, client: Client) -> None:
    """Others are served meanwhile. The file is closed when the client leaves."""
    send_large(client)
    wait_until_full(client.connect())
    others = 0 if SERVERS[server.name].one_at_a_time else 1
    for _ in range(others):
        with Client(server.port, 5) as other:
            check_usable(other, closes=0)
    client.close()
    assert events(server.port, closes=1 + others).count(["close"]) == 1 + others
    check_usable(client)


def test_close_raises(server: Running, client: Client) -> None:
    """The client has all bytes by then, or sees that it has not."""
    try:
        answer = client.get("/ours/close_raises")
    except h11.RemoteProtocolError:
        client.close()  # It has received nothing.
    else:
        assert answer.status == 500 or answer.body == DATA or answer.short
    assert events(server.port, closes=1).count(["close"]) == 1
    check_usable(client)


def test_server_is_shut_down(server: Running, client: Client) -> None:
    """It exits, and the client has all bytes or sees that it has not."""
    server.save_coverage()
    send_large(client)
    wait_until_full(client.connect())
    server.process.terminate()
    answer = client.receive(piece=1 << 20)
    assert answer.short or len(answer.body) == 64 * 2**20
    client.close()
    server.stop()
    server.begin()
    with Client(server.port) as after:
        check_usable(after)


def transfers(port: int) -> list[list[Any]]:
    """The transfers that on_sent was called with. Waits for the first one."""
    seen: list[list[Any]] = []
    deadline = time.monotonic() + 10
    while not any(event[0] == "transfer" for event in seen):
        assert time.monotonic() < deadline, seen
        seen += events(port, closes=len(seen) == 0)
    return [event[1:] for event in seen if event[0] == "transfer"]


def test_on_sent(server: Running, client: Client) -> None:
    """It is called once for each file, with the sender, the bytes and the error, if any."""
    size = len(DATA)
    by = {"read": "read", "sendfile": "os.sendfile"}
    wrapper = any(isinstance(sender, tuple) for sender in SERVERS[server.name].fast)
    fast = "wsgi.file_wrapper" if wrapper else by[min(SERVERS[server.name].fast)]
    sent: list[tuple[str, Any, list[Any]]] = [
        ("plain", (), [fast, "200 OK", 0, size, size]),
        (
            "plain",
            (("Range", "bytes=70000-899999"),),
            [fast, "206 Partial Content", 70_000, 830_000, 830_000],
        ),
        ("plain", (("Range", "bytes=3-12"),), ["read", "206 Partial Content", 3, 10, 10]),
        ("gzip_file", (), ["read", "200 OK", None, None, size]),
    ]
    for name, headers, expected in sent:
        client.get(f"/watched/{name}", headers=headers)
        assert transfers(server.port) == [[*expected, "NoneType", f"/{name}"]]
    client.get("/watched/plain", method="HEAD")
    assert transfers(server.port) == [["none", "200 OK", 0, 0, 0, "NoneType", "/plain"]]


def test_on_sent_of_what_a_filter_has_read(server: Running, client: Client) -> None:
    """The sender is "read", whatever it would be without the filter."""
    assert client.get("/upper_watched/plain").body == DATA.upper()
    size = len(DATA)
    assert transfers(server.port) == [["read", "200 OK", 0, size, size, "NoneType", "/plain"]]


def test_on_sent_of_a_short_file(server: Running, client: Client) -> None:
    """The number of sent bytes is not more than the file has."""
    assert_broken_off(server, client.get("/watched/length_larger"), DATA)
    [[_, status, offset, count, sent, error, path]] = transfers(server.port)
    assert (status, offset, count, path) == (
        "206 Partial Content",
        0,
        len(DATA) + 5,
        "/length_larger",
    )
    assert sent in (len(DATA), None)
    assert error == "ShortFileError"


def test_directory(server: Running, client: Client) -> None:
    """open() raises, as any error of an application."""
    try:
        answer = client.get("/ours/directory")
    except h11.RemoteProtocolError:
        client.close()  # Some servers take an OSError for one of the client's connection.
    else:
        assert answer.status == 500 or answer.short
    check_usable(client)


def test_text_mode(server: Running, client: Client) -> None:
    """The client gets a 500. The log names the file and says what to do."""
    assert_500(server, client, "/ours/text_mode")
    assert events(server.port, closes=1).count(["close"]) == 1
    if not client.bare:
        assert_logged(server, "TypeError: ")
        assert_logged(server, 'data\' is open in text mode: open it with mode "rb" to send it')
    check_usable(client)


def test_access_log(server: Running, client: Client) -> None:
    """The number of bytes in an access log includes those that we send."""
    client.get("/ours/plain")
    events(server.port, closes=1)
    expected = SERVERS[server.name].log
    if expected is None:
        assert "GET /ours" not in log_since(server)
    else:
        assert_logged(server, expected)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its running children, in seconds."""
    total = 0.0
    for task in [pid, *children(pid)]:
        with open(f"/proc/{task}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
