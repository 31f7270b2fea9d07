"""The command line's --explain."""

from __future__ import annotations

import gzip
import os
import re
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

DATA = bytes(range(256)) * 1000


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return str(path)


APPS = """
import gzip, io, os, sys, time, zlib
from wsgifile import FileWrapperMiddleware, Redirect, XAccelRedirect
HERE = os.path.dirname(os.path.abspath(__file__))

def sends(make, *headers):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain"), *headers])
        return make()
    return app

class Gzip:
    def __init__(self, app):
        self.app = app
    def __call__(self, environ, start_response):
        def start(status, headers, exc_info=None):
            headers = [(n, v) for n, v in headers if n.lower() != "content-length"]
            return start_response(status, [*headers, ("Content-Encoding", "gzip")])
        return self.compress(self.app(environ, start))
    def compress(self, blocks):
        compressor = zlib.compressobj(wbits=31)
        for block in blocks:
            yield compressor.compress(block)
        yield compressor.flush()

def raises(environ, start_response):
    raise RuntimeError("no")

class Hides:
    def __init__(self, app):
        self.app = app
    def __call__(self, environ, start_response):
        return self.hide(environ["wsgi.file_wrapper"](self.app(environ, start_response)))
    def hide(self, app_iter):
        yield from app_iter

def opened():
    return open(HERE + "/data", "rb")

def closes_late():
    file = opened()
    close = file.close
    def late():
        time.sleep(0.1)
        close()
    file.close = late
    return file

plain = sends(opened)
late = sends(closes_late)
longer = sends(opened, ("Content-Length", "300000"))

def short(environ, start_response):
    range = ("Content-Range", "bytes 0-299999/300000")
    start_response("206 Partial Content", [range, ("Content-Length", "300000")])
    return opened()

gz = sends(lambda: gzip.open(HERE + "/data.gz"))
listed = sends(lambda: [b"x"])
generated = sends(lambda: (block for block in [b"x"]))
small = sends(lambda: open(HERE + "/small", "rb"))
hides = Hides(plain)

def nothing(file):
    yield from ()

def unchanged(environ, start_response):
    start_response("304 Not Modified", [])
    return nothing(environ["wsgi.file_wrapper"](io.BytesIO(b"x")))

def traced(environ, start_response):
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
    wraps = lambda environ, start: environ["wsgi.file_wrapper"](plain(environ, start))
    return OpenTelemetryMiddleware(wraps)(environ, start_response)

filtered = Gzip(FileWrapperMiddleware(plain))
offloaded = FileWrapperMiddleware(plain, offload=XAccelRedirect({HERE: "/_files"}))
elsewhere = FileWrapperMiddleware(plain, offload=XAccelRedirect({"/usr/share": "/_files"}))

by_tcp = FileWrapperMiddleware(
    plain, offload=XAccelRedirect({HERE: "/_files"}), trusted_proxies=["127.0.0.1"]
)
by_unix = FileWrapperMiddleware(
    plain, offload=XAccelRedirect({HERE: "/_files"}), trusted_proxies=["unix"]
)
def url_for(file):
    if file.name.endswith("data"):
        return "https://store.example/data?signature=1"
store = FileWrapperMiddleware(plain, offload=Redirect(url_for))
store_small = FileWrapperMiddleware(small, offload=Redirect(url_for))

small_elsewhere = FileWrapperMiddleware(small, offload=XAccelRedirect({"/usr/share": "/_files"}))

class Filter:
    def __init__(self, app, wrap):
        self.app, self.wrap = app, wrap
    def __call__(self, environ, start_response):
        self.start_response = start_response
        return self.app(environ, self.wrap(self))
    def start(self, *args):
        return self.start_response(*args)

class Start:
    def __init__(self, filter):
        self.start = filter.start
    def __call__(self, *args):
        return self.start(*args)

by_method = Filter(FileWrapperMiddleware(plain), lambda filter: filter.start)
by_object = Filter(FileWrapperMiddleware(plain), Start)

class Slow:
    left = 300_000
    def read(self, size):
        time.sleep(0.2)
        count = min(40_000, self.left)
        self.left -= count
        return bytes(count)

slow = sends(Slow)

text = sends(lambda: open(HERE + "/data", encoding="latin-1"))

def breaks():
    yield b"x"
    raise RuntimeError

breaks = sends(breaks)

def missing(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return opened()

missing = FileWrapperMiddleware(missing, offload=XAccelRedirect({HERE: "/_files"}))

def configures(environ, start_response):
    import logging.config
    logging.config.dictConfig({"version": 1})
    return plain(environ, start_response)

def django(environ, start_response):
    from django.core.handlers.wsgi import WSGIHandler
    return WSGIHandler()(environ, start_response)

def django_views():
    import django, sys, types
    from django.conf import settings
    from django.http import FileResponse, HttpResponse
    from django.urls import path
    settings.configure(ROOT_URLCONF="views", ALLOWED_HOSTS=["*"])
    sys.modules["views"] = types.ModuleType("views")
    sys.modules["views"].urlpatterns = [
        path("", lambda request: FileResponse(opened())),
        path("joined", lambda request: HttpResponse(opened())),
        path("other", lambda request: HttpResponse(opened().read(1000))),
    ]
    django.setup()

if sys.argv[-2] == "apps_to_explain:django":
    django_views()
"""


