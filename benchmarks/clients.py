"""The clients of the benchmarks. Each is a process that prints what it saw as JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import selectors
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import servers
from servers import HOST, MIB, Address

#: A client gives up after so many seconds without a byte.
PATIENCE = 60.0


class ClientError(Exception):
    """The server did not send what was asked for."""


def start_client(
    kind: str, address: Address, path: str, **options: object
) -> subprocess.Popen[str]:
    """Start one of the clients below, with these options."""
    command = [sys.executable, os.path.abspath(__file__), kind, json.dumps(address), path]
    command.append(json.dumps(options))
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def result(process: subprocess.Popen[str], timeout: float = 600) -> dict[str, Any]:
    """Wait for its end: what it saw.

    :raises ClientError: if it failed, or takes longer than timeout seconds.
    """
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ClientError(f"the client took more than {timeout} seconds") from None
        finally:
            process.kill()
    if process.returncode:
        raise ClientError(errors.strip().rpartition("\n")[2] or "the client was killed")
    seen: dict[str, Any] = json.loads(output)
    return seen


def run_client(kind: str, address: Address, path: str, **options: object) -> dict[str, Any]:
    return result(start_client(kind, address, path, **options))


def connect(
    address: Address, receive_buffer: int = 0, patience: float = PATIENCE
) -> socket.socket:
    sock = servers.connect(address, patience, receive_buffer)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def begin(sock: socket.socket, path: str) -> tuple[int, int, bool]:
    """Ask, and read the header: the body's length, how much of it came, whether to keep sock."""
    sock.sendall(request(path))
    received = b""
    while b"\r\n\r\n" not in received:
        more = sock.recv(4096)
        if not more:
            raise ClientError(f"the connection ended in the header: {received!r}")
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    version, status, *_ = head.split(maxsplit=2)
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
    if status != b"200" or len(lengths) != 1:
        raise ClientError(f"not the expected response: {head!r}")
    keep = version == b"HTTP/1.1" and b"connection: close" not in lines
    return lengths[0], len(body), keep


class Requests:
    """Requests one after the other, on one connection if the server keeps it."""

    def __init__(self, address: Address, path: str, *options: float, flags: int = 0) -> None:
        self.path, self.flags = path, flags
        self.buffer = bytearray(1 << 20)
        self.connect = lambda: connect(address, *options)  # type: ignore[arg-type]
        self.sock: socket.socket | None = None

    def one(self) -> int:
        """The number of bytes of the body."""
        sock = self.sock or self.connect()
        length, received, keep = begin(sock, self.path)
        while received < length:
            got = sock.recv_into(self.buffer, min(1 << 20, length - received), self.flags)
            if not got:
                raise ClientError(f"the connection ended after {received} of {length} bytes")
            received += got
        self.sock = sock if keep else sock.close()
        return received


def receive(
    address: Address,
    path: str,
    count: int = 1,
    parallel: int = 1,
    receive_buffer: int = 0,
    discard: bool = False,
) -> dict[str, Any]:
    """So many downloads in parallel, count times. discard: the kernel throws the bytes away."""
    flags = socket.MSG_TRUNC if discard else 0

    def download(number: int) -> int:
        requests = Requests(address, path, receive_buffer, flags=flags)
        return sum(requests.one() for _ in range(count))

    with ThreadPoolExecutor(parallel) as pool:
        begun, cpu = time.perf_counter(), time.process_time()
        total = sum(pool.map(download, range(parallel)))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"bytes": total, "seconds": seconds, "cpu": cpu}


