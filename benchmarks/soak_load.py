"""The clients of ``soak.py``: what they ask for at random, and what must come of it.

Each byte that arrives is compared with the one of ``soak_app.CONTENT`` that has to be
there. What is not as it must be raises :exc:`WrongError`.
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
from collections.abc import Callable, Iterator

from clients import connect
from serve import HOST
from soak_app import CONTENT, NO_FILES, begins

KIB, MIB = 2**10, 2**20

#: No, few and many bytes; the most that is read at once (64 KiB), and one more.
SMALL = (0, 1, 4 * KIB, 64 * KIB, 64 * KIB + 1, MIB)
SOME = SMALL[1:]
LARGE = 20 * MIB
#: On disk, in memory, or to be read; not all of them large.
SIZED = ("file", "raw", "wrapped", "memory", "temporary")
UNSIZED = ("gzip", "pipe", "source")

#: Seconds without a byte that are a hang.
PATIENCE = 30.0
#: So many things that go wrong are enough.
ENOUGH = 20


class WrongError(Exception):
    """A server did not do what it must."""


class CutError(WrongError):
    """The connection has ended before the response."""


class Answer:
    """A response, whose body is still to come."""

    def __init__(self, connection: Connection, method: str, head: bytes) -> None:
        self.connection = connection
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if version not in ("HTTP/1.0", "HTTP/1.1") or not rest[:3].isdigit():
            raise WrongError(f"no status line: {first[:60]!r}")
        self.status = int(rest[:3])
        self.fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.fields[name.lower()] = value.strip()
        self.bodiless = method == "HEAD" or self.status in (204, 304)
        length = self.fields.get("content-length")
        self.length = None if length is None else int(length)
        self.chunked = self.fields.get("transfer-encoding") == "chunked"
        said = self.fields.get("connection", "").lower()
        framed = self.bodiless or self.chunked or self.length is not None
        self.keep = framed and (said != "close" if version == "HTTP/1.1" else said == "keep-alive")

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes.

        :raises CutError: if it ends too early. Where only the end of the connection tells the
            end of the body it cannot be seen.
        """
        take, line = self.connection.take, self.connection.line
        if self.bodiless:
            return
        if self.chunked:
            while left := int(line(), 16):
                while left:
                    block = take(left)
                    left -= len(block)
                    yield block
                if line():
                    raise WrongError("a chunk does not end where it says")
            if line():
                raise WrongError("a trailer")
        elif self.length is not None:
            left = self.length
            while left:
                block = take(left)
                left -= len(block)
                yield block
        else:
            with contextlib.suppress(CutError):
                while True:
                    yield take(256 * KIB)


