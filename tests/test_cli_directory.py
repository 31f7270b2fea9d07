"""Directories, as the command line serves them."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("webtest")

import webtest
from command_line import COMMAND, ask, get, links, raw, serving, started
from test_clients import needed

from wsgifile.cli import directory
from wsgifile.cli import site as site_module
from wsgifile.cli.directory import directory_app
from wsgifile.cli.site import open_below


def test_directory(site: Path) -> None:
    with serving(str(site)) as url:
        assert get(url + "data.bin")[2] == (site / "data.bin").read_bytes()
        assert get(url + "data.bin", Range="bytes=5-9")[0] == 206
        assert get(url + "empty")[2] == b""
        assert get(url + "page/")[2] == b"<p>index"
        status, headers, _ = get(url + "data.bin", method="HEAD")
        assert (status, headers["Content-Length"]) == (200, "300000")
        # Not as a tar file with Content-Encoding: gzip, which the browser would undo.
        _, headers, body = get(url + "pack.tar.gz")
        assert headers["Content-Type"] == "application/gzip"
        assert headers["Content-Encoding"] is None
        assert body == (site / "pack.tar.gz").read_bytes()


def test_nothing_outside(site: Path) -> None:
    """No path leads to a file, a listing or an index.html outside the directory."""
    with serving(str(site), "--hidden", "--follow-symlinks") as url:
        for target in (
            b"/../secret",
            b"/../",
            b"/..",
            b"/%2e%2e/",
            b"/sub/../../",
            b"//../secret",
            b"/..%2fsecret",
            b"/%2e%2e%2fsecret",
            b"/sub/%2e%2e/%2E%2E/secret",
            b"/%252e%252e/secret",
            b"/..%252fsecret",
            b"/..%5csecret",
            b"/..\\secret",
            b"/%c0%ae%c0%ae/secret",
            b"/%c0%ae%c0%ae%c0%afsecret",
            b"/%uff0e%uff0e/secret",
            b"/../secret%00",
            b"/..;/secret",
            b"/../site/../secret",
            b"/../site/data.bin/../../secret",
        ):
            assert raw(url, target) in (400, 404), target
        for target in (
            b"/%ff",
            b"/%00",
            b"/data.bin%00",
            b"/data.bin%00.txt",
            b"/nosuch",
            b"/data.bin/",
            b"/data.bin/x",
            b"/" + b"a" * 5000,
            b"/a" * 5000,
        ):
            assert raw(url, target) == 404, target
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(url, method="DELETE")
        assert caught.value.code == 405
        caught.value.close()


def test_directory_of_the_same_beginning(site: Path) -> None:
    """A directory next to it whose name only begins with the same letters is outside."""
    beside = site.with_name("site2")
    beside.mkdir()
    (beside / "file").write_text("secret")
    (site / "link").symlink_to(beside / "file")
    with serving(str(site)) as url:
        assert raw(url, b"/../site2/file") == 404
        assert raw(url, b"/link") == 404


def test_hidden(site: Path) -> None:
    """Names that begin with a dot, and all below them, are 404, also if a link renames them."""
    (site / ".env").write_text("secret")
    (site / ".git").mkdir()
    (site / ".git" / "config").write_text("secret")
    (site / "sub" / ".x").write_text("secret")
    (site / "public").symlink_to(".git")
    (site / "index").symlink_to(".env")
    (site / "page" / "index.html").unlink()
    (site / "page" / "index.html").symlink_to("../.env")
    with serving(str(site)) as url:
        assert raw(url, b"/") == 200
        assert links(url) == ["page/", "sub/", "data.bin", "empty", "pack.tar.gz"]
        for target in (
            b"/.env",
            b"/%2eenv",
            b"/sub/../.env",
            b"/.git",
            b"/.git/",
            b"/.git/config",
            b"/sub/.x",
            b"/public/",
            b"/public/config",
            b"/index",
            b"/page/index.html",
        ):
            assert raw(url, target) == 404, target
        assert links(url + "page/") == ["../"]
    with serving(str(site), "--hidden") as url:
        assert {".git/", "public/", ".env", "index"} < set(links(url))
        for name in (".env", ".git/config", "public/config", "index", "page/"):
            assert get(url + name)[2] == b"secret"


def test_hidden_directory(tmp_path: Path) -> None:
    """A hidden directory or file is served if the command line names it."""
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / ".file").write_text("x")
    (tmp_path / ".hidden" / "file").write_text("x")
    with serving(str(tmp_path / ".hidden")) as url:
        assert get(url + "file")[2] == b"x"
        assert raw(url, b"/.file") == 404
    with serving(str(tmp_path / ".hidden" / ".file")) as url:
        assert get(url)[2] == b"x"


def test_symbolic_links(site: Path) -> None:
    """Links that lead out of the directory, or to nothing, are not listed and are 404."""
    (site / "inner").symlink_to("data.bin")
    (site / "inner.d").symlink_to("sub")
    (site / "absolute").symlink_to(site / "sub" / ".." / "data.bin")
    (site / "outer").symlink_to("../secret")
    (site / "outer.d").symlink_to("..")
    (site / "outer.d2").symlink_to("sub/up")
    (site / "sub" / "up").symlink_to(site.parent)
    (site / "broken").symlink_to("nosuch")
    (site / "loop").symlink_to("loop")
    (site / "page" / "index.html").unlink()
    (site / "page" / "index.html").symlink_to("../../index.html")
    within = ["inner.d/", "page/", "sub/", "absolute", "data.bin", "empty", "inner"]
    with serving(str(site)) as url:
        assert links(url) == [*within, "pack.tar.gz"]
        data = (site / "data.bin").read_bytes()
        assert get(url + "inner")[2] == get(url + "absolute")[2] == data
        assert get(url + "inner.d/" + links(url + "inner.d/")[1])[2] == b"odd"
        assert links(url + "page/") == ["../"]
        for name in ("outer", "outer.d/", "outer.d/secret", "outer.d2/", "sub/up/secret"):
            assert raw(url, b"/" + name.encode()) == 404
        for target in (b"/broken", b"/loop", b"/loop/", b"/page/index.html", b"/sub/up"):
            assert raw(url, target) == 404, target
    with serving(str(site), "--follow-symlinks") as url:
        assert {"outer", "outer.d/"} < set(links(url))
        assert not {"broken", "loop"} & set(links(url))
        assert get(url + "outer")[2] == get(url + "sub/up/secret")[2] == b"secret file"
        assert get(url + "page/")[2] == get(url + "outer.d/")[2] == b"secret index"
        assert raw(url, b"/loop") == 404


def test_hidden_by_another_name(site: Path) -> None:
    """--follow-symlinks follows links out of the directory, but not links to hidden names."""
    (site / ".git").mkdir()
    (site / ".git" / "config").write_text("of git")
    (site / "public").symlink_to(".git")
    (site / "sub" / "index.html").symlink_to("../.git/config")
    with serving(str(site), "--follow-symlinks") as url:
        assert raw(url, b"/public/config") == raw(url, b"/public/") == 404
        assert b"of git" not in get(url + "sub/")[2]
        assert b"public" not in get(url)[2]


def test_directory_that_is_a_link(site: Path) -> None:
    """If the directory is a link, the link may be changed while it is served."""
    current = site.parent / "current"
    current.symlink_to("site")
    new = site.parent / "new"
    new.mkdir()
    (new / "data.bin").write_text("new")
    with serving(str(current)) as url:
        assert get(url + "data.bin")[2] == (site / "data.bin").read_bytes()
        current.unlink()
        current.symlink_to("new")
        assert get(url + "data.bin")[2] == b"new"


def test_directory_that_becomes_a_link(site: Path) -> None:
    """A link that replaces a directory between the check and open() is not followed."""
    (site.parent / "outside").mkdir()
    for name in ("outside", "site/real"):
        (site.parent / name).mkdir(exist_ok=True)
        (site.parent / name / "file").write_text("secret" if name == "outside" else "real")
    (site / "link").symlink_to(site.parent / "outside")
    statuses: set[int] = set()
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            for name in ("real", "link"):
                with suppress(OSError):
                    os.rename(site / "here", site / "last")
                os.rename(site / name, site / "here")
                time.sleep(0)
                os.rename(site / "here", site / name)

    thread = threading.Thread(target=change)
    with serving(str(site), "--quiet") as url:
        thread.start()
        try:
            began = time.monotonic()
            # For 3 seconds, and on a busy machine until it has been there and not there.
            while time.monotonic() < began + (3 if {200, 404} <= statuses else 20):
                statuses.add(raw(url, b"/here/file"))
                statuses.add(raw(url, b"/here/"))
        finally:
            ended.set()
            thread.join()
    assert statuses == {200, 404}


def test_neither_file_nor_directory(site: Path) -> None:
    """Pipes and sockets are not opened: a pipe could block, and its writer would notice."""
    os.mkfifo(site / "fifo")
    with socket.socket(socket.AF_UNIX) as sock, serving(str(site)) as url:
        sock.bind(str(site / "sock"))
        assert not {"fifo", "sock"} & set(links(url))
        for _ in range(6):  # More often than there are threads.
            assert raw(url, b"/fifo") == raw(url, b"/sock") == raw(url, b"/fifo/") == 404
        # The server has not opened it: a writer finds no reader.
        with pytest.raises(OSError, match="No such device or address"):
            os.open(site / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        code = f"open({str(site / 'fifo')!r}, 'wb').write(b'x')"
        with subprocess.Popen([sys.executable, "-c", code]) as writer:
            try:
                for _ in range(20):
                    assert raw(url, b"/fifo") == 404
                    time.sleep(0.05)
                assert writer.poll() is None
            finally:
                writer.kill()


def test_not_to_be_read(site: Path) -> None:
    """Without permission the answer is 403.

    Files in a directory that may be entered but not listed are served.
    """
    (site / "data.bin").chmod(0)
    (site / "sub").chmod(0o100)
    (site / "page").chmod(0o100)
    command = [*as_nobody(), *COMMAND]
    done = subprocess.run([*command, "data.bin"], cwd=site, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "wsgifile: no permission to read data.bin\n")
    (site / "empty.d").mkdir(0)
    done = subprocess.run([*command, "empty.d"], cwd=site, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "wsgifile: no permission to read empty.d\n")
    try:
        with started(*command, str(site), "--port", "0", "--quiet") as (_, line):
            url = line.split()[-1]
            assert raw(url, b"/data.bin") == raw(url, b"/sub/") == 403
            assert get(url + "page/")[2] == b"<p>index"
            assert get(url + "sub/a%3Ab%20%3Ci%3E%26%2541%3F%23.txt")[2] == b"odd"
    finally:
        (site / "sub").chmod(0o700)
        (site / "page").chmod(0o700)


def as_nobody() -> list[str]:
    """The beginning of a command that must not run as root, who may read everything."""
    if os.geteuid():
        return []
    return [needed("unshare"), "--user", "--map-user=65534", "--map-group=65534"]


def test_no_descriptor_left(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no descriptor is left, that is an error and not a 404: the file does exist."""

    def no_more(*args: object, **kwargs: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    app = webtest.TestApp(directory_app(str(site)))
    monkeypatch.setattr(directory, "open_below", no_more)
    with pytest.raises(OSError, match="Too many open files"):
        app.get("/data.bin")


def test_without_descriptors_of_directories(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system cannot open relative to a directory, as on Windows, paths are used."""
    monkeypatch.setattr(site_module, "_BY_DESCRIPTOR", False)
    app = webtest.TestApp(directory_app(str(site)))
    assert app.get("/data.bin").body == (site / "data.bin").read_bytes()
    assert "data.bin" in app.get("/").text
    app.get("/sub/nosuch", status=404)
    os.mkfifo(site / "fifo")
    app.get("/fifo", status=404)


def test_forbidden(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_for_us(*args: object, **kwargs: object) -> int:
        raise PermissionError

    app = webtest.TestApp(directory_app(str(site)))
    monkeypatch.setattr(directory, "open_below", not_for_us)
    app.get("/data.bin", status=403)


def test_another_kind_of_file_by_now(site: Path) -> None:
    """Something that has replaced the file since the check is closed again."""
    held = len(os.listdir("/proc/self/fd"))
    answers = iter([True, False])
    with pytest.raises(FileNotFoundError):
        open_below(str(site), "data.bin", lambda mode: next(answers))
    assert len(os.listdir("/proc/self/fd")) == held


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system has no /proc")
def test_descriptors(site: Path) -> None:
    """No descriptor stays open, whatever is requested."""
    (site / "outer").symlink_to("../secret")
    os.mkfifo(site / "fifo")
    with started(*COMMAND, str(site), "--port", "0", "--quiet") as (process, line):
        url = line.split()[-1]
        held = f"/proc/{process.pid}/fd"
        before = len(os.listdir(held))
        for path in ("", "sub/", "sub", "data.bin", "data.bin/", "data.bin/x", "fifo", "outer"):
            for method in (b"GET", b"HEAD", b"POST"):
                ask(url, b"/" + path.encode(), method)
        deadline = time.monotonic() + 10  # The last connection may take a moment to end.
        while len(os.listdir(held)) > before:
            assert time.monotonic() < deadline, os.listdir(held)
            time.sleep(0.05)


def test_no_sniffing(site: Path) -> None:
    """Every answer says nosniff, so no other site can use a data file as a script."""
    with serving(str(site)) as url:
        for name in ("data.bin", "page/"):
            assert get(url + name)[1]["X-Content-Type-Options"] == "nosniff"


def test_moved(site: Path) -> None:
    """A directory without its slash redirects, relative to the request.

    So it stays on the same host, whatever Host the client sends. Odd characters are quoted.
    """
    with serving(str(site)) as url:
        for target, location in (
            (b"/sub", b"./sub/"),
            (b"/sub?sort=size", b"./sub/?sort=size"),
            (b"//sub?a=\x1b<\xe9>", b"./sub/?a=%1B%3C%E9%3E"),
        ):
            answer = ask(url, target)
            assert answer.startswith(b"HTTP/1.0 301 ")
            assert b"\r\nLocation: " + location + b"\r\n" in answer
            # The next directory that is served there may have a file of that name.
            assert b"\r\nCache-Control: no-cache\r\n" in answer
