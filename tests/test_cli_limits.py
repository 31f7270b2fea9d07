"""Requests to the command line that could cost too much, or show too much."""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("webtest")

import webtest
from command_line import address, ask, get, links, raw, serving

from wsgifile.cli import directory
from wsgifile.cli.directory import directory_app, file_app


def cpu_seconds(app: webtest.TestApp, path: str, status: int) -> float:
    """The processor time of a request."""
    environ = {"PATH_INFO": path}
    began = time.process_time()
    app.get("/", extra_environ=environ, status=status)
    return time.process_time() - began


@pytest.mark.parametrize("part", ["/a", "/sub/..", "/.", "/", "/..", "/é"])
def test_long_paths(site: Path, part: str) -> None:
    """A path longer than PATH_MAX is 404 at once. The time used to grow with its square."""
    path = part * (240_000 // len(part))
    for app in (directory_app(str(site), hidden=True), file_app(str(site / "data.bin"))):
        assert cpu_seconds(webtest.TestApp(app), path, 404) < 0.5


def test_longest_path(site: Path) -> None:
    """A path of 4095 bytes is looked up, and one of 4096 bytes is not."""
    app = webtest.TestApp(directory_app(str(site)))
    end = "/data.bin"
    for length, status in ((4095, 200), (4096, 404)):
        path = ("/sub/.." * 600)[: (length - len(end)) // 7 * 7]
        path = "/" * (length - len(end) - len(path)) + path + end
        assert len(path) == length
        app.get("/", extra_environ={"PATH_INFO": path}, status=status)


@pytest.mark.parametrize("options", [[], ["--hidden"]])
def test_hidden_targets_outside(site: Path, options: list[str]) -> None:
    """--follow-symlinks serves hidden files outside the directory only with --hidden."""
    home = site.parent / "home"
    (home / ".ssh" / "keys").mkdir(parents=True)
    (home / "public").mkdir()
    (home / ".ssh" / "keys" / "key").write_text("a key")
    (home / "public" / ".env").write_text("a password")
    (home / "public" / "file").write_text("public")
    (home / "renamed").symlink_to(".ssh")
    for name, target in {
        "key": ".ssh/keys/key",
        "keys": ".ssh/keys",
        "ssh": ".ssh",
        "indirect": "renamed/keys/key",
        "env": "public/.env",
        "public": "public",
    }.items():
        (site / "sub" / name).symlink_to(home / target)
    hidden = {"sub/key", "sub/keys/key", "sub/ssh/keys/key", "sub/indirect"}
    with serving(str(site), "--follow-symlinks", *options) as url:
        assert get(url + "sub/public/file")[2] == b"public"
        listed = {link.partition("?")[0] for link in links(url + "sub/")}
        names = {"key", "keys/", "ssh/", "indirect", "env"}
        if options:
            assert names < listed
            for path in hidden:
                assert get(url + path)[2] == b"a key"
            assert get(url + "sub/env")[2] == get(url + "sub/public/.env")[2] == b"a password"
        else:
            assert not names & listed
            for path in (*hidden, "sub/keys/", "sub/ssh/", "sub/keys", "sub/env"):
                assert raw(url, b"/" + path.encode()) == 404, path
            assert raw(url, b"/sub/public/.env") == 404
            assert "public/" in listed


def test_type_of_a_file(site: Path) -> None:
    """The type comes from the file's name. The path before it cannot look like a data: URL."""
    odd = "data:text,name.bin"
    (site / odd).write_text("<script>")
    (site / "page.html").write_text("a page")
    with serving(str(site)) as url:
        for target in (
            "x:data:text/html,/../../data.bin",
            "data:text/html,/../../data.bin",
            "/data:text/html,/../../data.bin",
            "/x.html/../data.bin",
            "/sub/../data.bin/.",
            "/" + odd,
        ):
            answer = ask(url, target.encode())
            assert b"Content-Type: application/octet-stream\r\n" in answer, target
        for target in ("/page.html", "/page.html/x.bin/.."):
            assert b"Content-Type: text/html; charset=utf-8\r\n" in ask(url, target.encode())


def rows(answer: Any) -> list[str]:
    """The links of a listing, without the one to the directory above."""
    return re.findall(r'<tr><td><a href="((?!\.\.)[^"]*)"', answer.text)


def links_to_pages(answer: Any) -> list[str]:
    return re.findall(r'<a href="([^"]*)">(?:First|Previous|Next|Last)<', answer.text)


def test_large_directory(site: Path) -> None:
    """A page has 2,000 entries. Their number says how much is listed, not how much there is."""
    for number in range(11_000):
        (site / "sub" / f"{number:05}").touch()
    app = webtest.TestApp(directory_app(str(site)))
    names: list[str] = []
    for number in range(1, 7):
        answer = app.get(f"/sub/?sort=name&page={number}")
        assert len(rows(answer)) == (2000 if number < 6 else 1001)
        assert f"Page {number} of 6" in answer.text
        assert "Names: 11,001. There are too many to sort by size or date." in answer.text
        names += rows(answer)
    assert len(set(names)) == len(names) == 11_001
    assert names == sorted(names)
    # It says so of the sizes, instead of a wrong order.
    assert rows(app.get("/sub/?sort=-size"))[:2] == ["00000", "00001"]
    assert "?sort=-size" not in app.get("/sub/?sort=-size").text
    assert rows(app.get("/sub/?sort=-name"))[:2] == [names[-1], names[-2]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 3 entries, 7 of which can be sorted, and 9 listed."""
    for name, value in (("_PAGE", 3), ("_SORTED", 7), ("_MOST", 9)):
        monkeypatch.setattr(directory, name, value)


@pytest.mark.usefixtures("small")
def test_pages(tmp_path: Path) -> None:
    """The pages have one order, and link to each other."""
    for number in range(7):
        (tmp_path / f"{number}").write_bytes(bytes(number))
    app = webtest.TestApp(directory_app(str(tmp_path)))
    expected = {
        1: (["6", "5", "4"], [2, 3]),
        2: (["3", "2", "1"], [1, 1, 3, 3]),
        3: (["0"], [1, 2]),
    }
    for number, (names, others) in expected.items():
        answer = app.get(f"/?sort=-size&page={number}")
        assert rows(answer) == names
        assert links_to_pages(answer) == [f"?sort=-size&amp;page={to}" for to in others] * 2
        assert "Directories: 0. Files: 7, 21 B." in answer.text
    for page, number in (("0", 1), ("-1", 1), ("x", 1), ("9", 3), ("9" * 500, 1), ("", 1)):
        assert rows(app.get(f"/?sort=-size&page={page}")) == expected[number][0], page
    # What comes after the first 1,000 bytes of the query does not count.
    assert rows(app.get("/?" + "&" * 1000 + "sort=-size"))[0] == "0"
    for name in ("3", "4", "5", "6"):
        (tmp_path / name).unlink()
    answer = app.get("/")
    assert rows(answer) == ["0", "1", "2"]
    assert links_to_pages(answer) == []
    assert "Page" not in answer.text


@pytest.mark.usefixtures("small")
def test_more_than_is_listed(tmp_path: Path) -> None:
    """Only some of a very large directory is listed, and the page says so. All is served."""
    for number in range(12):
        (tmp_path / f"{number:02}").touch()
    app = webtest.TestApp(directory_app(str(tmp_path)))
    listed = [name for page in (1, 2, 3) for name in rows(app.get(f"/?page={page}"))]
    assert len(set(listed)) == len(listed) == 9
    assert "This is not all: only 9 names of a directory are read." in app.get("/").text
    for number in range(12):
        app.get(f"/{number:02}", status=200)
        (tmp_path / f"{number:02}").rename(tmp_path / f".{number:02}")
    assert "Files: 0, 0 B. This is not all" in app.get("/").text


@pytest.mark.usefixtures("small")
def test_what_is_not_served_in_a_large_directory(site: Path) -> None:
    """It is not listed there, though only the page's entries are looked at."""
    (site / "out").symlink_to("../secret")
    (site / "in").symlink_to("sub")
    os.mkfifo(site / "fifo")
    (site / ".hidden").touch()
    (site / "zip").touch()
    (site / "empty").unlink()
    app = webtest.TestApp(directory_app(str(site)))
    listed = [name for page in (1, 2, 3) for name in rows(app.get(f"/?page={page}"))]
    assert listed == ["page/", "sub/", "data.bin", "in/", "pack.tar.gz", "zip"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("query", ["", "?sort=-date", "?page=2"])
def test_validator_of_the_listing(
    tmp_path: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """304 exactly if the page is the same. The page is not made for it."""
    for number in range(6):
        (tmp_path / f"{number}").touch()
        os.utime(tmp_path / f"{number}", (0, 0))
    app = webtest.TestApp(directory_app(str(tmp_path)))
    shown = "4" if "page" in query else "1"

    def resize() -> None:
        (tmp_path / shown).write_bytes(b"12")
        os.utime(tmp_path / shown, (0, 0))

    seen = {app.get("/" + query).text: app.get("/" + query).headers["ETag"]}
    for change in (
        resize,
        lambda: os.utime(tmp_path / shown, (1, 1)),
        lambda: (tmp_path / shown).rename(tmp_path / f"{shown}x"),
        (tmp_path / "new").touch,
        (tmp_path / "a").mkdir,
        (tmp_path / "b").touch,  # There are now more than are sorted.
        lambda: (tmp_path / "b").unlink(),
    ):
        before = app.get("/" + query)
        tag = {"If-None-Match": before.headers["ETag"]}
        with monkeypatch.context() as patch:
            patch.delattr("wsgifile.cli.listing.Listing.page")
            app.get("/" + query, headers=tag, status=304)
        change()
        after = app.get("/" + query)
        same = after.text == before.text
        assert app.get("/" + query, headers=tag).status_int == (304 if same else 200)
        assert seen.setdefault(after.text, after.headers["ETag"]) == after.headers["ETag"]
    assert len(set(seen.values())) == len(seen) > 4


@pytest.mark.parametrize("path", ["/sub/../", "/./././", "//", "/sub/.././/"])
def test_path_that_is_shown(site: Path, path: str) -> None:
    """It is the directory's own. /./././ would be links to ../../../ and so on."""
    answer = webtest.TestApp(directory_app(str(site))).get("/", extra_environ={"PATH_INFO": path})
    assert "<title>Index of /</title>" in answer.text
    assert '<span aria-current="page">/</span></h1>' in answer.text
    assert '"../' not in answer.text


APP = """
import os
import resource

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answered"]
"""


def test_many_descriptors(tmp_path: Path) -> None:
    """Clients can have that many files opened. select() fails with a descriptor above 1023."""
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200:
        pytest.skip("this process must not have so many")
    (tmp_path / "module.py").write_text(APP)
    with serving("module:app", cwd=tmp_path) as url:
        assert get(url)[2] == b"answered"


def test_many_connections(site: Path) -> None:
    """As many as waitress takes by default are idle. Others are answered."""
    with serving(str(site)) as url, ExitStack() as stack:
        for _ in range(120):
            stack.enter_context(socket.create_connection(address(url), 20))
        assert get(url + "empty")[0] == 200
