"""The same requests for the same files, to nginx and to wsgifile: do the answers agree?

Where they differ, ``DIFFERENCES`` has to give the reason, with a section of RFC 9110.
"""

from __future__ import annotations

import email
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h11")

from client import Client
from nginx import command
from ports import free_port, wait_until_listening

SIZES = {"empty": 0, "one": 1, "seven": 7, "page": 4096, "large": 2**20}
#: Time of modification of the files.
MTIME = 1_700_000_000
DATES = {
    "before": "Tue, 14 Nov 2023 22:13:19 GMT",
    "then": "Tue, 14 Nov 2023 22:13:20 GMT",
    "after": "Tue, 14 Nov 2023 22:13:21 GMT",
    "malformed": "yesterday",
}

HTTP = """
    if_modified_since before;
    max_ranges 16;
    server {{
        listen 127.0.0.1:{port};
        root {root}/files;
    }}
"""


@dataclass(frozen=True)
class Asked:
    """A request. In its fields, "ETAG" stands for the ETag that the server has for the file."""

    name: str
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"

    @property
    def range(self) -> str:
        return self.headers.get("Range", "")


@dataclass(frozen=True)
class Answered:
    status: int
    content_range: str | None
    content_length: str | None
    #: What was sent of the file: its bytes, or the ranges and bytes of its parts. The text of
    #: an error is left out.
    body: object


