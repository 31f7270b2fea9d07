"""Requests to the command line that could cost too much, or show too much."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("webtest")

import webtest
from command_line import ask, get, links, raw, serving

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