@pytest.mark.parametrize(
    ("app", "options", "expected"),
    [
        (
            "plain",
            (),
            [
                "the application: 200 OK, returned _io.BufferedReader",
                "recognised: a file on disk, _io.BufferedReader '.*/data', 256000 bytes from 0",
                "plan: 200 OK, 256000 bytes; by wsgifile: Content-Length, ETag, Accept-Ranges",
                "sent: 256000 bytes by wsgi.file_wrapper in 0",
                "elsewhere: wsgi.file_wrapper on uwsgi$",
                "elsewhere: os.sendfile on cheroot, eventlet, gevent, gunicorn, paste, werk",
                "the client: 200 OK, 256000 bytes$",
            ],
        ),
        (
            "plain",
            ("-H", "Range: bytes=0-69999"),
            [
                "plan: 206 Partial Content, 70000 bytes; by wsgifile: .*Content-Range",
                "the client: 206 Partial Content, 70000 bytes$",
            ],
        ),
        (
            "plain",
            ("-H", "Range: bytes=0-1,9000-9001"),
            ["plan: 206 Partial Content, [0-9]+ bytes in 5 parts", "the client: 206 "],
        ),
        ("late", (), ["sent: 256000 bytes by wsgi.file_wrapper", "the client: 200 OK, 256000 "]),
        (
            "gz",
            (),
            [
                "recognised: to be read, gzip.GzipFile '.*/data.gz', size not known",
                "plan: 200 OK, all there is$",
                "the server's wrapper: declined: its descriptor, if it has one, may hold other",
                "os.sendfile: declined: its descriptor, if it has one, may hold other bytes",
                "sent: 256000 bytes by read",
            ],
        ),
        ("small", (), ["read: up to 65536 bytes are read at once", "sent: 5 bytes by read"]),
        (
            "listed",
            (),
            ["the application: 200 OK, returned list, which is no file", "wsgifile: no file"],
        ),
        (
            "generated",
            (),
            ["the application: 200 OK, returned a generator, <genexpr> of .*apps_to_explain.py:"],
        ),
        (
            "hides",
            (),
            [
                "the application: 200 OK, returned a generator, hide of .*apps_to_explain.py:",
                "wsgifile: passed on as it is, but there is a file inside$",
                "advice: move FileWrapperMiddleware inside of the WSGI middleware that did this;$",
                r"in a view, return the file: FileResponse \(Django\), send_file \(Flask\)$",
            ],
        ),
        ("unchanged", (), ["wsgifile: no file, passed on as it is$"]),
        pytest.param(
            "traced",
            (),
            [
                "the application: 200 OK, returned a generator, _end_span_after_iterating of ",
                "recognised: a file on disk, _io.BufferedReader '.*/data', 256000 bytes from 0",
                "plan: 200 OK, 256000 bytes; by wsgifile: Content-Length, ETag, Accept-Ranges",
                "sent: 256000 bytes by read",
            ],
            marks=pytest.mark.skipif(
                find_spec("opentelemetry") is None, reason="OpenTelemetry is not installed"
            ),
        ),
        (
            "raises",
            (),
            [
                r"the application: no status, returned an exception: RuntimeError\('no'\)",
                "the client: 500 Internal Server Error",
            ],
        ),
        (
            "short",
            (),
            [
                "plan: 206 Partial Content, 300000 bytes$",
                "sent: 256000 bytes by wsgi.file_wrapper in .*, ended by ShortFileError",
                "the client: 206 Partial Content, 256000 bytes, and 44000 less than promised",
            ],
        ),
        (
            "longer",
            (),
            [
                "plan: 200 OK, 256000 bytes; by wsgifile: Content-Length",
                "warning: Content-Length is 300000, but '.*/data' has 256000 bytes",
                "the client: 200 OK, 256000 bytes$",
            ],
        ),
        (
            "filtered",
            (),
            [
                "the application: 200 OK, returned a generator, compress of .*, which is no file",
                "wsgifile: no file, passed on as it is",
                "inside of that: another FileWrapperMiddleware",
                "server: not seen, start_response is Gzip.__call__.<locals>.start of apps_to_",
                "the server's wrapper: declined: reading is better here: it is wsgifile's own",
                "os.sendfile: declined: the socket of this server is not known, or a filter",
                "sent: 256000 bytes by read",
            ],
        ),
        ("text", (), ["wsgifile: refused: TypeError.* is open in text mode", "the client: 500 "]),
        ("plain", (), ["wsgifile: added here, because", "elsewhere: wsgi.file_wrapper on uwsgi$"]),
        ("by_method", (), ["server: not seen, start_response is a method of apps_to_.*Filter$"]),
        ("by_object", (), ["server: not seen, start_response is a apps_to_explain.Start$"]),
        ("breaks", (), ["the client: got no complete answer: IncompleteRead"]),
        (
            "offloaded",
            (),
            [
                "offload: X-Accel-Redirect: /_files/data$",
                "sent: 0 bytes by X-Accel-Redirect",
                "the client: 200 OK, 0 bytes",
                "Range: bytes=.*: 200 OK, the proxy then answers the range",
            ],
        ),
        (
            "by_tcp",
            (),
            [
                "offload: X-Accel-Redirect: /_files/data$",
                "trusted_proxies: 127.0.0.1, which asked here, is one; a unix socket is not one$",
            ],
        ),
        (
            "by_unix",
            (),
            [
                "offload: declined: the request came from '127.0.0.1', not from a trusted proxy",
                "trusted_proxies: 127.0.0.1, which asked here, is not one; a unix socket is one$",
                "warning: not left to the proxy: the request came from '127.0.0.1', which trusted",
            ],
        ),
        (
            "store",
            (),
            [
                "plan: 302 Found, 0 bytes; by wsgifile: Cache-Control, Content-Length, Location",
                "offload: Location: https://store.example/data.signature=1$",
                "sent: 0 bytes by Location",
                "the client: 302 Found, 0 bytes",
            ],
        ),
        ("store_small", (), ["offload: declined: url_for has no URL for this file"]),
        ("elsewhere", (), ["offload: declined: the file is not below a directory"]),
        (
            "elsewhere",
            ("-H", "Range: bytes=0-9"),
            ["plan: 206 ", "offload: declined: the file is not below a directory"],
        ),
        (
            "small_elsewhere",
            (),
            ["offload: declined: the file is not below", "read: up to 65536 bytes are read"],
        ),
        ("missing", (), ["plan: 404 ", "offload: declined: not a whole, permanent file in a"]),
        ("configures", (), ["recognised: a file on disk", "sent: 256000 bytes by wsgi.file_"]),
        (
            "django",
            (),
            [
                "the application: 200 OK, returned django.http.response.FileResponse by"
                " wsgi.file_wrapper around _io.BufferedReader$",
                "recognised: a file on disk, _io.BufferedReader",
                "sent: 256000 bytes by wsgi.file_wrapper",
                "the client: 200 OK, 256000 bytes$",
                "HEAD: 200 OK, Content-Length: 256000$",
                "Range: bytes=0-99: 206 Partial Content, bytes 0-99/256000$",
            ],
        ),
    ],
)
def test_explain(
    tmp_path: Path, path: str, app: str, options: tuple[str, ...], expected: list[str]
) -> None:
    if app == "django":
        pytest.importorskip("django")
    (tmp_path / "apps_to_explain.py").write_text(APPS)
    (tmp_path / "data.gz").write_bytes(gzip.compress(DATA))
    (tmp_path / "small").write_bytes(b"small")
    done = explain(tmp_path, f"apps_to_explain:{app}", "/", *options)
    assert done.returncode == 0
    lines = [re.sub(r": +", ": ", line.strip()) for line in done.stdout.splitlines()]
    assert lines.pop(0) == "GET /, from waitress"
    found = iter(lines)
    for pattern in expected:
        assert any(re.match(pattern, line) for line in found), (pattern, lines)


