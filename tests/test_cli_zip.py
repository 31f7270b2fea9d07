"""A directory as one zip archive."""

from __future__ import annotations

import io
import os
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("webtest")

import webtest
from command_line import ask, get, links, logged, not_modified, raw, serving
from test_clients import needed

from wsgifile.cli import archive, download
from wsgifile.cli.archive import Archive, Member
from wsgifile.cli.arguments import make_parser
from wsgifile.cli.directory import directory_app
from wsgifile.cli.serving import over_waitress
from wsgifile.cli.site import Site, open_below


@pytest.fixture(autouse=True)
def no_checksums() -> Iterator[None]:
    """Each test begins without the checksums of another."""
    archive._checksums.clear()
    yield
    archive._checksums.clear()


@pytest.fixture
def folder(site: Path) -> Path:
    """A directory with what an archive has to have, and what it must not have."""
    (site / "sub" / "deep").mkdir()
    (site / "sub" / "deep" / "song.ogg").write_bytes(b"song" * 1000)
    (site / "sub" / os.fsdecode(b"odd \xff")).write_text("no UTF-8")
    (site / "sub" / "a\\..\\evil").write_text("backslashes")
    (site / "sub" / "é").mkdir()
    (site / ".env").write_text("secret")
    (site / "sub" / ".git").mkdir()
    (site / "sub" / ".git" / "config").write_text("secret")
    (site / "inner").symlink_to("data.bin")
    (site / "outer").symlink_to("../secret")
    (site / "outer.d").symlink_to("..")
    (site / "masked").symlink_to(".env")
    (site / "nothing").symlink_to("nosuch")
    (site / "sub" / "loop").symlink_to(".")
    (site / "sub" / "loop2").symlink_to("..")
    (site / "linked").symlink_to("page")
    os.mkfifo(site / "fifo")
    return site


SERVED = {
    "files/sub/",
    "files/sub/deep/",
    "files/sub/deep/song.ogg",
    "files/sub/a:b <i>&%41?#.txt",
    "files/sub/a_.._evil",
    "files/sub/é/",
    "files/page/",
    "files/page/index.html",
    "files/linked/",
    "files/linked/index.html",
    "files/data.bin",
    "files/inner",
    "files/empty",
    "files/pack.tar.gz",
}


