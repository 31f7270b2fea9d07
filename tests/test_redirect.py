"""Files that their object store sends: by a redirect to it, or by nginx, which asks it.

The store is moto's S3 server. The URLs are presigned by boto3.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import launch
import pytest
from respond import sends

pytest.importorskip("h11")
pytest.importorskip("boto3")
pytest.importorskip("moto")

from client import Answer, Client
from nginx import command
from ports import free_port, running, serving
from presigned import Store
from presigned import store as run_store
from test_clients import Browser, needed

from wsgifile import FileWrapperMiddleware, Redirect, Transfer, XAccelRedirect, log

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DATA = random.Random(6).randbytes(1_000_003)
#: Everything that a URL quotes.
KEY = "a film+1 ü%41&b=c;d?e#f.mp4"
#: What the application says of the file, with what must not be said of a redirect.
SAID = [
    ("Content-Type", "video/mp4"),
    ("Content-Disposition", "inline; filename=film.mp4"),
    ("Content-Length", str(len(DATA))),
    ("Content-Language", "en"),
    ("Content-Location", "/film"),
    ("Location", "/elsewhere"),
    ("ETag", '"of the application"'),
    ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
    ("Accept-Ranges", "bytes"),
    ("Cache-Control", "public, max-age=31536000"),
    ("Expires", "Tue, 14 Nov 2033 22:13:20 GMT"),
    ("CDN-Cache-Control", "max-age=600"),
    ("Surrogate-Control", "max-age=600"),
    ("X-Accel-Expires", "600"),
    ("Set-Cookie", "a=1"),
    ("Vary", "Cookie"),
    ("Strict-Transport-Security", "max-age=1"),
]
KEPT = {"set-cookie": "a=1", "vary": "Cookie", "strict-transport-security": "max-age=1"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with run_store(tmp_path_factory.mktemp("store") / "log") as store:
        store.put(KEY, DATA, ContentType="video/mp4")
        yield store


class Unread:
    """A file of the store. It must be closed, and not be read."""

    key = KEY

    def __init__(self) -> None:
        self.closed = 0

    def read(self, size: int) -> bytes:
        raise AssertionError("this file must not be read")

    def close(self) -> None:
        self.closed += 1


def ask(app: WSGIApplication, method: str = "GET", **environ: Any) -> Any:
    """The status, the header by lower-case names, and the body."""
    got = SimpleNamespace()

    def start_response(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        names = [name.lower() for name, _ in headers]
        assert len(names) == len(set(names)), headers
        got.status, got.headers = status, dict(zip(names, [v for _, v in headers], strict=True))
        return lambda data: None

    body: Any = app({"REQUEST_METHOD": method, **environ}, start_response)
    got.body = b"".join(body)
    if hasattr(body, "close"):
        body.close()
    return got


URL = "https://store.example/films/film.mp4?X-Amz-Signature=0123"


def redirects(open_file: Callable[[], Any], *headers: tuple[str, str], **more: Any) -> Any:
    """The middleware, with a URL that is always the same."""
    return FileWrapperMiddleware(
        sends(open_file, *headers, **more), offload=Redirect(lambda file: URL)
    )


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns what was logged as a warning or an error; all of it is new."""
    monkeypatch.setattr(log, "_logged", set())
    caplog.set_level(logging.WARNING, "wsgifile")
    return lambda: [record.getMessage() for record in caplog.records]


# The redirect, without a server.


def test_the_redirect() -> None:
    """It has the application's header without what is about the file, and is not cached."""
    file = Unread()
    ended: list[Transfer] = []
    app = FileWrapperMiddleware(
        sends(lambda: file, *SAID), offload=Redirect(lambda file: URL), on_sent=ended.append
    )
    got = ask(app)
    assert (got.status, got.body) == ("302 Found", b"")
    assert got.headers == {
        **KEPT,
        "cache-control": "private, no-store",
        "content-length": "0",
        "location": URL,
    }
    assert file.closed == 1
    [transfer] = ended
    assert isinstance(transfer, Transfer)
    assert (transfer.sender, transfer.status, transfer.sent) == ("Location", "302 Found", 0)