@pytest.mark.parametrize(("view", "told"), [("joined", True), ("other", False)])
def test_explain_of_what_django_has_read(tmp_path: Path, path: str, view: str, told: bool) -> None:
    """HttpResponse(open()) is no file any more. The file that was opened shows what to do."""
    pytest.importorskip("django")
    (tmp_path / "apps_to_explain.py").write_text(APPS)
    lines = explain(tmp_path, "apps_to_explain:django", f"/{view}").stdout
    assert "returned django.http.response.HttpResponse, which has no read()" in lines
    assert (f"the application has opened '{path}' and read all of it;" in lines) is told
    assert ("return the file: FileResponse (Django), send_file (Flask)" in lines) is told
    assert "200 OK, Content-Length: none\n" in lines
    assert "200 OK, the whole, because it has no ranges\n" in lines


@pytest.mark.parametrize(
    ("app", "options", "asked"),
    [
        ("plain", (), ["HEAD", "Range"]),
        ("plain", ("-H", "RANGE: bytes=0-9"), []),
        ("plain", ("-H", "Range: lines=0-9"), ["HEAD"]),
        ("raises", (), []),
    ],
)
def test_what_else_explain_asks(
    tmp_path: Path, path: str, app: str, options: tuple[str, ...], asked: list[str]
) -> None:
    """After a 200, HEAD and a part, unless the user has asked for a part."""
    (tmp_path / "apps_to_explain.py").write_text(APPS)
    lines = explain(tmp_path, f"apps_to_explain:{app}", "/", *options).stdout.splitlines()
    assert [found[1] for line in lines if (found := re.match("  (HEAD|Range):", line))] == asked