def test_zip(folder: Path) -> None:
    """It has what the listings show, each file as it is, and no path of this machine."""
    with serving(str(folder), "--zip") as url:
        assert '<a href="?zip"' in get(url)[2].decode()
        _, headers, body = get(url + "?zip")
        assert headers["Content-Type"] == "application/zip"
        assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''files.zip"
        assert int(headers["Content-Length"]) == len(body)
        assert str(folder).encode() not in body
        assert b"secret" not in body
        with zipfile.ZipFile(io.BytesIO(body)) as packed:
            assert packed.testzip() is None
            names = packed.namelist()
            assert {name for name in names if "odd" not in name} == SERVED
            assert sum("odd" in name for name in names) == 1
            assert packed.read("files/data.bin") == (folder / "data.bin").read_bytes()
            assert packed.read("files/sub/a_.._evil") == b"backslashes"
            when = time.localtime((folder / "data.bin").stat().st_mtime)
            then = packed.getinfo("files/data.bin").date_time
            assert then == (*when[:5], min(when[5], 59) // 2 * 2)
        # The name of a directory below is the name of its archive.
        _, headers, body = get(url + "sub/%C3%A9/?zip")
        assert headers["Content-Disposition"].endswith("''%C3%A9.zip")
        assert zipfile.ZipFile(io.BytesIO(body)).namelist() == []
        code, headers, body = get(url + "?zip", "HEAD")
        assert (code, body, headers["Accept-Ranges"]) == (200, b"", "bytes")
        assert not_modified(url + "?zip", headers["ETag"])
        (folder / "empty").write_text("not any more")
        assert not not_modified(url + "?zip", headers["ETag"])


def test_no_zip_without_the_option(folder: Path) -> None:
    with serving(str(folder)) as url:
        assert "?zip" not in get(url)[2].decode()
        assert get(url + "?zip")[1]["Content-Type"].startswith("text/html")
        assert links(url + "?zip") == links(url)


def test_zip_of_one_of_several(folder: Path) -> None:
    """Each directory has its own. A query is no way out of it."""
    with serving(str(folder), str(folder / "data.bin"), "--zip", "--hidden") as url:
        body = get(url + "site/sub/?zip")[2]
        names = zipfile.ZipFile(io.BytesIO(body)).namelist()
        assert "sub/.git/config" in names
        assert all(name.startswith("sub/") for name in names)
        assert get(url + "site/?zip")[1]["Content-Disposition"].endswith("''site.zip")
        assert raw(url, b"/site/../?zip") == 404


@pytest.mark.parametrize("tool", ["unzip", "bsdtar", "7z", "jar"])
def test_other_tools(folder: Path, tmp_path: Path, tool: str) -> None:
    """They unpack the same files."""
    command = needed(tool)
    (folder / "sub" / os.fsdecode(b"odd \xff")).unlink()
    (tmp_path / "got").mkdir()
    app = webtest.TestApp(directory_app(str(folder), zips=True))
    (tmp_path / "got.zip").write_bytes(app.get("/?zip").body)
    options = {"unzip": ["-q"], "bsdtar": ["-xf"], "7z": ["x"], "jar": ["xf"]}[tool]
    subprocess.run([command, *options, "../got.zip"], cwd=tmp_path / "got", check=True)
    unpacked = tmp_path / "got" / "files"
    assert (unpacked / "data.bin").read_bytes() == (folder / "data.bin").read_bytes()
    assert (unpacked / "sub" / "deep" / "song.ogg").read_bytes() == b"song" * 1000
    assert (unpacked / "sub" / "é").is_dir()


def test_ranges(folder: Path) -> None:
    """Any part is the same bytes as in the whole, also if no checksum is known yet."""
    app = webtest.TestApp(directory_app(str(folder), zips=True))
    whole = app.get("/?zip")
    length = len(whole.body)
    step = 7919
    cuts = sorted({*range(0, length, step), 1, 29, 30, 31, 36, 37, length - 1, length - 22})
    for start in cuts:
        archive._checksums.clear()
        stop = min(length, start + step)
        part = app.get("/?zip", headers={"Range": f"bytes={start}-{stop - 1}"}, status=206)
        assert part.body == whole.body[start:stop], start
        assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{length}"
    # Each cut through the first 300 bytes and the last 300, which are headers and directories.
    made = Archive(download._members(*everything(folder), "files/"))
    for start in (*range(300), *range(length - 300, length)):
        assert b"".join(made.read(start, start + 5)) == whole.body[start : start + 5]
    tag = whole.headers["ETag"]
    for headers, status in (
        ({"Range": "bytes=5-", "If-Range": tag}, 206),
        ({"Range": "bytes=5-", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=-5"}, 206),
        ({"Range": "bytes=0-1,1000-1001"}, 200),
        ({"Range": "lines=0-1"}, 200),
        ({"Range": f"bytes={length}-"}, 416),
        ({"If-Match": '"other"'}, 412),
        ({"If-None-Match": tag}, 304),
    ):
        answer = app.get("/?zip", headers=headers, status=status)
        assert answer.headers["ETag"] == tag
    app.head("/?zip", headers={"Range": "bytes=5-"}, status=200)


def everything(folder: Path) -> tuple[Site, tuple[str, str]]:
    site = Site(str(folder), False, False)
    return site, site.find("/")


def test_curl_resumes_a_zip(folder: Path, tmp_path: Path) -> None:
    """A download that was cut off goes on where it stopped, and the archive is whole then."""
    curl = needed("curl")
    (folder / "film").write_bytes(os.urandom(20_000_000))
    part, log = tmp_path / "part", tmp_path / "log"
    with serving(str(folder), "--zip", log=log) as url:
        with urllib.request.urlopen(url + "?zip", timeout=20) as answer:
            part.write_bytes(answer.read(1_000_000))
        subprocess.run([curl, "--fail", "-sC", "-", "-o", str(part), url + "?zip"], check=True)
        lines = [line for line in logged(log, 2) if line[1] == "206"]
    assert int(lines[0][2]) == part.stat().st_size - 1_000_000
    with zipfile.ZipFile(part) as packed:
        assert packed.testzip() is None
        assert packed.read("files/film") == (folder / "film").read_bytes()


@pytest.mark.parametrize("change", ["longer", "newer", "gone", "shorter"])
def test_file_that_changes_meanwhile(site: Path, change: str) -> None:
    """The download breaks off. It never looks whole."""
    (site / "data.bin").write_bytes(bytes(2_000_000))
    blocks = Archive(download._members(*everything(site), "files/")).read(0, 1 << 30)
    got = next(blocks)
    while change == "shorter" and len(got) < 300_000:
        got += next(blocks)
    if change == "longer":
        with (site / "data.bin").open("ab") as file:
            file.write(b"more")
    elif change == "shorter":
        os.truncate(site / "data.bin", 1_000_000)
    elif change == "newer":
        os.utime(site / "data.bin", (1, 1))
    else:
        (site / "data.bin").unlink()
    with pytest.raises(OSError, match="changed|shorter|No such file"):
        for _ in blocks:
            pass


def test_broken_zip_is_no_whole_one(site: Path, tmp_path: Path) -> None:
    """The client of such a download gets fewer bytes than were promised."""
    (site / "data.bin").write_bytes(bytes(5_000_000))
    os.chmod(site / "data.bin", 0o600)
    log = tmp_path / "log"
    module = tmp_path / "module.py"
    module.write_text(
        "import os\nfrom wsgifile.cli.directory import directory_app\n"
        f"inner = directory_app({str(site)!r}, zips=True)\n"
        "def app(environ, start_response):\n"
        "    body = inner(environ, start_response)\n"
        f"    os.truncate({str(site / 'data.bin')!r}, 10)\n"
        "    return body\n"
    )
    with serving("module:app", cwd=tmp_path, log=log) as url:
        answer = ask(url, b"/?zip")
        header, _, body = answer.partition(b"\r\n\r\n")
        assert b"200 OK" in header
        assert len(body) < int(header.lower().split(b"content-length: ")[1].split()[0])
    assert "a file has changed while an archive of it was sent" in log.read_text()


def test_what_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out. Otherwise the archive would break off there each time."""
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith("data.bin"))
    opened = open_below

    def refused(root: str, name: str, wanted: object) -> int | str:
        if name.endswith("deep"):
            raise PermissionError
        return opened(root, name, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(download, "open_below", refused)
    app = webtest.TestApp(directory_app(str(folder), zips=True))
    names = set(zipfile.ZipFile(io.BytesIO(app.get("/?zip").body)).namelist())
    assert "files/sub/deep/" in names
    left_out = {"files/data.bin", "files/inner", "files/sub/deep/song.ogg"}
    assert SERVED - names == left_out


@pytest.mark.parametrize(("option", "threads"), [("--zip", 32), ("--quiet", 4)])
def test_threads(option: str, threads: int) -> None:
    """Each slow download of an archive has a thread to itself. A few leave threads for others."""
    args = make_parser().parse_args([option])
    server: Any = over_waitress(lambda *_: [], args, 0, files=True)
    try:
        assert len(server._server.task_dispatcher.threads) == threads
    finally:
        server._server.task_dispatcher.shutdown()
        server._server.close()


def test_directory_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused. An empty archive would look as if there were nothing."""

    def refused(*_: object) -> int | str:
        raise PermissionError

    monkeypatch.setattr(download, "open_below", refused)
    webtest.TestApp(directory_app(str(folder), zips=True)).get("/?zip", status=403)


def test_deep_directories(tmp_path: Path) -> None:
    """There may be more of them than functions of Python that call each other."""
    made = [str(tmp_path) + "/d" * depth for depth in range(1, 1200)]
    try:
        for each in made:
            os.mkdir(each)
        app = webtest.TestApp(directory_app(str(tmp_path), zips=True))
        with zipfile.ZipFile(io.BytesIO(app.get("/?zip").body)) as packed:
            assert len(packed.namelist()) == len(made)
    finally:  # What removes the directories of tests calls itself for each level, too.
        for each in filter(os.path.isdir, reversed(made)):
            os.rmdir(each)


def test_names_that_become_one(tmp_path: Path) -> None:
    """Without backslashes, each still has a name of its own. Otherwise one would be lost."""
    for name in ("a\\b", "a_b", "a\\b_", "\\d", "_d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    app = webtest.TestApp(directory_app(str(tmp_path), zips=True))
    with zipfile.ZipFile(io.BytesIO(app.get("/?zip").body)) as packed:
        files = [name for name in packed.namelist() if name.endswith("file")]
        assert len(set(files)) == 5
        assert {packed.read(name) for name in files} == {
            name.encode() for name in os.listdir(tmp_path)
        }
        assert not any("\\" in name for name in files)


def test_without_descriptors_of_directories(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgifile.cli.site._BY_DESCRIPTOR", False)
    app = webtest.TestApp(directory_app(str(folder), zips=True))
    assert zipfile.ZipFile(io.BytesIO(app.get("/?zip").body)).testzip() is None


def test_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_MOST", 5)
    (folder / "more").touch()
    app = webtest.TestApp(directory_app(str(folder), zips=True))
    assert "more than 5 files and directories" in app.get("/?zip", status=403).text


def test_checksums_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MOST_CHECKSUMS", 2)
    app = webtest.TestApp(directory_app(str(folder), zips=True))
    assert zipfile.ZipFile(io.BytesIO(app.get("/?zip").body)).testzip() is None
    assert len(archive._checksums) <= 2


def test_checksums_at_once(folder: Path) -> None:
    """Few, because a request for the end costs a client nothing, but may read many files."""
    app = webtest.TestApp(directory_app(str(folder), zips=True))
    end = {"Range": "bytes=-1"}
    with archive._reading, archive._reading:
        assert app.get("/?zip", headers=end, status=503).headers["Retry-After"] == "30"
        whole = app.get("/?zip").body
        # Now they are known.
        assert app.get("/?zip", headers=end, status=206).body == whole[-1:]
    archive._checksums.clear()
    assert app.get("/?zip", headers=end, status=206).body == whole[-1:]


class InArchive(io.RawIOBase):
    """An archive as a file, of which only the parts are made that are read."""

    def __init__(self, made: Archive) -> None:
        self._made, self._at = made, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._made.length)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._made.length if size < 0 else min(self._made.length, self._at + size)
        data = b"".join(self._made.read(self._at, stop))
        self._at += len(data)
        return data


def test_zip64_of_large_files(tmp_path: Path) -> None:
    """A file of 4 GiB and more, and what comes after it."""
    size = (4 << 30) + 5
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", size)
    (tmp_path / "small").write_text("small")
    os.utime(tmp_path / "large", (1, 1))
    # Reading it would take seconds.
    archive._checksums[str(tmp_path / "large"), size, 1.0] = 1234
    made = Archive(download._members(*everything(tmp_path), "files/"))
    with zipfile.ZipFile(InArchive(made)) as packed:
        large, small = packed.infolist()
        assert (large.file_size, large.compress_size, large.CRC) == (size, size, 1234)
        assert large.date_time == (1980, 1, 1, 0, 0, 0)
        assert small.header_offset > size
        assert packed.read("files/small") == b"small"
        with packed.open("files/large") as file:
            assert file.read(10) == bytes(10)
    # Its descriptor has 64 bits for each size.
    end = made._entries[0].end
    expected = b"PK\7\x08" + (1234).to_bytes(4, "little") + size.to_bytes(8, "little") * 2
    assert b"".join(made.read(end - 24, end)) == expected


def test_zip64_of_many_files() -> None:
    made = Archive(Member(f"d/{number}/", "", None, 0, 1e9) for number in range(70_000))
    data = b"".join(made.read(0, made.length))
    assert len(data) == made.length
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert len(packed.namelist()) == 70_000


@pytest.mark.parametrize("mtime", [1e20, -1e20, -1.0, 5e9 * 10])
def test_dates_that_zip_has_not(mtime: float) -> None:
    made = Archive([Member("d/", "", None, 0, mtime)])
    with zipfile.ZipFile(io.BytesIO(b"".join(made.read(0, made.length)))) as packed:
        assert packed.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)
