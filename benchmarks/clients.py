"""The clients of the benchmarks. Each is a process that prints what it saw as JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from servers import HOST

#: A client gives up after so many seconds without a byte.
PATIENCE = 60


class ClientError(Exception):
    """The server did not send what was asked for."""


def start_client(kind: str, port: int, path: str, **options: object) -> subprocess.Popen[str]:
    """Start one of the clients below, with these options."""
    command = [sys.executable, os.path.abspath(__file__), kind, str(port), path]
    command.append(json.dumps(options))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


def run_client(kind: str, port: int, path: str, **options: object) -> dict[str, Any]:
    return result(start_client(kind, port, path, **options))


def connect(port: int, receive_buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if receive_buffer:  # Before connect(), which settles the window scale.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]
    return "\r\n".join(lines).encode()


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


def download(
    port: int,
    path: str,
    count: int = 1,
    receive_buffer: int = 0,
    pause: float = 0,
    discard: bool = False,
) -> int:
    """Bytes of the bodies of count requests, on one connection if the server keeps it.

    pause: seconds to wait after a header. discard: throw the bytes away in the kernel.
    """
    buffer = bytearray(1 << 20)
    flags = socket.MSG_TRUNC if discard else 0
    sock, total = None, 0
    for _ in range(count):
        sock = sock or connect(port, receive_buffer)
        length, received, keep = begin(sock, path)
        time.sleep(pause)
        while received < length:
            got = sock.recv_into(buffer, min(len(buffer), length - received), flags)
            if not got:
                raise ClientError(f"the connection ended after {received} of {length} bytes")
            received += got
        total += received
        if not keep:
            sock.close()
            sock = None
    return total


def receive(port: int, path: str, parallel: int = 1, **options: Any) -> dict[str, Any]:
    """So many downloads in parallel."""
    totals: list[int] = []
    errors: list[Exception] = []

    def one() -> None:
        try:
            totals.append(download(port, path, **options))
        except (OSError, ClientError) as error:
            errors.append(error)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(parallel)]
    begun, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    if errors:
        raise errors[0]
    return {"bytes": sum(totals), "seconds": seconds, "cpu": cpu}


def latency(port: int, path: str, seconds: float) -> dict[str, Any]:
    """A small request every 3 ms: p50 and p99.

    The time counts from when a request was due, because one that waits for its answer
    makes others late.
    """
    seen = []
    with connect(port) as sock:
        due = time.perf_counter()
        end = due + seconds
        while due < end:
            time.sleep(max(0, due - time.perf_counter()))
            # It is not the server's fault if sleep() comes back late.
            begun = due if seen and seen[-1] > 0.003 else time.perf_counter()
            length, received, _ = begin(sock, path)
            while received < length:
                received += len(sock.recv(4096)) or length
            seen.append(time.perf_counter() - begun)
            due += 0.003
    # Not all of them: nobody reads the output of this process before its end.
    seen.sort()
    return {f"p{p}_ms": seen[min(len(seen) - 1, len(seen) * p // 100)] * 1e3 for p in (50, 99)}


def slow(
    port: int, path: str, seconds: float, readers: int, rate: float, ranges: bool, server: int
) -> dict[str, Any]:
    """Readers that take rate bytes/s each, for so many seconds after "ready" on stderr.

    All have to be connected in the end. The result has how many bytes the process server
    has read, and sent: those that arrived here, and those that wait in its sockets.
    """
    before = bytes_read(server)
    socks = []
    for number in range(readers):
        sock = connect(port)
        sock.sendall(request(path, *([f"Range: bytes={number}-"] if ranges else [])))
        sock.setblocking(False)
        socks.append(sock)
    print("ready", file=sys.stderr, flush=True)
    # Each reader has its turn four times a second, together with the others of its slot.
    slots, interval = 25, 0.25
    buffer = bytearray(max(1, int(rate * interval)))
    received, late, due = 0, 0.0, time.monotonic()
    end = due + seconds
    for slot in itertools.cycle(range(slots)):
        for sock in socks[slot::slots]:
            with contextlib.suppress(BlockingIOError):
                got = sock.recv_into(buffer)
                if not got:
                    raise ClientError("the server closed a slow reader's connection")
                received += got
        due += interval / slots
        now = time.monotonic()
        late = max(late, now - due)
        if now > end:
            break
        time.sleep(max(0, due - now))
    read = bytes_read(server) - before
    sent = bytes_waiting(port) + sum(map(bytes_arrived, socks))
    return {"received": received, "read": read, "sent": sent, "late": late}


def bytes_read(pid: int) -> int:
    """How much a process has read by read(), pread() and sendfile(); recv() does not count."""
    with open(f"/proc/{pid}/io") as io:
        return next(int(line.split()[1]) for line in io if line.startswith("rchar:"))


def bytes_arrived(sock: socket.socket) -> int:
    """tcpi_bytes_received: all that arrived on the connection, read or not."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    return int(struct.unpack_from("Q", info, 128)[0])


def bytes_waiting(port: int) -> int:
    """tx_queue of the server's connections: not acknowledged yet."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    local = f":{port:04X}"
    # State 0A is the listening socket, where the column means something else.
    queues = [row[4] for row in rows if row[1].endswith(local) and row[3] != "0A"]
    return sum(int(queue.partition(":")[0], 16) for queue in queues)


def main(kind: str, port: str, path: str, options: str) -> None:
    client = {"receive": receive, "latency": latency, "slow": slow}[kind]
    try:
        print(json.dumps(client(int(port), path, **json.loads(options))))
    except (OSError, ClientError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