@pytest.mark.parametrize("said", ["no-store", "private, No-Store", "max-age=0, no-store"])
def test_stricter_cache_control(said: str) -> None:
    """An application that lets nobody keep the response has said enough."""
    assert ask(redirects(Unread, ("cache-control", said))).headers["cache-control"] == said


@pytest.mark.parametrize("said", ["public", "private, max-age=60", "no-cache", ""])
def test_other_cache_control(said: str) -> None:
    got = ask(redirects(Unread, ("cache-control", said)))
    assert got.headers["cache-control"] == "private, no-store"


def test_ranges_and_conditions_are_for_the_store() -> None:
    for field in ("RANGE", "IF_RANGE", "IF_MATCH", "IF_NONE_MATCH", "IF_MODIFIED_SINCE"):
        got = ask(redirects(Unread, *SAID), **{f"HTTP_{field}": "bytes=0-1"})
        assert (got.status, got.headers["location"]) == ("302 Found", URL)


def test_head() -> None:
    """Unless the URL is good for HEAD, it gets the application's header, and nothing is read."""
    file = Unread()
    got = ask(redirects(lambda: file, *SAID), "HEAD")
    assert (got.status, got.body, file.closed) == ("200 OK", b"", 1)
    assert got.headers == {name.lower(): value for name, value in SAID}
    app = FileWrapperMiddleware(
        sends(Unread, *SAID), offload=Redirect(lambda file: URL, head=True)
    )
    head, get = ask(app, "HEAD"), ask(app)
    assert (head.status, head.headers) == (get.status, get.headers) == ("302 Found", head.headers)


def partly_read() -> Any:
    file = io.BytesIO(DATA)
    file.read(5)
    return file


class Tells(io.RawIOBase):
    """A file of a type that recognise does not ask for its position."""

    def __init__(self, position: int | None) -> None:
        self.position = position

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        if self.position is None:
            raise OSError("it cannot tell")
        return self.position

    def readinto(self, buffer: Any) -> int:
        return 0


def temporary() -> Any:
    file = tempfile.NamedTemporaryFile()
    file.write(DATA)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("method", "status", "headers", "open_file"),
    [
        ("POST", "200 OK", [], lambda: io.BytesIO(DATA)),
        ("PUT", "200 OK", [], lambda: io.BytesIO(DATA)),
        ("GET", "404 Not Found", [], lambda: io.BytesIO(DATA)),
        ("GET", "206 Partial Content", [], lambda: io.BytesIO(DATA)),
        ("GET", "200 OK", [("Content-Range", "bytes 0-9/10")], lambda: io.BytesIO(DATA)),
        ("GET", "200 OK", [("Content-Encoding", "gzip")], lambda: io.BytesIO(DATA)),
        ("GET", "200 OK", [("Content-MD5", "x")], lambda: io.BytesIO(DATA)),
        ("GET", "200 OK", [("X-Sendfile", "/x")], lambda: io.BytesIO(DATA)),
        ("GET", "200 OK", [("Content-Length", "9")], lambda: io.BytesIO(DATA)),
        ("GET", "200 OK", [], partly_read),
        ("GET", "200 OK", [], lambda: Tells(7)),
        ("GET", "200 OK", [("ETag", '"x"')], temporary),
        ("GET", "200 OK", [], lambda: [b"no file"]),
        ("GET", "304 Not Modified", [], list),
    ],
)
def test_what_is_sent_from_here(
    method: str, status: str, headers: list[tuple[str, str]], open_file: Callable[[], Any]
) -> None:
    """As without a store. A URL is of the whole file."""
    app = sends(open_file, *headers, status=status)
    expected = ask(FileWrapperMiddleware(app), method)
    assert vars(ask(redirects(open_file, *headers, status=status), method)) == vars(expected)
    assert expected.status == status


