"""The clients of ``soak.py``: random requests, and a check of every answer.

Each byte that arrives is compared with the one of ``soak_app.CONTENT`` that has to be
there. A :exc:`WrongError` says what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h11
from launch import HOST
from soak_app import CONTENT, NO_FILES, begins

KIB, MIB = 2**10, 2**20

#: No, few and many bytes; the most that is read at once (64 KiB), and one more.
SMALL = (0, 1, 4 * KIB, 64 * KIB, 64 * KIB + 1, MIB)
SOME = SMALL[1:]
LARGE = 20 * MIB
ON_DISK = ("file", "raw", "wrapped")
IN_MEMORY = ("memory", "temporary", "source")
#: Files whose length is known, and files that have to be read to know it.
SIZED = (*ON_DISK, "memory", "temporary")
UNSIZED = ("gzip", "pipe", "source")

#: A client that receives no byte for so many seconds calls that a hang.
PATIENCE = 30.0
#: A client ends when so many things went wrong.
ENOUGH = 20


class WrongError(Exception):
    """A server did not do what it must."""


class CutError(WrongError):
    """The connection has ended before the response."""


class Connection:
    """A socket, and h11 to read the responses."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(PATIENCE)
        if receive_buffer:  # Before connect(), which settles the window scale.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect((HOST, port))
        self.h11 = h11.Connection(h11.CLIENT)
        self.ended = False

    def next_event(self) -> Any:
        """Of h11, reading as much as it takes."""
        while True:
            try:
                event = self.h11.next_event()
            except h11.RemoteProtocolError as error:
                raise (CutError if self.ended else WrongError)(str(error)) from None
            if event is not h11.NEED_DATA:
                return event
            try:
                data = self.sock.recv(64 * KIB)
            except TimeoutError:
                raise WrongError(f"nothing for {PATIENCE:.0f} seconds") from None
            except ConnectionError:
                data = b""
            self.ended = not data
            self.h11.receive_data(data)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Answer:
    """A response, whose body is still to come."""

    def __init__(self, connection: Connection, method: str) -> None:
        self.connection = connection
        # The request was sent before. h11 has to know its method, as the response to
        # HEAD has no body.
        request = h11.Request(method=method, target="/", headers=[("Host", HOST)])
        connection.h11.send(request)
        connection.h11.send(h11.EndOfMessage())
        event = connection.next_event()
        self.status: int = event.status_code
        self.fields = {name.decode(): value.decode() for name, value in event.headers}
        #: Bytes of the body so far.
        self.received = 0
        #: Whether the connection is open for another request, after the body.
        self.keep = False

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes.

        :raises CutError: if it ends too early. That cannot be seen where the end of the
            connection is the end of the body.
        """
        while isinstance(event := self.connection.next_event(), h11.Data):
            yield bytes(event.data)
        if event.headers:
            raise WrongError("a trailer")
        self.keep = self.connection.h11.their_state is h11.DONE
        if self.keep:
            self.connection.h11.start_next_cycle()


def request(method: str, path: str, *fields: str, version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", f"Host: {HOST}", *fields, "", ""]
    return "\r\n".join(lines).encode()


class Tally:
    """What all clients of a server have seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Actions by their names, and "bytes", "provoked", "reconnects", "status 200", ...
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self.counts[name] += count

    def actions(self) -> int:
        return sum(self.counts[name] for name in (*QUICK, *SLOW))