class Connection:
    """A socket, and what has arrived by it and is not used yet."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.sock = connect(port, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self._received = b""

    def answer(self, method: str) -> Answer:
        lines = []
        while line := self.line():
            lines.append(line)
        return Answer(self, method, b"\r\n".join(lines))

    def line(self) -> bytes:
        while b"\r\n" not in self._received:
            self._received += self._more()
        line, _, self._received = self._received.partition(b"\r\n")
        return line

    def take(self, most: int) -> bytes:
        """Some bytes, one at least."""
        if not self._received:
            return self._more(most)
        taken, self._received = self._received[:most], self._received[most:]
        return taken

    def unused(self) -> bool:
        return not self._received

    def _more(self, most: int = 64 * KIB) -> bytes:
        try:
            more = self.sock.recv(min(most, 256 * KIB))
        except TimeoutError:
            raise WrongError(f"nothing for {PATIENCE:.0f} seconds") from None
        except ConnectionError as error:
            raise CutError(f"the connection ended: {error}") from None
        if not more:
            raise CutError("the connection ended")
        return more

    def reset(self) -> None:
        """Leave without a word: RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def request(method: str, path: str, *fields: str, version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", f"Host: {HOST}", *fields, "", ""]
    return "\r\n".join(lines).encode()


class Tally:
    """What all clients of a server have seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.actions: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.bytes = self.reconnects = self.provoked = 0
        self.wrong: list[str] = []

    def add(self, *, count: int = 0, status: int | None = None, reconnects: int = 0) -> None:
        with self._lock:
            self.bytes += count
            self.reconnects += reconnects
            if status is not None:
                self.statuses[status] += 1

    def provoke(self) -> None:
        """Once more there will be a traceback in the log."""
        with self._lock:
            self.provoked += 1

    def done(self, name: str, wrong: str | None) -> None:
        with self._lock:
            self.actions[name] += 1
            if wrong is not None:
                self.wrong.append(wrong)


class Client(threading.Thread):
    """Does one of the actions after the other, on a connection that it uses again."""

    def __init__(
        self, port: int, files: str, tally: Tally, actions: Actions, rate: float, seed: str
    ) -> None:
        super().__init__(daemon=True)
        self.port, self.files, self.tally, self.seed = port, files, tally, seed
        self.random = random.Random(seed)
        self.made = 0  # files
        self.target = ""
        self._actions, self._rate = actions, rate
        self._connection: Connection | None = None
        #: Whether to go on, and whether it does.
        self.going = threading.Event()
        self.ended = False
        self.idle = threading.Event()

    def run(self) -> None:
        """Until it has ended; without a connection while it is not to go on."""
        names, weights = list(self._actions), [weight for _, weight in self._actions.values()]
        while not self.ended:
            if not self.going.is_set():
                self.leave()
                self.idle.set()
                self.going.wait(0.2)
                continue
            self.idle.clear()
            [name] = self.random.choices(names, weights)
            wrong = None
            try:
                self._actions[name][0](self)
            except WrongError as error:
                wrong = f"{name}, {self.target}: {error}"
            except OSError as error:
                wrong = f"{name}, {self.target}: {error!r}"
            except Exception:
                wrong = f"{name}, {self.target}: {traceback.format_exc()}"
            if wrong or self.random.random() < 0.1:
                self.leave()
            self.tally.done(name, wrong)
            if len(self.tally.wrong) >= ENOUGH:
                break
            time.sleep(self.random.uniform(0, 2 / self._rate))
        self.leave()
        self.idle.set()

    def leave(self) -> None:
        if self._connection is not None:
            self._connection.sock.close()
            self._connection = None

    def open(self, target: str, *fields: str, receive_buffer: int = 0) -> Connection:
        """A connection of its own, on which this is asked for."""
        self.target = " ".join([target, *fields])
        connection = Connection(self.port, receive_buffer)
        connection.sock.sendall(request("GET", target, *fields))
        return connection

    def ask(self, target: str, *fields: str, method: str = "GET", version: str = "1.1") -> Answer:
        """Ask, on the connection that there is."""
        self.target = " ".join([method, target, *fields])
        asked = request(method, target, *fields, version=version)
        if self._connection is not None:
            # The server may close what waits too long for it, at this very moment.
            with contextlib.suppress(CutError, ConnectionError):
                self._connection.sock.sendall(asked)
                return self.seen(self._connection.answer(method))
            if not self._connection.unused():
                raise WrongError("the connection ended in the header")
            self.leave()
            self.tally.add(reconnects=1)
        self._connection = Connection(self.port)
        self._connection.sock.sendall(asked)
        return self.seen(self._connection.answer(method))

    def seen(self, answer: Answer) -> Answer:
        self.tally.add(status=answer.status)
        return answer

    def check(self, answer: Answer, at: int, count: int, status: int = 200) -> None:
        """The body is count bytes of CONTENT from at."""
        self.expect(answer, status)
        received = 0
        try:
            for block in answer.blocks():
                self.compare(block, at, received, count)
                received += len(block)
        except CutError as error:
            raise WrongError(f"{error} after {received} of {count} bytes") from None
        if received != count:
            raise WrongError(f"{received} of {count} bytes")
        self.finish(answer)

    def check_cut(self, answer: Answer, at: int, count: int, kept: int | None = None) -> int:
        """Of count bytes from at the beginning comes, and then the connection ends.

        kept: what has been left of the file. What is on its way by os.sendfile is the
        file's own memory, in which the kernel clears what lies behind the new end.
        """
        self.expect(answer, 200)
        received = 0
        try:
            for block in answer.blocks():
                self.compare(block, at, received, count, kept)
                received += len(block)
        except CutError:
            self.leave()
            return received
        raise WrongError(f"the response seems complete with {received} of {count} bytes")

    def compare(
        self, block: bytes, at: int, received: int, count: int, kept: int | None = None
    ) -> None:
        """A block of a body, of which so many bytes have been received before."""
        self.tally.add(count=len(block))
        if received + len(block) > count:
            raise WrongError(f"more than {count} bytes")
        if CONTENT.startswith(block, at + received):
            return
        for number, byte in enumerate(block, received):
            cleared = not byte and kept is not None and number >= kept
            if byte != CONTENT[at + number] and not cleared:
                there = block[number - received :][:8].hex()
                raise WrongError(
                    f"wrong bytes from {number}: {there} in {len(block)} from {received}"
                )

    def expect(self, answer: Answer, status: int) -> None:
        if answer.status != status:
            body = b"".join(answer.blocks())
            raise WrongError(f"{answer.status} instead of {status}: {body[:100]!r}")

    def finish(self, answer: Answer) -> None:
        """The body is there; is the connection still?"""
        if not answer.keep and answer.connection is self._connection:
            self.leave()

    def kind(self, *kinds: str) -> str:
        """One of them, at times with read_ahead."""
        return self.random.choice(["/", "/", "/ahead/"]) + self.random.choice(kinds)


Actions = dict[str, tuple[Callable[[Client], None], float]]


def whole(client: Client) -> None:
    size = client.random.choice(SMALL)
    target = f"{client.kind(*SIZED, *UNSIZED, *NO_FILES)}/{size}"
    if client.random.random() < 0.3:
        target += "?length=1"
    fields = [] if client.random.random() < 0.9 else ["Connection: close"]
    version = "1.1" if client.random.random() < 0.9 else "1.0"
    client.check(client.ask(target, *fields, version=version), begins(size), size)


def large(client: Client) -> None:
    target = f"{client.kind('file', 'raw', 'wrapped', 'gzip', 'pipe')}/{LARGE}"
    client.check(client.ask(target), begins(LARGE), LARGE)


def standing(client: Client) -> None:
    size = client.random.choice(SMALL)
    start = client.random.randint(0, size)
    answer = client.ask(f"/standing/{size}?from={start}")
    client.check(answer, begins(size) + start, size - start)


def head(client: Client) -> None:
    size = client.random.choice([*SOME, LARGE])
    kinds = SIZED if size < LARGE else ("file", "wrapped")
    answer = client.ask(f"{client.kind(*kinds)}/{size}", method="HEAD")
    client.check(answer, 0, 0)
    if answer.length != size:
        raise WrongError(f"Content-Length of HEAD: {answer.length}")


def one_range(client: Client) -> None:
    """In the file, or from somewhere to its end, or of its end."""
    size = client.random.choice([*SOME, LARGE])
    kinds = SIZED if size < LARGE else ("file", "wrapped")
    start = client.random.randrange(size)
    stop = client.random.randint(start + 1, min(size, start + MIB))
    spec = f"{start}-{stop - 1}"
    if client.random.random() < 0.3:
        start, stop = max(0, size - 300 * KIB, start), size
        spec = client.random.choice([f"{start}-", f"-{size - start}", f"{start}-{size + 99}"])
    answer = client.ask(f"{client.kind(*kinds)}/{size}", f"Range: bytes={spec}")
    client.check(answer, begins(size) + start, stop - start, 206)
    if answer.fields.get("content-range") != f"bytes {start}-{stop - 1}/{size}":
        raise WrongError(f"Content-Range: {answer.fields.get('content-range')}")


def several_ranges(client: Client) -> None:
    """So far apart that each is a part, in the order in which they are asked for."""
    size = client.random.choice([MIB, LARGE])
    kinds = SIZED if size < LARGE else ("file", "wrapped")
    ranges = []
    for number in range(client.random.randint(2, 8)):
        start = number * (size // 8) + client.random.randrange(1000)
        ranges.append((start, start + client.random.randint(1, 40 * KIB)))
    client.random.shuffle(ranges)
    specs = ", ".join(f"{start}-{stop - 1}" for start, stop in ranges)
    answer = client.ask(f"{client.kind(*kinds)}/{size}", f"Range: bytes={specs}")
    client.expect(answer, 206)
    body = b"".join(answer.blocks())
    client.tally.add(count=len(body))
    client.finish(answer)
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
    size = client.random.choice(SOME)
    answer = client.ask(f"{client.kind(*SIZED)}/{size}", f"Range: bytes={size + 1}-")
    client.expect(answer, 416)
    body = b"".join(answer.blocks())
    client.finish(answer)
    if answer.fields.get("content-range") != f"bytes */{size}" or not body.startswith(b"416 "):
        raise WrongError(f"{answer.fields.get('content-range')}, {body[:40]!r}")


def conditional(client: Client) -> None:
    """By the validators that the server gave."""
    size = client.random.choice(SOME)
    target = f"{client.kind('file', 'raw', 'wrapped')}/{size}"
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
        client.expect(answer, 412)
        list(answer.blocks())
        client.finish(answer)
    else:
        count = {200: size, 206: 1, 304: 0}[status]
        client.check(answer, begins(size), count, status)


def pipelined(client: Client) -> None:
    """Requests without a wait for the answers, which come in their order."""
    asked = []
    for _ in range(client.random.randint(2, 6)):
        size = client.random.choice(SOME)
        target = f"{client.kind('file', 'wrapped', 'memory')}/{size}"
        if client.random.random() < 0.3:
            asked.append((request("HEAD", target), "HEAD", size, 0))
        else:
            asked.append((request("GET", target), "GET", size, size))
    client.target = repr([one[0].partition(b"\r")[0].decode() for one in asked])
    connection = Connection(client.port)
    with connection.sock:
        connection.sock.sendall(b"".join(one[0] for one in asked))
        for _, method, size, count in asked:
            client.check(client.seen(connection.answer(method)), begins(size), count)


def failing(client: Client) -> None:
    """The application raises, or what it returned does: in the middle, or at once."""
    client.tally.provoke()
    size = client.random.choice(SOME)
    if client.random.random() < 0.2:
        answer = client.ask(f"/fails/{size}")
        client.expect(answer, 500)
        list(answer.blocks())
        client.finish(answer)
        return
    at = client.random.choice([0, client.random.randrange(size)])
    target = f"{client.kind('raises')}/{size}?at={at}"
    target += client.random.choice(["", "&error=os"]) + client.random.choice(["", "&length=1"])
    client.leave()  # So that no answer at all is one, too.
    try:
        answer = client.ask(target)
    except CutError:
        if at:
            raise
        client.leave()
        return
    if answer.status == 500 and not at:
        list(answer.blocks())
        client.finish(answer)
    else:
        received = client.check_cut(answer, begins(size), size)
        if received > at:
            raise WrongError(f"{received} bytes, though there were {at}")


def abort(client: Client) -> None:
    """Leave before the end: without having read, after the header, in the middle."""
    size = client.random.choice([MIB, LARGE])
    kinds = (*SIZED, *UNSIZED) if size < LARGE else ("file", "wrapped", "gzip", "pipe")
    connection = client.open(f"{client.kind(*kinds)}/{size}")
    if client.random.random() < 0.7:
        answer = client.seen(connection.answer("GET"))
        received, enough = 0, client.random.choice([0, 1, client.random.randrange(size)])
        for block in answer.blocks() if enough else ():
            client.compare(block, begins(size), received, size)
            received += len(block)
            if received >= enough:
                break
    how = client.random.choice(["reset", "close", "shutdown"])
    if how == "reset":
        connection.reset()
        return
    with connection.sock:
        if how == "shutdown":
            # The server may take that for the end of all, or go on sending.
            connection.sock.shutdown(socket.SHUT_WR)
            time.sleep(client.random.uniform(0, 0.2))


def slow(client: Client) -> None:
    """Takes its time; some leave before the end."""
    size = client.random.choice([MIB, LARGE])
    kinds = (*SIZED, *UNSIZED) if size < LARGE else ("file", "wrapped", "gzip", "pipe")
    connection = client.open(f"{client.kind(*kinds)}/{size}", receive_buffer=16 * KIB)
    leaves = client.random.random() < 0.3
    with connection.sock:
        answer = client.seen(connection.answer("GET"))
        client.expect(answer, 200)
        received, until = 0, time.monotonic() + client.random.uniform(1, 4)
        for block in answer.blocks():
            client.compare(block, begins(size), received, size)
            received += len(block)
            if time.monotonic() < until:
                time.sleep(0.02)
            elif leaves:
                return
        if received != size:
            raise WrongError(f"{received} of {size} bytes")


@contextlib.contextmanager
def own_file(client: Client, size: int) -> Iterator[tuple[str, str]]:
    """A file of its own, and how it is asked for."""
    client.made += 1
    name = f"{client.seed}-{client.made}"
    path = os.path.join(client.files, name)
    with open(path, "wb") as file:
        file.write(memoryview(CONTENT)[begins(size) : begins(size) + size])
    try:
        yield path, f"{client.kind('file', 'raw', 'wrapped')}/{size}?name={name}"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def truncated(client: Client) -> None:
    """While it is sent: the response ends short, with nothing that is not the file's."""
    client.tally.provoke()
    size = 12 * MIB
    with own_file(client, size) as (path, target):
        connection = client.open(target, receive_buffer=64 * KIB)
        with connection.sock:
            answer = client.seen(connection.answer("GET"))
            time.sleep(0.05)
            kept = client.random.randrange(size)
            os.truncate(path, kept)
            client.check_cut(answer, begins(size), size, kept)


def growing(client: Client) -> None:
    """While it is sent: it is sent as it was, and what was added is of no other response."""
    size = client.random.choice([64 * KIB, 8 * MIB])
    with own_file(client, size) as (path, target):
        connection = client.open(target, receive_buffer=64 * KIB)
        with connection.sock:
            answer = client.seen(connection.answer("GET"))
            with open(path, "ab") as file:
                file.write(b"more" * 100_000)
            client.check(answer, begins(size), size)
            if answer.keep:
                connection.sock.sendall(request("GET", "/file/4096"))
                client.check(client.seen(connection.answer("GET")), begins(4096), 4096)


def removed(client: Client) -> None:
    """While it is sent: who has it open has all of it."""
    size = 8 * MIB
    with own_file(client, size) as (path, target):
        connection = client.open(target, receive_buffer=64 * KIB)
        with connection.sock:
            answer = client.seen(connection.answer("GET"))
            os.unlink(path)
            client.check(answer, begins(size), size)


#: With their shares.
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