def generate(count: int) -> Iterator[Asked]:  # noqa: C901  # all its functions count
    """Requests of every kind, the same ones in every run."""
    chance = random.Random(4)

    def position(size: int) -> int:
        return chance.choice([0, 1, size // 2, size - 1, size, size + 5, 10**25]) + chance.choice(
            [0, 0, 0, 1, 3]
        )

    def spec(size: int) -> str:
        first, last = sorted([max(0, position(size)), max(0, position(size))])
        return chance.choice([f"{first}-{last}", f"{first}-{last}", f"{first}-", f"-{last}"])

    def ranges(size: int) -> str:
        kind = chance.choice(["single", "single", "several", "many", "overlapping", "malformed"])
        if kind == "single":
            return f"bytes={spec(size)}"
        if kind == "several":
            return "bytes=" + ", ".join(spec(size) for _ in range(chance.randint(2, 5)))
        if kind == "many":
            step, number = max(1, size // 40), chance.choice([3, 16, 17, 40])
            return "bytes=" + ",".join(f"{n * step}-{n * step}" for n in range(number))
        if kind == "overlapping":
            return f"bytes=0-{size // 2},{size // 4}-{size},-{size // 3}"
        return chance.choice(
            ["bytes=", "bytes", "bytes=-", "bytes=a-b", "bytes=9-3", "items=0-1", "bytes=0-1,x"]
        )

    def tags() -> str:
        return chance.choice(["ETAG", "W/ETAG", '"x"', '"x", ETAG', '"x","y"', "*", "ETAG,W/ETAG"])

    for _ in range(count):
        name = chance.choice(list(SIZES))
        headers = {}
        if chance.random() < 0.75:
            headers["Range"] = ranges(SIZES[name])
            if chance.random() < 0.3:
                headers["If-Range"] = chance.choice(["ETAG", "W/ETAG", '"x"', *DATES.values()])
        if chance.random() < 0.4:
            for condition in chance.sample(
                ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"],
                chance.choice([1, 1, 2]),
            ):
                by_tag = condition.endswith("-Match")
                headers[condition] = tags() if by_tag else chance.choice(list(DATES.values()))
        yield Asked(name, headers, chance.choice(["GET"] * 9 + ["HEAD"]))


class Side:
    """One of the two servers, with a client for it."""

    def __init__(self, port: int, files: Path) -> None:
        self.client = Client(port)
        self.files = {name: (files / name).read_bytes() for name in SIZES}
        self.etags = {name: self.client.get(f"/{name}").headers["etag"] for name in SIZES}

    def ask(self, asked: Asked) -> Answered:
        etag = self.etags[asked.name]
        headers = [(name, value.replace("ETAG", etag)) for name, value in asked.headers.items()]
        answer = self.client.get(f"/{asked.name}", method=asked.method, headers=tuple(headers))
        assert not answer.short
        length = answer.headers.get("content-length")
        if asked.method == "GET" and answer.status != 304:
            assert length is not None
            assert len(answer.body) == int(length)
        if answer.status >= 400:
            return Answered(answer.status, answer.headers.get("content-range"), None, None)
        if answer.status == 200:
            assert answer.headers["accept-ranges"] == "bytes"
        content_type = answer.headers.get("content-type", "")
        if content_type.startswith("multipart/byteranges"):
            found = parts(content_type, answer.body)
            for _, content_range, body in found:
                self.check(asked.name, content_range, body)
            return Answered(answer.status, None, None, found)
        content_range = answer.headers.get("content-range")
        if answer.status == 206 and asked.method == "GET":
            self.check(asked.name, content_range, answer.body)
        return Answered(answer.status, content_range, length, answer.body)

    def check(self, name: str, content_range: str | None, body: bytes) -> None:
        """The bytes are those that Content-Range names."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range or "")
        assert found is not None
        first, last, size = map(int, found.groups())
        assert size == len(self.files[name])
        assert body == self.files[name][first : last + 1]


def parts(content_type: str, body: bytes) -> list[Any]:
    message: Any = email.message_from_bytes(f"Content-Type: {content_type}\r\n".encode() + body)
    return [
        (part["Content-Type"], part["Content-Range"], part.get_payload(decode=True))
        for part in message.get_payload()
    ]


def specs(asked: Asked) -> list[Any]:
    """First and last position of each range in the request, as text."""
    return [spec.strip().partition("-")[::2] for spec in asked.range[6:].split(",")]


def malformed(asked: Asked) -> bool:
    return not asked.range.startswith("bytes=") or any(
        not (first + last).isdigit()
        or (first.isdigit() and last.isdigit() and int(last) < int(first))
        for first, last in specs(asked)
    )


def sent(answered: Answered) -> int:
    """The number of parts in an answer."""
    return len(answered.body) if isinstance(answered.body, list) else 1


#: What nginx does differently, with the section of RFC 9110 that allows what we do.
DIFFERENCES: dict[str, Callable[[Asked, Answered, Answered], object]] = {
    "Range means nothing with HEAD (14.2)": lambda asked, nginx, ours: (
        asked.method == "HEAD"
        and asked.range
        and (nginx.status, ours.status) in {(206, 200), (416, 200)}
    ),
    "a date is not looked at beside a tag (13.1.3, 13.1.4)": lambda asked, nginx, ours: (
        {"If-None-Match", "If-Modified-Since"} <= asked.headers.keys()
        or {"If-Match", "If-Unmodified-Since"} <= asked.headers.keys()
    ),
    "a malformed date is ignored (13.1.4)": lambda asked, nginx, ours: (
        asked.headers.get("If-Unmodified-Since") == DATES["malformed"] and nginx.status == 412
    ),
    "strong comparison holds between strong tags only (13.1.1)": lambda asked, nginx, ours: (
        "W/ETAG" in asked.headers.get("If-Match", "")
    ),
    "a malformed Range may be ignored or rejected (14.2)": lambda asked, nginx, ours: (
        malformed(asked) and (nginx.status, ours.status) == (416, 200)
    ),
    "numbers have any length (14.1.1)": lambda asked, nginx, ours: (
        "0000000000" in asked.range and nginx.status == 416
    ),
    "ranges that overlap, or nearly touch, may be one (15.3.7.2)": lambda asked, nginx, ours: (
        ours.status == 206 and len(specs(asked)) > sent(ours)
    ),
    "a server may ignore too many ranges (14.2)": lambda asked, nginx, ours: (
        len(specs(asked)) > 16 and ours.status == 200
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nginx")
    (root / "files").mkdir()
    for name, size in SIZES.items():
        path = root / "files" / name
        path.write_bytes(random.Random(name).randbytes(size))
        os.utime(path, (MTIME, MTIME))
    return root


def start(command: list[str], port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    wait_until_listening(port, process, log)
    return process


@pytest.fixture(scope="module")
def sides(root: Path) -> Iterator[list[Side]]:
    ports = [free_port(), free_port()]
    ours = [sys.executable, "-m", "wsgifile", "--port", str(ports[1]), str(root / "files")]
    nginx = command(root, HTTP.format(root=root, port=ports[0]))
    processes = [start(nginx, ports[0], root / "nginx.log")]
    try:
        processes.append(start(ours, ports[1], root / "ours.log"))
        both = [Side(port, root / "files") for port in ports]
        yield both
        for side in both:
            side.client.close()
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def test_as_nginx(sides: list[Side]) -> None:
    """In 500 requests, each difference has a reason, and each reason is needed."""
    seen: Counter[Any] = Counter()
    unexplained = []
    for asked in generate(500):
        nginx, ours = (side.ask(asked) for side in sides)
        if nginx == ours:
            seen["agree", ours.status] += 1
            continue
        for reason, holds in DIFFERENCES.items():
            if holds(asked, nginx, ours):
                seen[reason] += 1
                break
        else:
            unexplained.append((asked, nginx, ours))
    print(*(f"{count:4} {what}" for what, count in seen.most_common()), sep="\n")
    for asked, nginx, ours in unexplained:
        print(asked, *(str(side)[:150] for side in (nginx, ours)), sep="\n    ")
    assert not unexplained
    assert set(DIFFERENCES) <= set(seen)
    assert {seen["agree", status] > 0 for status in (200, 206, 304, 412, 416)} == {True}
    assert sum(count for what, count in seen.items() if what[0] == "agree") > 300
