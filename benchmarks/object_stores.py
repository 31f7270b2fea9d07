"""Files of object stores, bare and with wsgifile: what clients get, and what the store is asked.

"bare" is the server's own wsgi.file_wrapper around what the library opens, on gunicorn. The store
is moto's S3 server, or a small HTTP server, behind a proxy that counts. Then, the throughput of
s3fs and of a store that waits for 30 ms before it answers; "returned" is what the library opens,
which servers iterate by lines.
"""

from __future__ import annotations

import http.client
import http.server
import os
import random
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from report import Parser, Target, begin, finish, number, progress, ratios, run, spread, table
from servers import MIB, free_port, launch

from wsgifile import FileWrapperMiddleware

LIBRARIES = ("s3fs", "django-storages", "boto3", "smart_open", "fsspec http", "urllib3")
#: How it is asked for: the method, the header, and after how many bytes the store breaks off.
CASES: dict[str, tuple[str, dict[str, str], int | None]] = {
    "whole": ("GET", {}, None),
    "2 bytes": ("GET", {"Range": "bytes=1000000-1000001"}, None),
    "last 1,000": ("GET", {"Range": "bytes=-1000"}, None),
    "HEAD": ("HEAD", {}, None),
    "same ETag": ("GET", {"If-None-Match": "{etag}"}, None),
    "cut off": ("GET", {}, MIB),
}
SIZE = 20 * MIB


# The application.


@cache
def opener(library: str) -> Callable[[], Any]:
    """What opens the object by this library. The server may have forked, so this is done late."""
    key, web = "film", os.environ.get("ORIGIN", "") + "/film"
    store = os.environ["STORE"]
    account = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    if library == "s3fs":
        import s3fs

        files = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=store)
        files.retries = 1
        return lambda: files.open(f"films/{key}")
    if library == "django-storages":
        from django.conf import settings
        from storages.backends.s3 import S3Storage

        if not settings.configured:
            settings.configure()
        options = {"endpoint_url": store, "access_key": "test", "secret_key": "test"}
        storage = S3Storage(bucket_name="films", region_name="us-east-1", **options)
        return lambda: storage.open(key)
    if library == "fsspec http":
        import fsspec

        return lambda: fsspec.filesystem("http").open(web)
    if library == "urllib3":
        import urllib3

        return lambda: urllib3.request("GET", web, preload_content=False, retries=False)
    import boto3

    s3 = boto3.client("s3", endpoint_url=store, region_name="us-east-1", **account)
    if library == "boto3":
        return lambda: s3.get_object(Bucket="films", Key=key)["Body"]
    import smart_open

    return lambda: smart_open.open(f"s3://films/{key}", "rb", transport_params={"client": s3})


def returned(environ: dict[str, Any], start_response: Any) -> Any:
    file = opener(environ["QUERY_STRING"].replace("%20", " "))()
    start_response("200 OK", [("Content-Type", "video/mp4")])
    return file


def bare(environ: dict[str, Any], start_response: Any) -> Any:
    return environ["wsgi.file_wrapper"](returned(environ, start_response))