def explain(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsgifile", "--explain", *args],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("json:loads", "x"), "'x' is not the path of a URL"),
        (("json:loads", "/a b"), "'/a b' is not the path of a URL"),
        ((".", "/", "-H", "Range"), "'Range' is not of the form 'Name: value'"),
        ((".", "-H", "A b: c", "/"), "'A b: c' is not of the form 'Name: value'"),
        ((".", "/", "-H", "A: €"), "'A: €' is not of the form 'Name: value'"),
        (("nothing:here",), "cannot import nothing"),
    ],
)
def test_explain_of_nonsense(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    done = explain(tmp_path, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


FLASK = """
import flask, os
from wsgifile import FileWrapperMiddleware

def made(kind):
    app = kind(__name__)
    app.add_url_rule("/", view_func=lambda: flask.send_file(os.path.abspath("data")))
    app.wsgi_app = FileWrapperMiddleware(app.wsgi_app)
    return app

class Traced(flask.Flask):
    def __call__(self, environ, start_response):
        return super().__call__(environ, lambda *args: start_response(*args))

alone, traced = made(flask.Flask), made(Traced)
"""


@pytest.mark.parametrize(("app", "added"), [("alone", False), ("traced", True)])
def test_explain_of_flask(tmp_path: Path, path: str, app: str, added: bool) -> None:
    """The middleware in ``app.wsgi_app`` is outermost, unless something replaced __call__."""
    pytest.importorskip("flask")
    (tmp_path / "flask_to_explain.py").write_text(FLASK)
    done = explain(tmp_path, f"flask_to_explain:{app}", "/")
    assert done.returncode == 0
    assert "256000 bytes by wsgi.file_wrapper" in done.stdout
    assert ("added here" in done.stdout) is added
    assert ("another FileWrapperMiddleware" in done.stdout) is added


def test_explain_takes_options_anywhere(tmp_path: Path, path: str) -> None:
    pytest.importorskip("webob")
    done = explain(tmp_path, ".", "-H", "Range: bytes=0-9", "/data")
    assert done.stderr == ""
    assert "206 Partial Content, 10 bytes" in done.stdout


def test_chdir(tmp_path: Path, path: str) -> None:
    """The target and its files are looked for there; a directory that is not there is an error."""
    (tmp_path / "site").mkdir()
    Path(path).rename(tmp_path / "site/data")
    (tmp_path / "site/apps_to_explain.py").write_text(APPS)
    done = explain(tmp_path, "--chdir", "site", "apps_to_explain:plain", "/")
    assert "sent:                 256000 bytes by wsgi.file_wrapper" in done.stdout
    assert f"'{tmp_path}/site/data'" in done.stdout
    done = explain(tmp_path, "--chdir", "nosuch", "apps_to_explain:plain", "/")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "wsgifile: cannot go to nosuch: No such file or directory\n"


def test_path_without_explain(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wsgifile", "json:loads", "/x"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    message = (
        "json:loads does not exist; an application is served alone, and PATH is for --explain"
    )
    assert done.stderr == f"wsgifile: {message}\n"


def test_explain_on_a_terminal(tmp_path: Path, path: str) -> None:
    """On a terminal, --explain shows the progress of an answer that takes over a second."""
    (tmp_path / "apps_to_explain.py").write_text(APPS)
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "wsgifile", "--explain", "apps_to_explain:slow", "/"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        timeout=60,
    )
    os.close(slave)
    shown = os.read(master, 1000)
    os.close(master)
    assert shown.startswith(b"\r0 MiB\r")
    assert "200 OK, 300000 bytes" in done.stdout


def test_loop_ends_before_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may find out by itself, from an earlier byte in its trigger."""
    from waitress.trigger import trigger

    from wsgifile.cli.explain import _serving

    pull, others = trigger._physical_pull, set(threading.enumerate())

    def pull_late(self: Any) -> None:
        pull(self)
        for thread in set(threading.enumerate()) - others:
            thread.join(20)
        pull(self)

    with _serving(lambda environ, start_response: []) as port:
        monkeypatch.setattr(trigger, "_physical_pull", pull_late)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 20)