def test_after_write() -> None:
    """The header is out by then."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])(b"begun")
        return io.BytesIO(DATA)

    got = ask(FileWrapperMiddleware(app, offload=Redirect(lambda file: URL)))
    assert (got.status, got.body) == ("200 OK", DATA)


@pytest.mark.parametrize("position", [0, None])
def test_position(position: int | None) -> None:
    """A file that cannot tell where it stands has not been read."""
    assert ask(redirects(lambda: Tells(position))).status == "302 Found"


def test_a_property_is_left_alone() -> None:
    """The tell of django-storages' S3File is a property that downloads the object."""

    class Lazy(Unread):
        @property
        def tell(self) -> Any:
            raise AssertionError("this downloads the file")

    assert ask(redirects(Lazy)).status == "302 Found"


def test_a_file_on_disk(tmp_path: Path) -> None:
    """The function decides, whatever the file is. It gets what is inside of other things."""
    (tmp_path / "file").write_bytes(DATA)
    asked = []

    def url_for(file: Any) -> str:
        asked.append(file)
        return f"https://mirror.example/{Path(file.name).name}"

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        files.append(open(tmp_path / "file", "rb"))
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](files[-1])
        return wrapped

    files: list[Any] = []
    got = ask(FileWrapperMiddleware(app, offload=Redirect(url_for)))
    assert got.headers["location"] == "https://mirror.example/file"
    assert files == asked
    assert files[0].closed


def test_twice() -> None:
    """A second middleware, inside or outside, changes nothing."""
    asked = []

    def url_for(file: Any) -> str:
        asked.append(type(file))
        return URL

    once = ask(FileWrapperMiddleware(sends(Unread), offload=Redirect(url_for)))
    inside = FileWrapperMiddleware(FileWrapperMiddleware(sends(Unread)), offload=Redirect(url_for))
    outside = FileWrapperMiddleware(
        FileWrapperMiddleware(sends(Unread), offload=Redirect(url_for))
    )
    assert vars(ask(inside)) == vars(ask(outside)) == vars(once)
    assert asked == [Unread] * 3


# What the function returns.


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://store.example/a\r\nSet-Cookie: b=1", "character that must be quoted"),
        ("https://store.example/a\n", "character that must be quoted"),
        ("\thttps://store.example/a", "character that must be quoted"),
        ("https://store.example/a b", "character that must be quoted"),
        ("https://store.example/ü", "character that must be quoted"),
        ("https://störe.example/", "character that must be quoted"),
        ("https://store.example/\0", "character that must be quoted"),
        ("https://store.example/a#b", "character that must be quoted"),
        ("https://store.example\\@evil.example/", "character that must be quoted"),
        ("", "is empty"),
        ("/films/film.mp4", "does not begin with http"),
        ("//store.example/film.mp4", "does not begin with http"),
        ("film.mp4", "does not begin with http"),
        ("https:/film.mp4", "does not begin with http"),
        ("https://", "does not begin with http"),
        ("https:///film.mp4", "does not begin with http"),
        ("https://[::1/film.mp4", "does not begin with http"),
        ("https://store.example:99999/", "does not begin with http"),
        ("ftp://store.example/film.mp4", "does not begin with http"),
        ("javascript:alert(1)", "does not begin with http"),
        ("file:///etc/passwd", "does not begin with http"),
        ("s3://films/film.mp4", "does not begin with http"),
        (b"https://store.example/", "is no str, but of type bytes"),
        (3, "is no str, but of type int"),
        ("https://store.example/" + "a" * 7000, "is too long"),
    ],
)
def test_bad_url(warnings: Callable[[], list[str]], url: Any, fault: str) -> None:
    """The file is sent from here. One line tells why, without the URL."""
    app = FileWrapperMiddleware(
        sends(lambda: io.BytesIO(DATA), *SAID), offload=Redirect(lambda file: url)
    )
    for _ in range(2):
        got = ask(app)
        assert (got.status, got.body) == ("200 OK", DATA)
        assert got.headers == {name.lower(): value for name, value in SAID}
    [message] = warnings()
    assert re.search(f"the file is sent from here, .* url_for returned .*{fault}", message)
    assert "example" not in message


