"""A real Zope, by its own ini on waitress, with egg:wsgifile in its pipeline."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest
from ports import free_port, running

pytest.importorskip("Zope2", reason="Zope is not installed (the extra zope)")

#: More than is sent at once, and not all the same.
DATA = bytes(range(256)) * 2000
SMALL = b"GIF89a" + DATA[:1000]

BIN = Path(sys.executable).parent
Answer = tuple[int, Message, bytes]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As mkwsgiinstance makes it; with blobs and our filter."""
    home = tmp_path_factory.mktemp("zope") / "instance"
    subprocess.run([BIN / "mkwsgiinstance", "-d", home, "-u", "admin:secret"], check=True)
    (home / "data").write_bytes(DATA)
    conf = home / "etc" / "zope.conf"
    text = conf.read_text()
    assert "</filestorage>" in text
    text = text.replace("</filestorage>", "  blob-dir $INSTANCE/var/blobs\n    </filestorage>")
    conf.write_text(text)
    ini = (home / "etc" / "zope.ini").read_text()
    ours, count = re.subn(
        r"(?m)^pipeline =$", "pipeline =\n    wsgifile", re.sub("port = .*", "port = PORT", ini)
    )
    assert count == 1
    ours += "\n[filter:wsgifile]\nuse = egg:wsgifile\n"
    (home / "etc" / "ours.in").write_text(ours)
    (home / "etc" / "bare.in").write_text(ours.replace("\n    wsgifile\n", "\n"))
    fill = [sys.executable, str(Path(__file__).with_name("zope_site.py"))]
    subprocess.run([*fill, str(conf), str(home / "data")], check=True, env=environment(home))
    return home


def environment(home: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.getenv("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "WSGIFILE_TEST_DATA": str(home / "data")}


@contextmanager
def serving(home: Path, which: str) -> Iterator[int]:
    port = free_port()
    ini = home / "etc" / f"{which}.ini"
    ini.write_text(ini.with_suffix(".in").read_text().replace("PORT", str(port)))
    command = [str(BIN / "runwsgi"), str(ini)]
    with running(command, port, home / f"{which}.log", env=environment(home)):
        yield port


@pytest.fixture(scope="module")
def bare(instance: Path) -> dict[tuple[str, str], Answer]:
    """What Zope answers without us, by method and path."""
    with serving(instance, "bare") as port:
        return {
            (method, path): get(port, path, method)
            for method in ("GET", "HEAD")
            for path in ("/file", "/image", "/path", "/committed", "/opened")
        }


@pytest.fixture(scope="module")
def port(instance: Path, bare: object) -> Iterator[int]:
    with serving(instance, "ours") as port:
        yield port


def get(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, response.headers, data


@pytest.mark.parametrize(("path", "body"), [("/file", DATA), ("/image", SMALL)])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_of_the_database(
    port: int, bare: dict[tuple[str, str], Answer], path: str, body: bytes, method: str
) -> None:
    """These are no files. Zope answers their ranges itself."""
    answer, expected = get(port, path, method), bare[method, path]
    assert answer[0] == expected[0] == 200
    assert answer[2] == expected[2] == (body if method == "GET" else b"")
    for headers in (answer[1], expected[1]):
        del headers["Date"]
    assert answer[1].items() == expected[1].items()
    status, headers, data = get(port, path, Range="bytes=10-99")
    assert (status, data) == (206, body[10:100])
    assert headers["Content-Range"] == f"bytes 10-99/{len(body)}"


@pytest.mark.parametrize("path", ["/path", "/committed", "/opened"])
def test_on_disk(
    port: int, instance: Path, bare: dict[tuple[str, str], Answer], path: str
) -> None:
    """By the descriptor, with ranges and ETag, although it is a sub-class of FileIO."""
    status, headers, data = get(port, path)
    assert (status, data) == (200, DATA) == (bare["GET", path][0], bare["GET", path][2])
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["ETag"]
    assert bare["GET", path][1]["ETag"] is None
    status, of_head, data = get(port, path, "HEAD")
    assert (status, data, of_head["ETag"]) == (200, b"", headers["ETag"])
    assert of_head["Content-Length"] == str(len(DATA))
    assert get(port, path, **{"If-None-Match": headers["ETag"]})[0] == 304
    status, headers, data = get(port, path, Range="bytes=1000-400000")
    assert (status, data) == (206, DATA[1000:400001])
    assert headers["Content-Range"] == f"bytes 1000-400000/{len(DATA)}"
    log = (instance / "var" / "log" / "event.log").read_text()
    assert re.search(r"\[wsgifile:.*waitress: files are sent by wsgi.file_wrapper", log)
