"""The clients of the benchmarks, each a process of its own that prints what it saw as JSON."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

from serve import HOST

#: Seconds without a byte, after which a client gives up.
PATIENCE = 60


class ClientError(Exception):
    """The server did not send what was asked for."""


def start_client(kind: str, port: int, path: str, **options: object) -> subprocess.Popen[str]:
    """Start one of the clients below, with its options by their names."""
    command = [sys.executable, os.path.abspath(__file__), kind, str(port), path]
    command += [f"--{name}={value}" for name, value in options.items()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str], timeout: float = 600) -> dict[str, Any]:
    """What it saw, when it has ended; it is ended at the latest here.

    :raises ClientError: if it failed.
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
    if receive_buffer:  # Before connecting, as the window scale is settled then.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def request(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def begin(sock: socket.socket, path: str) -> tuple[int, int, bool]:
    """Ask, and read the header: the body's length, how much of it came, whether to go on."""
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


def download(args: argparse.Namespace) -> int:
    """Get it --count times on one connection, if the server keeps it; bytes of the bodies."""
    buffer = bytearray(1 << 20)
    flags = socket.MSG_TRUNC if args.discard else 0
    sock, total = None, 0
    for _ in range(args.count):
        sock = sock or connect(args.port, args.receive_buffer)
        length, received, keep = begin(sock, args.path)
        time.sleep(args.pause)
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


def receive(args: argparse.Namespace) -> dict[str, Any]:
    """Downloads, --parallel ones at once."""
    totals: list[int] = []
    errors: list[Exception] = []

    def one() -> None:
        try:
            totals.append(download(args))
        except (OSError, ClientError) as error:
            errors.append(error)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(args.parallel)]
    begun, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    if errors:
        raise errors[0]
    return {"bytes": sum(totals), "seconds": seconds, "cpu": cpu}


def latency(args: argparse.Namespace) -> dict[str, Any]:
    """A small request every 3 ms for --seconds: p50 and p99.

    From when it was due: one that has to wait for an answer makes others late.
    """
    seen = []
    with connect(args.port) as sock:
        due = time.perf_counter()
        end = due + args.seconds
        while due < end:
            time.sleep(max(0, due - time.perf_counter()))
            # If sleep() comes back late that is not the server's doing.
            begun = due if seen and seen[-1] > 0.003 else time.perf_counter()
            length, received, _ = begin(sock, args.path)
            while received < length:
                received += len(sock.recv(4096)) or length
            seen.append(time.perf_counter() - begun)
            due += 0.003
    # Not all of them: who waits for the end of this process does not read its output.
    seen.sort()
    return {f"p{p}_ms": seen[min(len(seen) - 1, len(seen) * p // 100)] * 1e3 for p in (50, 99)}


def slow(args: argparse.Namespace) -> dict[str, Any]:
    """Many readers that take --rate bytes/s each, for --seconds after "ready" is on stderr.

    At the end, all still connected, what process --server has read in the
    meantime, and what it has sent: what arrived here, and what waits in its sockets.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = bytes_read(args.server)
    socks = []
    for number in range(args.readers):
        sock = connect(args.port)
        sock.sendall(request(args.path, *([f"Range: bytes={number}-"] if args.ranges else [])))
        sock.setblocking(False)
        socks.append(sock)
    print("ready", file=sys.stderr, flush=True)
    # Each reader has its turn four times a second, those of a slot together.
    slots, interval = 25, 0.25
    buffer = bytearray(max(1, int(args.rate * interval)))
    received, late, due = 0, 0.0, time.monotonic()
    end = due + args.seconds
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
    read = bytes_read(args.server) - before
    sent = bytes_waiting(args.port) + sum(map(bytes_arrived, socks))
    return {"received": received, "read": read, "sent": sent, "late": late}


def bytes_read(pid: int) -> int:
    """By read(), pread() and sendfile(), by the whole process; recv() does not count."""
    with open(f"/proc/{pid}/io") as io:
        return next(int(line.split()[1]) for line in io if line.startswith("rchar:"))


def bytes_arrived(sock: socket.socket) -> int:
    """tcpi_bytes_received: of the connection, read by us or not."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for function in (receive, latency, slow):
        kind = kinds.add_parser(
            function.__name__, help=(function.__doc__ or "").partition("\n")[0]
        )
        kind.add_argument("port", type=int)
        kind.add_argument("path")
        kind.set_defaults(function=function)
    add = kinds.choices["receive"].add_argument
    add("--count", type=int, default=1, help="requests of each connection")
    add("--parallel", type=int, default=1, help="connections")
    add("--receive_buffer", type=int, default=0, help="SO_RCVBUF in bytes (0: the system's)")
    add("--pause", type=float, default=0, help="seconds after the header")
    add("--discard", type=int, default=0, help="1: throw the bytes away in the kernel")
    kinds.choices["latency"].add_argument("--seconds", type=float, required=True)
    add = kinds.choices["slow"].add_argument
    add("--seconds", type=float, required=True)
    add("--readers", type=int, required=True)
    add("--rate", type=float, required=True, help="bytes/s of each")
    add("--ranges", type=int, default=0, help="1: ask for a range")
    add("--server", type=int, required=True, help="the server's process")
    args = parser.parse_args()
    try:
        print(json.dumps(args.function(args)))
    except (OSError, ClientError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