class Client(threading.Thread):
    """Does one action after the other, on one connection where that is possible."""

    def __init__(
        self, port: int, files: str, tally: Tally, actions: Actions, rate: float, seed: str
    ) -> None:
        super().__init__(daemon=True)
        self.port, self.files, self.tally, self.seed = port, files, tally, seed
        self.random = random.Random(seed)
        #: The number of files that it has made.
        self.made = 0
        #: What it asked for last, for the message if that goes wrong.
        self.target = ""
        self._actions, self._rate = actions, rate
        self._connection: Connection | None = None
        #: Set from outside: to go on, and to end.
        self.going = threading.Event()
        self.ended = False
        #: Set while it does nothing.
        self.idle = threading.Event()

    def run(self) -> None:
        """Act until it has to end. While it must not go on it has no connection."""
        names, weights = list(self._actions), [weight for _, weight in self._actions.values()]
        while not self.ended and len(self.tally.wrong) < ENOUGH:
            if not self.going.is_set():
                self.leave()
                self.idle.set()
                self.going.wait(0.2)
                continue
            self.idle.clear()
            [name] = self.random.choices(names, weights)
            wrong = ""
            try:
                self._actions[name][0](self)
            except WrongError as error:
                wrong = str(error)
            except Exception:
                wrong = traceback.format_exc()
            if wrong:
                self.tally.wrong.append(f"{name}, {self.target}: {wrong}")
            if wrong or self.random.random() < 0.1:
                self.leave()
            self.tally.add(name)
            time.sleep(self.random.uniform(0, 2 / self._rate))
        self.leave()
        self.idle.set()

    def leave(self) -> None:
        if self._connection is not None:
            self._connection.sock.close()
            self._connection = None

    def open(self, target: str, *fields: str, receive_buffer: int = 0) -> Connection:
        """Ask for this on a connection of its own."""
        self.target = " ".join([target, *fields])
        connection = Connection(self.port, receive_buffer)
        connection.sock.sendall(request("GET", target, *fields))
        return connection

    def ask(self, target: str, *fields: str, method: str = "GET", version: str = "1.1") -> Answer:
        """Ask for this on the connection that there is, or on a new one."""
        self.target = " ".join([method, target, *fields])
        asked = request(method, target, *fields, version=version)
        if self._connection is not None:
            # The server may close an idle connection at this very moment.
            with contextlib.suppress(CutError, ConnectionError):
                self._connection.sock.sendall(asked)
                return self.answer(self._connection, method)
            if self._connection.h11.trailing_data[0]:
                raise WrongError("the connection ended in the header")
            self.leave()
            self.tally.add("reconnects")
        self._connection = Connection(self.port)
        self._connection.sock.sendall(asked)
        return self.answer(self._connection, method)

    def answer(self, connection: Connection, method: str = "GET") -> Answer:
        answer = Answer(connection, method)
        self.tally.add(f"status {answer.status}")
        return answer

    def receive(
        self, answer: Answer, at: int, count: int, kept: int | None = None
    ) -> Iterator[None]:
        """Compare each block of a body with count bytes of CONTENT from at, as it comes.

        kept: how much is left of a truncated file. The kernel sends the file's own memory
        for os.sendfile, and clears in it what lies behind the new end.
        """
        for block in answer.blocks():
            before, answer.received = answer.received, answer.received + len(block)
            self.tally.add("bytes", len(block))
            if answer.received > count:
                raise WrongError(f"more than {count} bytes")
            if not CONTENT.startswith(block, at + before):
                for number, byte in enumerate(block, before):
                    cleared = not byte and kept is not None and number >= kept
                    if byte != CONTENT[at + number] and not cleared:
                        there = block[number - before :][:8].hex()
                        raise WrongError(f"wrong bytes from {number} on: {there}")
            yield

    def complete(self, answer: Answer, at: int, count: int, kept: int | None = None) -> bool:
        """Receive all of a body; False if the connection ends before it."""
        try:
            for _ in self.receive(answer, at, count, kept):
                pass
        except CutError:
            return False
        return True

    def check(self, answer: Answer, at: int, count: int, status: int = 200) -> None:
        """The body is count bytes of CONTENT from at."""
        self.expect(answer, status)
        if not self.complete(answer, at, count) or answer.received != count:
            raise WrongError(f"{answer.received} of {count} bytes")
        self.finish(answer)

    def check_cut(self, answer: Answer, at: int, count: int, kept: int | None = None) -> None:
        """The first of count bytes from at arrive, and then the connection ends."""
        self.expect(answer, 200)
        if self.complete(answer, at, count, kept):
            raise WrongError(f"it seems complete with {answer.received} of {count} bytes")
        self.leave()

    def expect(self, answer: Answer, status: int) -> None:
        if answer.status != status:
            body = b"".join(answer.blocks())
            raise WrongError(f"{answer.status} instead of {status}: {body[:100]!r}")

    def check_field(self, answer: Answer, name: str, value: str) -> None:
        if answer.fields.get(name) != value:
            raise WrongError(f"{name}: {answer.fields.get(name)} instead of {value}")

    def body(self, answer: Answer, status: int) -> bytes:
        """The whole body of a response with this status."""
        self.expect(answer, status)
        body = b"".join(answer.blocks())
        self.finish(answer)
        return body

    def finish(self, answer: Answer) -> None:
        """The body is there; close the connection if the server does."""
        if not answer.keep and answer.connection is self._connection:
            self.leave()

    def kind(self, *kinds: str) -> str:
        """A path of one of these kinds, at times with read_ahead."""
        return self.random.choice(["/", "/", "/ahead/"]) + self.random.choice(kinds)

    def pick(self, sizes: Sequence[int], kinds: Sequence[str]) -> tuple[int, str]:
        """One of these sizes, and the path of a file of one of these kinds that has it."""
        size = self.random.choice(sizes)
        if size == LARGE:  # In memory it would take too much of it.
            kinds = [kind for kind in kinds if kind not in IN_MEMORY]
        return size, f"{self.kind(*kinds)}/{size}"