def nothing(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Length", "0")])
    return []


SIDES = {
    "/returned": returned,
    "/bare": bare,
    "/ours": FileWrapperMiddleware(returned),
    "/nothing": nothing,
}


def app(environ: dict[str, Any], start_response: Any) -> Any:
    return SIDES[environ["PATH_INFO"]](environ, start_response)


@contextmanager
def gunicorn(directory: Path, **environ: str) -> Iterator[int]:
    from ports import running

    port = free_port()
    command = launch.command("gunicorn", os.path.abspath(__file__), port)
    environ = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true", **environ}
    with running(command, port, directory / "log", env=environ):
        yield port


# What the store is asked.


def ask(port: int, side: str, library: str, method: str, fields: dict[str, str]) -> list[Any]:
    """The status, the number of bytes, how it ended, and the milliseconds to the first byte."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    begun, ended = time.perf_counter(), ""
    connection.request(method, f"/{side}?{library.replace(' ', '%20')}", headers=fields)
    response = connection.getresponse()
    try:
        body = response.read(1)
        first = time.perf_counter() - begun
        body += response.read()
    except http.client.IncompleteRead as error:
        body, ended = body + error.partial, ", cut"
    finally:
        connection.close()
    return [f"{response.status}{ended}", len(body), first * 1e3]


def asked(repeats: int, directory: Path) -> Iterator[list[str]]:
    import presigned
    import stores

    data = random.Random(22).randbytes(SIZE)
    with (
        stores.store(directory / "moto") as s3,
        stores.origin(data) as web,
        gunicorn(directory, STORE=s3.url, ORIGIN=web.url) as port,
    ):
        client = presigned.client(s3.port)
        client.put_object(Bucket="films", Key="film", Body=data)
        etag = client.head_object(Bucket="films", Key="film")["ETag"]
        client.close()
        for library in LIBRARIES:
            progress(library)
            counter = s3 if library in ("s3fs", "django-storages", "boto3", "smart_open") else web
            ask(port, "ours", library, "HEAD", {})
            for case, (method, header, cut) in CASES.items():
                row = [library, case]
                for side in ("bare", "ours"):
                    fields = {name: value.format(etag=etag) for name, value in header.items()}
                    firsts = []
                    for _ in range(1 if cut else repeats):  # Libraries wait between retries.
                        counter.forget()
                        counter.cut = cut
                        status, count, first = ask(port, side, library, method, fields)
                        firsts.append(first)
                        # The only worker answers when it has ended with the request before.
                        ask(port, "nothing", library, "GET", {})
                    sent = size_of(counter.sent)
                    row += [status, size_of(count), f"{len(counter.asked)}, {sent}"]
                    row.append(number(sorted(firsts)[len(firsts) // 2]))
                yield row


def size_of(count: int) -> str:
    return f"{count / MIB:.1f} MiB" if count >= 100_000 else str(count)


# The throughput.


class Slow(http.server.BaseHTTPRequestHandler):
    """As much of S3 as s3fs needs to read an object. Each request waits for 30 ms.

    :cvar rate: bytes/s of a connection; 0: as fast as it can.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    path_of_object: str
    rate: float

    def do_GET(self) -> None:
        time.sleep(0.03)
        with open(self.path_of_object, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "bytes=0-")
            assert wanted is not None
            start, stop = int(wanted[1]), min(int(wanted[2] or size - 1) + 1, size)
            self.send_response(206 if self.headers["Range"] else 200)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("ETag", f'"{"0123456789abcdef" * 2}"')
            self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
            self.end_headers()
            self.wfile.flush()
            begun, position = time.perf_counter(), start
            while self.command == "GET" and position < stop:
                count = min(stop - position, 262144)
                position += os.sendfile(self.connection.fileno(), file.fileno(), position, count)
                if self.rate:
                    pause((position - start) / self.rate, begun)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""


def pause(seconds: float, begun: float) -> None:
    """Wait until so many seconds have passed."""
    time.sleep(max(0.0, begun + seconds - time.perf_counter()))


def serve(port: str, path: str, rate: str) -> None:
    handler = type("Handler", (Slow,), {"path_of_object": path, "rate": float(rate)})
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), handler).serve_forever()


def download(port: int, side: str, size: int, rate: float) -> float:
    """Seconds that a client takes, which receives so many bytes/s; 0: as fast as it can."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as sock:
        begun = last = time.perf_counter()
        received = 0
        sock.sendall(f"GET /{side}?s3fs HTTP/1.0\r\n\r\n".encode())
        buffer = bytearray(MIB)
        while count := sock.recv_into(buffer):
            received += count
            if rate:  # What it has waited for is lost.
                pause(count / rate, last)
                last = time.perf_counter()
        assert received > size
        return time.perf_counter() - begun


def throughput(
    sides: tuple[str, str], size: int, rate: float, repeats: int, directory: Path
) -> dict[str, list[float]]:
    from ports import running

    path, port = directory / "object", free_port()
    path.write_bytes(os.urandom(size))
    command = [sys.executable, os.path.abspath(__file__), "--serve", str(port), str(path)]
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with (
        running([*command, str(rate)], port, directory / "log"),
        gunicorn(directory, STORE=f"http://127.0.0.1:{port}") as own,
    ):
        download(own, "ours", size, 0)
        for _ in range(repeats):
            for side in sides:
                seconds[side].append(download(own, side, size, rate))
    return seconds


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = Parser(__doc__)
    args = parser.parse(repeats=1)
    results = begin(args, ["s3fs", "django-storages", "boto3", "smart_open", "moto", "gunicorn"])
    targets = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        rows = list(asked(args.repeats, directory))
        print(f"\nAn object of {SIZE // MIB} MiB. To the client: status, bytes, ms to the first")
        print(f"byte. At the store: requests, bytes. Medians of {args.repeats}.\n")
        columns = ("bare", "bytes", "store", "ms", "ours", "bytes", "store", "ms")
        print(table(("library", "asked for", *columns), rows), flush=True)
        print("\nBy s3fs, 30 ms a request, seconds; median (least..most)\n")
        lines = []
        for what, sides, size, rate, least in (
            ("100 MiB", ("bare", "ours"), 100 * MIB, 0.0, 1),
            ("100 MiB, store and client 1 Gbit/s", ("bare", "ours"), 100 * MIB, 125e6, 1),
            ("4 MiB", ("returned", "ours"), 4 * MIB, 0.0, 2),
        ):
            progress(what)
            seconds = throughput(sides, size, rate, args.repeats, directory)
            lines += [[what, side, spread(seconds[side])] for side in sides]
            gained = ratios(*(seconds[side] for side in sides))
            targets.append(Target(what, f"seconds, {sides[0]} / ours", gained, at_least=least))
        print(table(("", "", "s"), lines))
    results["values"] = {"asked": rows, "throughput": lines}
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