@pytest.mark.parametrize(
    "url",
    [
        "https://store.example",
        "HTTP://STORE.EXAMPLE/",
        "http://[::1]:9000/a",
        "http://127.0.0.1:9000/a?b=c%20d&e=%0A",
        "https://store.example/" + "a" * 6900,
    ],
)
def test_good_url(url: str) -> None:
    app = FileWrapperMiddleware(sends(Unread), offload=Redirect(lambda file: url))
    assert ask(app).headers["location"] == url


def test_no_url(warnings: Callable[[], list[str]]) -> None:
    app = FileWrapperMiddleware(
        sends(lambda: io.BytesIO(DATA)), offload=Redirect(lambda file: None)
    )
    assert ask(app).body == DATA
    assert warnings() == []


def test_a_function_that_fails(warnings: Callable[[], list[str]]) -> None:
    """The file is sent from here, and the log has the traceback."""
    app = FileWrapperMiddleware(
        sends(lambda: io.BytesIO(DATA)), offload=Redirect(lambda file: file.key)
    )
    assert ask(app).body == DATA
    assert warnings() == ["offload: url_for failed, so the file is sent from here"]


def test_with_headers() -> None:
    """The function gets the application's header if it wants it, and cannot change it."""

    def url_for(file: Any, headers: dict[str, str]) -> str:
        seen.append(dict(headers))
        headers["cache-control"] = "no-store, changed"
        return URL

    seen: list[dict[str, str]] = []
    offload = Redirect(url_for, with_headers=True)
    got = ask(FileWrapperMiddleware(sends(Unread, *SAID), offload=offload))
    assert seen == [{name.lower(): value for name, value in SAID}]
    assert got.headers["cache-control"] == "private, no-store"


def test_nothing_of_a_request_chooses() -> None:
    environ = {
        "HTTP_HOST": "evil.example",
        "HTTP_X_FORWARDED_HOST": "evil.example",
        "HTTP_LOCATION": "https://evil.example/",
        "HTTP_X_ACCEL_REDIRECT": "/_store?https://evil.example/",
        "PATH_INFO": "//evil.example/",
        "QUERY_STRING": "url=https://evil.example/",
        "REMOTE_ADDR": "192.0.2.1",
    }
    assert vars(ask(redirects(Unread, *SAID), **environ)) == vars(ask(redirects(Unread, *SAID)))