Actions = dict[str, tuple[Callable[[Client], None], float]]


def whole(client: Client) -> None:
    size, target = client.pick(SMALL, SIZED + UNSIZED + NO_FILES)
    if client.random.random() < 0.3:
        target += "?length=1"
    fields = [] if client.random.random() < 0.9 else ["Connection: close"]
    version = "1.1" if client.random.random() < 0.9 else "1.0"
    client.check(client.ask(target, *fields, version=version), begins(size), size)


def large(client: Client) -> None:
    size, target = client.pick([LARGE], SIZED + UNSIZED)
    client.check(client.ask(target), begins(size), size)


def standing(client: Client) -> None:
    """A file of which the application has read some bytes."""
    size = client.random.choice(SMALL)
    start = client.random.randint(0, size)
    answer = client.ask(f"/standing/{size}?from={start}")
    client.check(answer, begins(size) + start, size - start)


def head(client: Client) -> None:
    size, target = client.pick([*SOME, LARGE], SIZED)
    answer = client.ask(target, method="HEAD")
    client.check(answer, 0, 0)
    client.check_field(answer, "content-length", str(size))


def one_range(client: Client) -> None:
    """Within the file, from somewhere to its end, or its last bytes."""
    size, target = client.pick([*SOME, LARGE], SIZED)
    start = client.random.randrange(size)
    stop = client.random.randint(start + 1, min(size, start + MIB))
    spec = f"{start}-{stop - 1}"
    if client.random.random() < 0.3:
        start, stop = max(0, size - 300 * KIB, start), size
        spec = client.random.choice([f"{start}-", f"-{size - start}", f"{start}-{size + 99}"])
    answer = client.ask(target, f"Range: bytes={spec}")
    client.check(answer, begins(size) + start, stop - start, 206)
    client.check_field(answer, "content-range", f"bytes {start}-{stop - 1}/{size}")