def latency(
    address: Address, path: str, seconds: float, patience: float = PATIENCE
) -> dict[str, Any]:
    """A small request every 3 ms, or just one in no seconds: p50 and p99.

    The time counts from when a request was due, because one that waits for its answer
    makes others late.
    """
    seen: list[float] = []
    requests = Requests(address, path, 0, patience)
    due = time.perf_counter()
    end = due + seconds
    while due < end or not seen:
        time.sleep(max(0, due - time.perf_counter()))
        # It is not the server's fault if sleep() comes back late.
        begun = due if seen and seen[-1] > 0.003 else time.perf_counter()
        requests.one()
        seen.append(time.perf_counter() - begun)
        due += 0.003
    # Not all of them: nobody reads the output of this process before its end.
    seen.sort()
    return {f"p{p}_ms": seen[min(len(seen) - 1, len(seen) * p // 100)] * 1e3 for p in (50, 99)}


class Reader:
    """A download in small steps."""

    def __init__(self, address: Address, path: str, receive_buffer: int = 0) -> None:
        self.sock = connect(address, receive_buffer)
        self.sock.sendall(request(path))
        self.size = int(path[1:])  # The name of a file.
        self.got = 0
        self.head: bytes | None = b""

    def read(self, size: int = 1 << 16) -> bool:
        """Read once, if something is there. Whether there may be more."""
        try:
            data = block = self.sock.recv(size)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if self.head is not None:
            self.head, end, block = (self.head + data).partition(b"\r\n\r\n")
            if end:
                self.head = None
        self.got += len(block)
        return bool(data) and self.got < self.size

    def read_all(self, rate: float = 0) -> None:
        """Read to the end, rate bytes a second from the first one on; 0: at once."""
        more = self.read()
        began = time.monotonic()
        while more:
            more = self.read()
            if rate:
                time.sleep(max(0.0, self.got / rate - (time.monotonic() - began)))
        self.sock.close()


def slow(
    address: int,
    path: str,
    readers: int,
    rate: float = 0,
    finish: bool = False,
    receive_buffer: int = 0,
    pause: float = 0,
    step: int = 0,
) -> dict[str, Any]:
    """Readers that take rate bytes/s each from "ready" on stderr to the end of stdin.

    Without a rate they take nothing, and there are no more of them than the server's backlog has
    place for. finish: read the rest in the end. pause: seconds before "ready". step: each reads
    another file, which is larger by this.
    """
    found: list[Reader] = []
    with contextlib.suppress(*([] if rate else [OSError])):
        for number in range(readers):
            file = f"/{int(path[1:]) + number * step}"
            found.append(Reader(address, file, receive_buffer))
            found[-1].sock.setblocking(False)
            # Each one that stops has to fall behind, and wsgiref's backlog has room for five.
            time.sleep(0 if rate else 0.15)
    time.sleep(pause)
    print("ready", file=sys.stderr, flush=True)
    begun, late = time.monotonic(), take_turns(found, rate)
    received = sum(reader.got for reader in found) / (time.monotonic() - begun)
    queued = bytes_waiting(address)
    if finish:
        read_all(found)
    whole = sum(reader.got == reader.size for reader in found)
    return {
        "connected": len(found),
        "whole": whole,
        "mib_per_s": received / MIB,
        "queued_mib": queued / MIB,
        "late_ms": late * 1e3,
    }


def take_turns(readers: list[Reader], rate: float) -> float:
    """Read until the end of stdin. How late a reader was at most, in seconds.

    Each has its turn four times a second, together with the others of its slot.
    """
    slots, interval = 25, 0.25
    late, due = 0.0, time.monotonic()
    for slot in itertools.cycle(range(slots)):
        for reader in readers[slot::slots] if rate else []:
            if not reader.read(max(1, int(rate * interval))):
                raise ClientError("the server closed a slow reader's connection")
        due += interval / slots
        now = time.monotonic()
        late = max(late, now - due)
        if select.select([sys.stdin], [], [], max(0, due - now))[0]:
            return late
    raise AssertionError


def read_all(readers: list[Reader], patience: float = 10) -> None:
    """Read until the end of each, or until nothing has come for some time."""
    selector = selectors.DefaultSelector()
    for reader in readers:
        selector.register(reader.sock, selectors.EVENT_READ, reader)
    while selector.get_map() and (ready := selector.select(patience)):
        for key, _ in ready:
            if not key.data.read():
                selector.unregister(key.fileobj)
                key.data.sock.close()


def bytes_waiting(port: int) -> int:
    """tx_queue of the server's connections: not acknowledged yet."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    local = f":{port:04X}"
    # State 0A is the listening socket, where the column means something else.
    queues = [row[4] for row in rows if row[1].endswith(local) and row[3] != "0A"]
    return sum(int(queue.partition(":")[0], 16) for queue in queues)


def main(kind: str, address: str, path: str, options: str) -> None:
    client = {"receive": receive, "latency": latency, "slow": slow}[kind]
    where = json.loads(address)
    try:
        where = tuple(where) if isinstance(where, list) else where
        print(json.dumps(client(where, path, **json.loads(options))))
    except (OSError, ClientError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