async def coroutine(file: Any) -> str:
    return URL


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Redirect(URL), TypeError, "url_for must be a function"),  # type: ignore[arg-type]
        (lambda: Redirect(coroutine), TypeError, "is an async function"),  # type: ignore[arg-type]
        (lambda: XAccelRedirect({coroutine: "/s"}), TypeError, "is an async function"),
        (lambda: XAccelRedirect({print: "s"}), ValueError, "'s' is not a location"),
        (lambda: Redirect(print, head=1), TypeError, "head must be True or False"),  # type: ignore[arg-type]
        (lambda: Redirect(print, with_headers=1), TypeError, "with_headers must be"),  # type: ignore[arg-type]
        (
            lambda: FileWrapperMiddleware(
                sends(Unread), offload=Redirect(print), trusted_proxies=["127.0.0.1"]
            ),
            ValueError,
            "trusted_proxies is for a proxy, and with Redirect there is none",
        ),
    ],
)
def test_bad_configuration(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


# The redirect, followed by real clients from real servers to the store.

APP = """
import sys
sys.path[:0] = {path!r}
import presigned
from wsgifile import FileWrapperMiddleware, Redirect

store = presigned.Store({port}, None, presigned.client({port}))

def bare(environ, start_response):
    status = "404 Not Found" if environ["PATH_INFO"] == "/none" else "200 OK"
    start_response(status, [("Content-Type", "video/mp4")])
    return store.get({key!r})

ours = FileWrapperMiddleware(bare, offload=Redirect(store.url_for))

def opened(environ, start_response):
    import s3fs  # After a server has forked.
    store_url = "http://127.0.0.1:{port}"
    files = s3fs.S3FileSystem(key="test", secret="test", endpoint_url=store_url)
    start_response("200 OK", [("Content-Type", "video/mp4")])
    return files.open(presigned.BUCKET + "/" + {key!r})

sent = FileWrapperMiddleware(opened)

def app(environ, start_response):
    side = {{"/bare": bare, "/sent": sent}}.get(environ["PATH_INFO"], ours)
    return side(environ, start_response)
"""
SERVERS = ["waitress", "gunicorn", "gunicorn_gthread", "uwsgi_http11", "cheroot", "gevent"]
SERVERS += ["wsgiref", "tornado", "twisted", "hypercorn"]


@contextlib.contextmanager
def served(store: Store, directory: Path, name: str, key: str = KEY) -> Iterator[int]:
    """Run a server with this object at /: the port. /bare is without wsgifile.

    /sent sends what s3fs opens, without a redirect.
    """
    if not launch.SERVERS[name].installed():
        pytest.skip(f"{name} is not installed")
    path = directory / "redirecting.py"
    tests = str(Path(__file__).parent)
    path.write_text(APP.format(path=[tests], port=store.port, key=key))
    port = free_port()
    with running(launch.command(name, str(path), port), port, directory / "log"):
        yield port


@pytest.mark.parametrize("name", SERVERS)
def test_servers(store: Store, tmp_path: Path, name: str) -> None:
    """The next answer on a connection is whole, after a redirect, too."""
    with served(store, tmp_path, name) as port, Client(port) as client:
        for _ in range(2):
            answer = client.get("/")
            assert (answer.status, answer.body) == (302, b"")
            assert answer.headers["content-length"] == "0"
            assert answer.headers["cache-control"] == "private, no-store"
            assert f":{store.port}/films/a%20film%2B1%20%C3%BC%25" in answer.headers["location"]
            assert client.get("/none").body == DATA
            head = client.get("/", method="HEAD")
            assert (head.status, head.headers["content-type"]) == (200, "video/mp4")
            assert client.get("/", method="POST").body == DATA


def test_http_1_0(store: Store, tmp_path: Path) -> None:
    """HTTP/1.0 has 302, and not 307."""
    with served(store, tmp_path, "waitress") as port, Client(port) as client:
        assert client.get("/", version="1.0").status == 302


def test_curl(store: Store, tmp_path: Path) -> None:
    """It follows with its Range, and gets what it gets without us; it resumes, too."""
    curl, part = needed("curl"), tmp_path / "part"
    with served(store, tmp_path, "waitress") as port:
        url, code = f"http://127.0.0.1:{port}/", ["-w", "%{http_code} %{num_redirects}"]
        whole = subprocess.run([curl, "-sfL", url], check=True, capture_output=True).stdout
        bare = subprocess.run([curl, "-sf", f"{url}bare"], check=True, capture_output=True).stdout
        assert whole == bare == DATA
        for sent, range_ in ((DATA[5:1005], "5-1004"), (DATA[-7:], "-7")):
            asked = [curl, "-sfL", "-r", range_, "-o", str(part), *code, url]
            told = subprocess.run(asked, check=True, capture_output=True).stdout
            assert (part.read_bytes(), told) == (sent, b"206 1")
        part.write_bytes(DATA[:12345])
        asked = [curl, "-sfLC", "-", "-o", str(part), *code, url]
        assert subprocess.run(asked, check=True, capture_output=True).stdout == b"206 1"
        assert hashlib.sha256(part.read_bytes()).digest() == hashlib.sha256(DATA).digest()
        # A client that asks by HEAD for what it will get is not sent to a URL for GET.
        told = subprocess.run([curl, "-sfIL", *code, url], check=True, capture_output=True).stdout
        assert told.endswith(b"200 0")


@pytest.fixture(scope="module")
def film(store: Store, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A film in the store, as "film". Its index is at its end, so that players have to seek."""
    ffmpeg, path = needed("ffmpeg"), tmp_path_factory.mktemp("film") / "film.mp4"
    source = "testsrc2=size=640x360:rate=25:duration=60,noise=alls=60:allf=t"
    encoded = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "30", "-pix_fmt", "yuv420p"]
    made = [ffmpeg, "-loglevel", "error", "-f", "lavfi", "-i", source, *encoded, str(path)]
    subprocess.run(made, check=True)
    store.put("film", path.read_bytes(), ContentType="video/mp4")
    return path.read_bytes()


def partial(store: Store) -> int:
    """How often the store has answered with a part of the film."""
    return len(re.findall(r'GET /films/film[? ].*" 206 ', store.log.read_text()))


#: By a redirect, and as a file of the store that wsgifile reads.
WAYS = ["", "sent"]


@pytest.mark.parametrize("way", WAYS)
def test_ffprobe(store: Store, film: bytes, tmp_path: Path, way: str) -> None:
    """It seeks to the index at the film's end."""
    pytest.importorskip("s3fs")
    ffprobe, before = needed("ffprobe"), partial(store)
    with served(store, tmp_path, "waitress", "film") as port:
        asked = [ffprobe, "-v", "error", "-of", "json", "-show_format"]
        done = subprocess.run(
            [*asked, f"http://127.0.0.1:{port}/{way}"], check=True, capture_output=True, timeout=60
        )
    said = json.loads(done.stdout)["format"]
    assert float(said["duration"]) == pytest.approx(60, abs=0.5)
    assert int(said["size"]) == len(film)
    assert partial(store) > before


@pytest.mark.parametrize("way", WAYS)
def test_chromium(store: Store, film: bytes, tmp_path: Path, way: str) -> None:
    """It plays from the middle."""
    pytest.importorskip("s3fs")
    chromium, before = needed("chromium"), partial(store)
    with served(store, tmp_path, "gunicorn_gthread", "film") as port:
        browser = Browser(chromium, tmp_path / "profile")
        try:
            browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/{way}")
            browser.wait_for("!!window.document.querySelector('video')")
            browser.evaluate("film = document.querySelector('video'); 0")
            browser.wait_for("film.readyState >= 2")
            browser.evaluate("film.currentTime = 30; film.play(); 0")
            browser.wait_for("film.currentTime > 31 && !film.seeking && !film.paused")
            assert browser.evaluate("film.error") is None
        finally:
            browser.close()
    assert partial(store) > before


def test_the_name_of_a_download(store: Store) -> None:
    """A function that gets the application's header asks the store for the same."""

    def url_for(file: Any, headers: dict[str, str]) -> str:
        return store.url_for(file, ResponseContentDisposition=headers["content-disposition"])

    offload = Redirect(url_for, with_headers=True)
    got = ask(FileWrapperMiddleware(sends(lambda: store.get(KEY), *SAID), offload=offload))
    curl = needed("curl")
    asked = [curl, "-sf", "-D", "-", "-o", "-", got.headers["location"]]
    done = subprocess.run(asked, check=True, capture_output=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert b"inline; filename=film.mp4" in head
    assert body == DATA


# Frameworks hand over the file as they do without a store.


def flask(open_file: Callable[[], Any]) -> Any:
    flask = pytest.importorskip("flask")
    app = flask.Flask("redirecting")
    app.add_url_rule("/", "film", lambda: flask.send_file(open_file(), mimetype="video/mp4"))
    return app.wsgi_app


def webob(open_file: Callable[[], Any]) -> Any:
    webob = pytest.importorskip("webob")
    return lambda *args: webob.Response(app_iter=open_file(), content_type="video/mp4")(*args)


def falcon(open_file: Callable[[], Any]) -> Any:
    falcon = pytest.importorskip("falcon")

    class Film:
        def on_get(self, request: Any, response: Any) -> None:
            response.stream, response.content_type = open_file(), "video/mp4"

    app = falcon.App()
    app.add_route("/", Film())
    return app


def bottle(open_file: Callable[[], Any]) -> Any:
    bottle = pytest.importorskip("bottle")
    app = bottle.Bottle()
    app.route("/", callback=open_file)
    return app


@pytest.mark.parametrize("framework", [flask, webob, falcon, bottle])
def test_frameworks(store: Store, framework: Callable[[Callable[[], Any]], Any]) -> None:
    files: list[Any] = []

    def open_file() -> Any:
        files.append(store.get(KEY))
        return files[-1]

    webtest = pytest.importorskip("webtest")
    app = FileWrapperMiddleware(framework(open_file), offload=Redirect(store.url_for))
    answer = webtest.TestApp(app).get("/", headers={"Range": "bytes=5-9"})
    assert answer.status_int == 302
    assert answer.location.startswith(f"http://127.0.0.1:{store.port}/films/a%20film")
    assert [file.tell() for file in files] == [0]
    assert files[0]._raw_stream.closed


# nginx asks the store.

LOCATION = re.search(
    r"^    (location = /_store .*?\n    })",
    (Path(__file__).parents[1] / "docs" / "offload.rst").read_text(),
    re.DOTALL | re.MULTILINE,
)


@contextlib.contextmanager
def behind_nginx(app: Any, root: Path) -> Iterator[int]:
    """Run nginx in front of the application, with the location of docs/offload.rst."""
    assert LOCATION is not None
    with serving(app) as own:
        port = free_port()
        http = (
            f"server {{ listen 127.0.0.1:{port};"
            f"location / {{ proxy_pass http://127.0.0.1:{own}; }}\n{LOCATION[1]} }}"
        )
        with running(command(root, http), port, root / "nginx.log"):
            yield port


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nginx-") as name:
        yield Path(name)


def test_through_nginx(store: Store, root: Path) -> None:
    """Bytes, ranges and conditions are those of the store; types, those of the application."""
    ended: list[Transfer] = []
    app = FileWrapperMiddleware(
        sends(lambda: store.get(KEY), *SAID),
        offload=XAccelRedirect({store.url_for: "/_store"}),
        trusted_proxies=["127.0.0.1"],
        on_sent=ended.append,
    )
    with behind_nginx(app, root) as port, Client(port) as client:

        def get(*headers: tuple[str, str], method: str = "GET") -> Answer:
            answer = client.get("/?url=http://127.0.0.1:1/", headers=headers, method=method)
            assert not answer.short
            assert answer.status == 304 or answer.headers["content-type"] == "video/mp4"
            assert "location" not in answer.headers
            return answer

        answer = get()
        assert (answer.status, answer.body) == (200, DATA)
        assert answer.headers["content-disposition"] == "inline; filename=film.mp4"
        assert answer.names.count("content-disposition") == 1
        assert answer.headers["set-cookie"] == "a=1"
        head = get(method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(DATA)))
        part = get(("Range", "bytes=5-1004"))
        assert (part.status, part.body) == (206, DATA[5:1005])
        same = get(("If-None-Match", answer.headers["etag"]))
        assert (same.status, same.body) == (304, b"")
        other = get(("Range", "bytes=5-9"), ("If-Range", '"other"'))
        assert other.status in (200, 206)  # moto does not look at If-Range.
    deadline = time.monotonic() + 10
    while len(ended) < 5:  # The client may have its answer earlier.
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [(end.sender, end.sent) for end in ended] == [("X-Accel-Redirect", 0)] * 5


def test_what_the_store_sees(root: Path) -> None:
    """Nothing of what the client sent to the application but ranges and conditions."""
    seen: list[dict[str, str]] = []

    def objects(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(
            {
                name: value
                for name, value in environ.items()
                if name.startswith("HTTP_") or name in ("REQUEST_METHOD", "QUERY_STRING")
            }
        )
        start_response("200 OK", [("Content-Length", "1"), ("ETag", '"x"')])
        return [b"x"]

    with serving(objects) as store_port:
        url = f"http://127.0.0.1:{store_port}/a?b=c%2Bd%20e"
        offload = XAccelRedirect({(lambda file: url): "/_store"})
        app = FileWrapperMiddleware(sends(Unread), offload=offload)
        with behind_nginx(app, root) as port, Client(port) as client:
            secrets = (("Cookie", "a=1"), ("Authorization", "Basic x"), ("X-Api-Key", "1"))
            assert client.get("/", headers=(*secrets, ("Range", "bytes=0-0"))).body == b"x"
    [request] = seen
    assert request == {
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "b=c%2Bd%20e",
        "HTTP_HOST": f"127.0.0.1:{store_port}",
        "HTTP_RANGE": "bytes=0-0",
    } | ({"HTTP_CONNECTION": "close"} if "HTTP_CONNECTION" in request else {})


def test_directories_and_stores(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    """Below a directory a file goes by its path, elsewhere by the first function with a URL."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(DATA)
    too_long = "https://store.example/" + "a" * 3000
    locations = {
        str(tmp_path / "a"): "/_files",
        (lambda file: None): "/_none",
        (lambda file: too_long if file.name == "long" else None): "/_long",
        (lambda file: URL if hasattr(file, "key") else None): "/_store",
    }
    offload = XAccelRedirect(locations)

    def value(open_file: Callable[[], Any]) -> str | None:
        got = ask(FileWrapperMiddleware(sends(open_file), offload=offload))
        assert (got.body == b"") == ("x-accel-redirect" in got.headers)
        field: str | None = got.headers.get("x-accel-redirect")
        return field

    class Named(io.BytesIO):
        name = ""

    class Keyed(Named):
        key = KEY

    class Long(Named):
        name = "long"

    assert value(lambda: open(tmp_path / "a" / "file", "rb")) == "/_files/file"
    assert value(lambda: open(tmp_path / "b" / "file", "rb")) is None
    assert value(lambda: Keyed(DATA)) == f"/_store?{URL}"
    assert value(lambda: Named(DATA)) is None
    assert warnings() == []
    assert value(lambda: Long(DATA)) is None
    assert "is too long" in warnings()[0]


# The proxy's address.


WARNING = "not left to the proxy: the request came from '', which trusted_proxies does not have"


@pytest.mark.parametrize(
    ("trusted", "sender", "told"),
    [(["127.0.0.1"], "os.sendfile", 1), (["127.0.0.1", "unix"], "X-Accel-Redirect", 0)],
)
def test_a_unix_socket(root: Path, trusted: list[str], sender: str, told: int) -> None:
    """Its address is empty. Whoever does not trust it is told so once, by Python's own logging."""
    pytest.importorskip("gunicorn")
    (root / "files").mkdir()
    (root / "files" / "film").write_bytes(DATA)
    (root / "unix_app.py").write_text(
        "from wsgifile import FileWrapperMiddleware, XAccelRedirect\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        f"    return open('{root}/files/film', 'rb')\n"
        "app = FileWrapperMiddleware(\n"
        f"    app, offload=XAccelRedirect({{'{root}/files': '/_files'}}),\n"
        f"    trusted_proxies={trusted}, on_sent=lambda end: print(end.sender, flush=True))\n"
    )
    port, sock, said = free_port(), f"{root}/socket", root / "gunicorn.log"
    options = ["--no-control-socket", "--bind", f"unix:{sock}", "unix_app:app"]
    http = f"""
        server {{
            listen 127.0.0.1:{port};
            location / {{ proxy_pass http://unix:{sock}; }}
            location /_files/ {{ internal; alias {root}/files/; }}
        }}
    """
    with (
        running([sys.executable, "-m", "gunicorn", *options], sock, said, cwd=root),
        running(command(root, http), port, root / "nginx.log"),
        Client(port) as client,
    ):
        # The one worker has ended with each request when it takes the next one.
        for _ in range(3):
            assert client.get("/").body == DATA
        lines = said.read_text().splitlines()
    assert lines.count(sender) >= 2
    assert len([line for line in lines if line.startswith(WARNING)]) == told


def test_who_is_no_proxy(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    """Once for all addresses, and not for files that would not have been left to it."""
    (tmp_path / "file").write_bytes(DATA)
    app = FileWrapperMiddleware(
        sends(lambda: open(tmp_path / "file", "rb")),
        offload=XAccelRedirect({tmp_path: "/_files"}),
        trusted_proxies=["10.0.0.0/8"],
    )
    assert ask(app, "POST", REMOTE_ADDR="192.0.2.1").body == DATA
    assert ask(app, REMOTE_ADDR="10.0.0.1").body == b""
    assert warnings() == []
    for address in ("192.0.2.1\n", "192.0.2.2", ""):
        assert ask(app, REMOTE_ADDR=address).body == DATA
    [message] = warnings()
    assert "the request came from '192.0.2.1\\n', which trusted_proxies does not" in message
    assert '"unix" stands for a unix socket' in message