def several_ranges(client: Client) -> None:
    """In any order. They are so far apart that each is a part of its own."""
    size, target = client.pick([MIB, LARGE], SIZED)
    ranges = []
    for number in range(client.random.randint(2, 8)):
        start = number * (size // 8) + client.random.randrange(1000)
        ranges.append((start, start + client.random.randint(1, 40 * KIB)))
    client.random.shuffle(ranges)
    specs = ", ".join(f"{start}-{stop - 1}" for start, stop in ranges)
    answer = client.ask(target, f"Range: bytes={specs}")
    body = client.body(answer, 206)
    client.tally.add("bytes", len(body))
    boundary = answer.fields["content-type"].partition("boundary=")[2]
    before, *parts, after = body.split(f"\r\n--{boundary}".encode())
    if (before, after, len(parts)) != (b"", b"--\r\n", len(ranges)):
        raise WrongError(
            f"{len(parts)} parts of {len(ranges)}, and {before[:40]!r}, {after[:40]!r}"
        )
    for part, (start, stop) in zip(parts, ranges, strict=True):
        fields, _, data = part.partition(b"\r\n\r\n")
        if f"Content-Range: bytes {start}-{stop - 1}/{size}".encode() not in fields.split(b"\r\n"):
            raise WrongError(f"the header of a part: {fields!r}")
        if data != CONTENT[begins(size) + start : begins(size) + stop]:
            raise WrongError(f"wrong bytes in the part {start}-{stop - 1}")


def unsatisfiable(client: Client) -> None:
    size, target = client.pick(SOME, SIZED)
    answer = client.ask(target, f"Range: bytes={size + 1}-")
    body = client.body(answer, 416)
    client.check_field(answer, "content-range", f"bytes */{size}")
    if not body.startswith(b"416 "):
        raise WrongError(f"the body of a 416: {body[:40]!r}")


def conditional(client: Client) -> None:
    """Use the validators that the server gave."""
    size, target = client.pick(SOME, ON_DISK)
    answer = client.ask(target, method="HEAD")
    client.check(answer, 0, 0)
    etag, date = answer.fields["etag"], answer.fields["last-modified"]
    fields, status = client.random.choice(
        [
            ([f"If-None-Match: {etag}"], 304),
            ([f'If-None-Match: "x", W/{etag}'], 304),
            ([f"If-Modified-Since: {date}"], 304),
            (['If-None-Match: "x"', f"If-Modified-Since: {date}"], 200),
            ([f"If-Range: {etag}", "Range: bytes=0-0"], 206),
            ([f"If-Range: {date}", "Range: bytes=0-0"], 206),
            (['If-Range: "x"', "Range: bytes=0-0"], 200),
            ([f"If-Match: {etag}"], 200),
            (['If-Match: "x"'], 412),
        ]
    )
    answer = client.ask(target, *fields)
    if status == 412:
        client.body(answer, 412)
    else:
        count = {200: size, 206: 1, 304: 0}[status]
        client.check(answer, begins(size), count, status)


def pipelined(client: Client) -> None:
    """Send several requests at once. Their answers come in the same order."""
    asked = []
    for _ in range(client.random.randint(2, 6)):
        size, target = client.pick(SOME, ("file", "wrapped", "memory"))
        method = "HEAD" if client.random.random() < 0.3 else "GET"
        asked.append((method, target, size))
    client.target = repr(asked)
    connection = Connection(client.port)
    with connection.sock:
        connection.sock.sendall(b"".join(request(*one[:2]) for one in asked))
        for method, _, size in asked:
            count = 0 if method == "HEAD" else size
            client.check(client.answer(connection, method), begins(size), count)


def failing(client: Client) -> None:
    """The application raises, or what it returned does: at once, or in the middle."""
    client.tally.add("provoked")
    size = client.random.choice(SOME)
    if client.random.random() < 0.2:
        client.body(client.ask(f"/fails/{size}"), 500)
        return
    at = client.random.choice([0, client.random.randrange(size)])
    target = f"{client.kind('raises')}/{size}?at={at}"
    target += client.random.choice(["", "&error=os"]) + client.random.choice(["", "&length=1"])
    client.leave()  # On a new connection ask() does not try again if there is no answer.
    try:
        answer = client.ask(target)
    except CutError:
        if at:
            raise
        client.leave()
        return
    if answer.status == 500 and not at:
        client.body(answer, 500)
    else:
        client.check_cut(answer, begins(size), size)
        if answer.received > at:
            raise WrongError(f"{answer.received} bytes, though there were {at}")


def abort(client: Client) -> None:
    """Leave before the end: before the header is read, after it, or in the body."""
    size, target = client.pick([MIB, LARGE], SIZED + UNSIZED)
    connection = client.open(target)
    if client.random.random() < 0.7:
        answer = client.answer(connection)
        enough = client.random.choice([0, 1, client.random.randrange(size)])
        for _ in client.receive(answer, begins(size), size) if enough else ():
            if answer.received >= enough:
                break
    how = client.random.choice(["reset", "close", "shutdown"])
    if how == "reset":
        connection.reset()
        return
    with connection.sock:
        if how == "shutdown":
            # The server may close the connection for that, or go on sending.
            connection.sock.shutdown(socket.SHUT_WR)
            time.sleep(client.random.uniform(0, 0.2))


def slow(client: Client) -> None:
    """Read slowly for some seconds; sometimes leave then."""
    size, target = client.pick([MIB, LARGE], SIZED + UNSIZED)
    connection = client.open(target, receive_buffer=16 * KIB)
    leaves = client.random.random() < 0.3
    with connection.sock:
        answer = client.answer(connection)
        client.expect(answer, 200)
        until = time.monotonic() + client.random.uniform(1, 4)
        for _ in client.receive(answer, begins(size), size):
            if time.monotonic() < until:
                time.sleep(0.02)
            elif leaves:
                return
        if answer.received != size:
            raise WrongError(f"{answer.received} of {size} bytes")


@contextlib.contextmanager
def asked_own_file(client: Client, size: int) -> Iterator[tuple[str, Connection, Answer]]:
    """A file that only this client uses, and the answer to a request for it."""
    client.made += 1
    name = f"{client.seed}-{client.made}"
    path = os.path.join(client.files, name)
    with open(path, "wb") as file:
        file.write(memoryview(CONTENT)[begins(size) : begins(size) + size])
    try:
        target = f"{client.kind(*ON_DISK)}/{size}?name={name}"
        connection = client.open(target, receive_buffer=64 * KIB)
        with connection.sock:
            yield path, connection, client.answer(connection)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def truncated(client: Client) -> None:
    """The file is truncated while it is sent: the response ends too early."""
    client.tally.add("provoked")
    size = 12 * MIB
    with asked_own_file(client, size) as (path, _, answer):
        time.sleep(0.05)
        kept = client.random.randrange(size)
        os.truncate(path, kept)
        client.check_cut(answer, begins(size), size, kept)


def growing(client: Client) -> None:
    """The file grows while it is sent: the response has what it had at first, and no more."""
    size = client.random.choice([64 * KIB, 8 * MIB])
    with asked_own_file(client, size) as (path, connection, answer):
        with open(path, "ab") as file:
            file.write(b"more" * 100_000)
        client.check(answer, begins(size), size)
        if answer.keep:
            connection.sock.sendall(request("GET", "/file/4096"))
            client.check(client.answer(connection), begins(4096), 4096)


def removed(client: Client) -> None:
    """The file is removed while it is sent: the response is complete all the same."""
    size = 8 * MIB
    with asked_own_file(client, size) as (path, _, answer):
        os.unlink(path)
        client.check(answer, begins(size), size)


#: Each with its share.
QUICK: Actions = {
    "whole": (whole, 40),
    "large": (large, 1),
    "standing": (standing, 5),
    "HEAD": (head, 8),
    "range": (one_range, 12),
    "several ranges": (several_ranges, 6),
    "unsatisfiable": (unsatisfiable, 4),
    "conditional": (conditional, 10),
    "pipelined": (pipelined, 5),
    "failing": (failing, 4),
    "abort": (abort, 5),
}
SLOW: Actions = {
    "slow reader": (slow, 4),
    "truncated": (truncated, 3),
    "growing": (growing, 2),
    "removed": (removed, 1),
}
