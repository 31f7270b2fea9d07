"""The documentation builds without warnings, and its examples and commands run."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import DOCS, ROOT, blocks, commands, sections
from ports import free_port, running, serving

import wsgifile
from wsgifile.registry import SERVERS

GUIDES = sorted((DOCS / "guide").glob("*.rst"))
PAGES = [ROOT / "README.rst", *sorted(DOCS.rglob("*.rst"))]
DATA = bytes(range(256)) * 1200
#: The sender that waitress uses for a file of more than 64 KiB.
FAST = "wsgi.file_wrapper"


def test_build(tmp_path: Path) -> None:
    """Sphinx builds the documentation, with warnings as errors."""
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html"]
    command += ["-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "FileWrapperMiddleware" in (tmp_path / "html/api.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_compiles(page: Path) -> None:
    text = page.read_text()
    # Every block of the page is found.
    assert text.count("code-block:: python") == len(list(blocks(text)))
    for caption, code in blocks(text):
        compile(code, caption or str(page), "exec")


@pytest.fixture(params=GUIDES, ids=lambda page: page.stem)
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory with the files that a guide shows, and with a film to send."""
    pytest.importorskip(request.param.stem)
    for name, code in blocks(request.param.read_text()):
        if name:
            (tmp_path / name).write_text(code)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/film.mp4").write_bytes(DATA)
    return tmp_path


def load(path: Path) -> tuple[Any, wsgifile.FileWrapperMiddleware]:
    """The WSGI application of an example, and the middleware in it."""
    name = f"docs_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if hasattr(module, "application"):
        return module.application, module.application
    return module.app, module.app.wsgi_app


def ask(port: int, path: str, **headers: str) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.status, answer.headers, answer.read()


def test_example(example: Path) -> None:
    """Each guide's application sends a whole file and a range of it, by waitress's wrapper."""
    for path in (example / "app.py", example / "webob_app.py"):
        if not path.exists():
            continue
        application, middleware = load(path)
        sent: list[wsgifile.Transfer] = []
        middleware.options = replace(middleware.options, on_sent=sent.append)
        with serving(application) as port:
            status, headers, body = ask(port, "/film")
            assert (status, body, headers["Content-Type"]) == (200, DATA, "video/mp4")
            assert headers["Accept-Ranges"] == "bytes"
            status, headers, body = ask(port, "/film", Range="bytes=1000-99999")
            assert (status, body) == (206, DATA[1000:100_000])
            assert headers["Content-Range"] == f"bytes 1000-99999/{len(DATA)}"
            deadline = time.monotonic() + 10
            while len(sent) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        # The end of the first response may be reported after that of the second.
        assert {(told.sender, told.sent, told.error) for told in sent} == {
            (FAST, len(DATA), None),
            (FAST, 99_000, None),
        }


def test_test_of_an_example(example: Path) -> None:
    """The test that a guide shows passes, with warnings as errors."""
    if "import webtest" in (example / "test_app.py").read_text():
        pytest.importorskip("webtest")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    # WebOb 1.8 imports cgi, and Pyramid 2.0 pkg_resources.
    for ignored in (
        "'cgi' is deprecated:DeprecationWarning",
        "pkg_resources is:UserWarning",
        "Deprecated call to `pkg_resources:DeprecationWarning",
    ):
        command += ["-W", f"ignore:{ignored}"]
    command += ["test_app.py"]
    # Our own pytest options are not meant for this pytest.
    environ = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        command, cwd=example, env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


PAGE = DOCS / "servers.rst"
#: The application for the servers of that page. Its commands use port 8000.
APP = """
import logging

import wsgifile

logging.basicConfig(level=logging.INFO)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "video/mp4")])
    return open("film.mp4", "rb")


application = wsgifile.FileWrapperMiddleware(app)
"""
#: The modules of servers whose command has another name.
MODULES = {
    "uvicorn": "a2wsgi",
    "uwsgi": "pyuwsgi",
    "waitress-serve": "waitress",
}


def server_commands() -> Iterator[tuple[str, list[str], str]]:
    """For each command of the page: the server's module, the command, and the sender named."""
    for part in sections(PAGE.read_text()).values():
        # The sender begins a paragraph.
        sender = re.search(r"^``(wsgi\.file_wrapper|os\.sendfile|read)``[.,:]", part, re.MULTILINE)
        if sender is None:
            continue
        for caption, code in blocks(part):
            if not caption:
                name = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)
                [server] = set(name) - {"app", "asyncio", "concurrent"}
                yield server, [sys.executable, "-c", code], sender[1]
        for server, *arguments in commands(part):
            if server == "mod_wsgi-express":
                continue  # Apache writes its own log, and serves nothing when run as root.
            command = [os.path.join(os.path.dirname(sys.executable), server), *arguments]
            if server == "python":  # python -m server
                server = arguments[1]
            yield MODULES.get(server, server), command, sender[1]


@pytest.mark.parametrize(
    ("server", "command", "sender"),
    list(server_commands()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_server(server: str, command: list[str], sender: str, tmp_path: Path) -> None:
    """Each server runs with the command of its section, and uses the sender named there."""
    if importlib.util.find_spec(server) is None:
        pytest.skip(f"{server} is not installed")
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "film.mp4").write_bytes(DATA)
    for name, code in blocks(PAGE.read_text()):
        if name:
            (tmp_path / name).write_text(code)
    port = free_port()
    log = tmp_path / "log"
    command = [argument.replace("8000", str(port)) for argument in command]
    with running(command, port, log, signal.SIGINT, cwd=tmp_path):
        deadline = time.monotonic() + 10
        while f"files are sent by {sender}\n" not in log.read_text():
            # Ask again: pyruvate finishes a response only when the next request comes.
            assert ask(port, "/")[2] == DATA
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)


def test_servers_that_are_known() -> None:
    """Every server that we know has a section in the documentation."""
    told = {server for server, _, _ in server_commands()}
    known = {"pyuwsgi" if name == "uwsgi" else name for name in SERVERS.values()}
    assert known <= told


def test_options() -> None:
    """Each option of the constructor is documented with its default."""
    text = (DOCS / "options.rst").read_text()
    defaults = wsgifile.FileWrapperMiddleware.__init__.__kwdefaults__
    assert defaults is not None
    for name, default in defaults.items():
        assert f"``{name}`` = {default}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named(page: Path) -> None:
    """The files that the documentation names exist."""
    names = re.findall(
        r"``((?:benchmarks|docs|examples|tests|wsgifile)/[\w./-]+)``", page.read_text()
    )
    assert [name for name in names if not (ROOT / name).exists()] == []
