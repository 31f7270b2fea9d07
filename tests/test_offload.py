"""Files left to a real proxy in front: nginx, and Apache with mod_xsendfile.

The configurations are those of ``examples/``. The requests of the proxy come from 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from respond import sends

pytest.importorskip("h11")
pytest.importorskip("webob")

from client import Answer, Client
from ports import free_port, serving, wait_until_full, wait_until_listening

from wsgifile import FileWrapperMiddleware, Transfer, XAccelRedirect, XSendfile
from wsgifile.offload import Offload, Proxies
from wsgifile.transfer import Declined

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import offload as example

MODULE = "/usr/lib/apache2/modules/mod_xsendfile.so"
DATA = bytes(range(256)) * 1000
NAMES = [
    b"plain.bin",
    b"with space",
    b"100%",
    b"%41%2e",
    b"what?",
    b"a#b",
    b"a+b&c=d;e",
    b"a..b",
    b'it\'s "quoted"',
    b"back\\slash",
    "Füße 日本".encode(),
    b"latin-\xe9",
    b"new\nline",
    b"-",
    b"@x",
]
#: mod_xsendfile 0.12 takes names unquoted, and a field cannot contain a line end.
APACHE_CANNOT = {b"new\nline"}
DROPPED = ("x-accel-redirect", "x-sendfile")


class App:
    """Answers with what ``respond`` returns, and keeps the transfers."""

    def __init__(self) -> None:
        self.files = 0
        self.ended: list[Transfer] = []
        self.respond: Any = None
        self.path = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        app_iter = self.respond(environ, start_response)
        self.files += hasattr(app_iter, "read")
        return app_iter

    @property
    def transfers(self) -> list[Transfer]:
        """The transfers of all files, waited for: the client may have its answer earlier."""
        deadline = time.monotonic() + 10
        while len(self.ended) < self.files:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return self.ended

    @property
    def senders(self) -> list[str]:
        return [transfer.sender for transfer in self.transfers]


Through = tuple[App, Client, Client]


@pytest.fixture(scope="module")
def directory() -> Iterator[str]:
    # Not below pytest's directory, because other users, such as Apache's, may not enter that.
    with tempfile.TemporaryDirectory(prefix="offload-") as name:
        os.chmod(name, 0o755)
        root = os.path.realpath(name)
        os.mkdir(f"{root}/files")
        os.mkdir(f"{root}/filesystem")  # Begins with the same letters as "files".
        for file in NAMES:
            write(os.path.join(os.fsencode(root), b"files", file), file + DATA)
        write(f"{root}/outside", b"outside" + DATA)
        write(f"{root}/filesystem/near", b"near" + DATA)
        os.symlink("../outside", f"{root}/files/out")
        os.symlink("plain.bin", f"{root}/files/in")
        os.symlink("files", f"{root}/link")
        yield root


def write(path: str | bytes, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


@contextlib.contextmanager
def front(server: str, directory: str, ports: list[int]) -> Iterator[int]:
    """Run nginx or Apache in front of the applications on these ports. Yields its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="scratch-") as scratch:
        command = example.command(server, directory, port, ports, scratch)
        log = Path(scratch, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            wait_until_listening(port, process, log)
            yield port
        finally:
            process.terminate()
            process.wait(20)


def ask(port: int, path: str, **options: Any) -> Answer:
    with Client(port) as client:
        return client.get(path, **options)


HEADERS = {"nginx": XAccelRedirect.header, "apache": XSendfile.header}


def offload(server: str, directory: str) -> Offload:
    if server == "nginx":
        return XAccelRedirect({f"{directory}/files": "/_files"})
    return XSendfile([f"{directory}/files"], quoted=False)


@pytest.fixture(scope="module", params=["nginx", "apache"])
def proxy(request: pytest.FixtureRequest) -> Any:
    if shutil.which(example.command(request.param, "", 0, [], tempfile.gettempdir())[0]) is None:
        pytest.skip(f"{request.param} is not installed")
    if request.param == "apache" and not os.path.exists(MODULE):
        pytest.skip("mod_xsendfile is not installed")
    return request.param


@pytest.fixture(scope="module")
def through(proxy: str, directory: str) -> Iterator[Through]:
    """The application, a client that goes through the proxy, and one that goes around it."""
    app = App()
    middleware = FileWrapperMiddleware(
        app,
        offload=offload(proxy, directory),
        trusted_proxies=["127.0.0.1"],
        on_sent=app.ended.append,
    )
    with (
        serving(middleware) as own,
        front(proxy, f"{directory}/files", [own]) as port,
        Client(port) as client,
        Client(own) as past,
    ):
        yield app, client, past


@pytest.fixture
def app(through: Through) -> Iterator[App]:
    app = through[0]
    yield app
    app.transfers.clear()
    app.files = 0
    app.respond = None


@pytest.fixture
def get(through: Through, app: App, directory: str) -> Callable[..., Answer]:
    """A function that gets a file of this name through the proxy."""

    def get(name: str | bytes, *headers: tuple[str, str], **options: Any) -> Answer:
        path = os.path.join(os.fsencode(directory), b"files", os.fsencode(name))
        if app.respond is None:
            app.respond = sends(lambda: open(path, "rb"), *TYPED)
        answer = through[1].get("/" + quote(os.fsencode(name)), headers=headers, **options)
        assert not answer.short
        assert not any(name in answer.headers for name in DROPPED)
        return answer

    return get


TYPED = [
    ("Content-Type", "video/x-test"),
    ("Content-Disposition", 'attachment; filename="x"'),
    ("Set-Cookie", "a=1"),
    ("Cache-Control", "private"),
    ("Vary", "Cookie"),
    ("X-Content-Type-Options", "nosniff"),
]


def test_whole(app: App, get: Callable[..., Answer], proxy: str) -> None:
    answer = get("plain.bin")
    assert answer.status == 200
    assert answer.body == b"plain.bin" + DATA
    assert answer.headers["content-length"] == str(len(answer.body))
    for name, value in TYPED:
        assert answer.headers[name.lower()] == value, name
    [transfer] = app.transfers
    assert transfer.sender == HEADERS[proxy]
    assert (transfer.count, transfer.sent, transfer.error) == (0, 0, None)


def test_head(app: App, get: Callable[..., Answer]) -> None:
    answer = get("plain.bin", method="HEAD")
    assert answer.status == 200
    assert answer.headers["content-length"] == str(len(b"plain.bin" + DATA))
    assert app.senders[0].startswith("X-")


def test_range(app: App, get: Callable[..., Answer]) -> None:
    answer = get("plain.bin", ("Range", "bytes=5-1004"))
    assert answer.status == 206
    assert answer.body == (b"plain.bin" + DATA)[5:1005]
    assert answer.headers["content-range"] == f"bytes 5-1004/{len(DATA) + 9}"
    assert app.senders[0].startswith("X-")


def test_not_modified(app: App, get: Callable[..., Answer]) -> None:
    """The validators are those of the proxy, and differ from ours."""
    first = get("plain.bin")
    for condition, validator in (
        ("If-None-Match", "etag"),
        ("If-Modified-Since", "last-modified"),
    ):
        answer = get("plain.bin", (condition, first.headers[validator]))
        assert (answer.status, answer.body) == (304, b"")
    answer = get("plain.bin", ("If-Match", first.headers["etag"]))
    assert answer.status == 200
    assert all(sender.startswith("X-") for sender in app.senders)


@pytest.mark.parametrize("name", NAMES)
def test_names(
    app: App, get: Callable[..., Answer], proxy: str, directory: str, name: bytes
) -> None:
    app.respond = sends(lambda: open(os.path.join(os.fsencode(directory), b"files", name), "rb"))
    answer = get("any")
    assert answer.status == 200
    assert answer.body == name + DATA
    by_proxy = not (proxy == "apache" and name in APACHE_CANNOT)
    assert app.senders[0].startswith("X-") == by_proxy


def test_link_inside(app: App, get: Callable[..., Answer]) -> None:
    assert get("in").body == b"plain.bin" + DATA
    assert app.senders[0].startswith("X-")


@pytest.mark.parametrize("name", ["out", "../outside", "../filesystem/near"])
def test_outside(app: App, get: Callable[..., Answer], directory: str, name: str) -> None:
    """The application may send such a file. The proxy might refuse it, so we send it."""
    app.respond = sends(lambda: open(f"{directory}/files/{name}", "rb"))
    with open(f"{directory}/files/{name}", "rb") as file:
        assert get("any").body == file.read()
    assert app.senders == ["wsgi.file_wrapper"]


def test_dots_that_stay_inside(app: App, get: Callable[..., Answer], directory: str) -> None:
    app.respond = sends(lambda: open(f"{directory}/link/../files/./plain.bin", "rb"))
    assert get("any").body == b"plain.bin" + DATA
    assert app.senders[0].startswith("X-")


@pytest.mark.parametrize("there", [b"another file", None])
def test_swapped(
    app: App, get: Callable[..., Answer], directory: str, there: bytes | None
) -> None:
    """The file that was opened is sent, whatever has its name by then."""
    path = f"{directory}/files/swapped"

    def open_file() -> Any:
        write(path, b"opened" + DATA)
        file = open(path, "rb")
        os.unlink(path)
        if there is not None:
            write(path, there)
        return file

    app.respond = sends(open_file)
    assert get("any").body == b"opened" + DATA
    assert app.senders == ["wsgi.file_wrapper"]


def test_past_the_proxy(through: Through, app: App, directory: str) -> None:
    """A client that does not come through the proxy gets the bytes."""
    path = f"{directory}/files/plain.bin"
    middleware = FileWrapperMiddleware(
        sends(lambda: open(path, "rb")),
        offload=XAccelRedirect({f"{directory}/files": "/_files"}),
        trusted_proxies=["10.0.0.0/8"],
        on_sent=app.ended.append,
    )
    with serving(middleware) as port:
        answer = ask(port, "/")
    assert answer.body == b"plain.bin" + DATA
    assert not any(name in answer.headers for name in DROPPED)
    assert app.senders == ["wsgi.file_wrapper"]


@pytest.mark.parametrize(("client", "left"), [("127.0.0.1", False), ("10.1.2.3", True)])
def test_an_application_that_believes_its_client(directory: str, client: str, left: bool) -> None:
    """The address that reaches us counts, not the one that ProxyFix takes from a field."""
    proxy_fix = pytest.importorskip("werkzeug.middleware.proxy_fix")
    app = proxy_fix.ProxyFix(sends(lambda: open(f"{directory}/files/plain.bin", "rb")))
    environ = {
        "REMOTE_ADDR": client,
        "HTTP_X_FORWARDED_FOR": "127.0.0.1" if client == "10.1.2.3" else "10.1.2.3",
    }
    got = answer(app, directory, environ, trusted_proxies=["10.0.0.0/8"])
    assert ("x-sendfile" in got["headers"]) == left
    assert (got["body"] == b"") == left


@pytest.mark.parametrize("delete", [True, False])
def test_temporary(app: App, get: Callable[..., Answer], directory: str, delete: bool) -> None:
    """A file that close() deletes is gone when the proxy looks for it, so we send it."""

    def open_file() -> Any:
        file = tempfile.NamedTemporaryFile(dir=f"{directory}/files", delete=delete)
        os.chmod(file.name, 0o644)
        file.write(DATA)
        file.seek(0)
        return file

    app.respond = sends(open_file)
    answer = get("any")
    assert (answer.status, answer.body) == (200, DATA)
    assert app.senders == ["wsgi.file_wrapper"] if delete else app.senders[0].startswith("X-")


def test_large_and_slow(through: Through, app: App) -> None:
    """A body that we send may have to wait until the proxy has buffered it on disk."""
    data = DATA * 100
    app.respond = sends(lambda: io.BytesIO(data))
    through[1].send("/")
    wait_until_full(through[1].connect())
    assert through[1].receive(1 << 20).body == data


def test_its_own_header(app: App, through: Through, proxy: str, directory: str) -> None:
    """An application may set the field of the proxy itself."""
    value = "/_files/plain.bin" if proxy == "nginx" else f"{directory}/files/plain.bin"
    field = (HEADERS[proxy], value)
    app.respond = sends(lambda: [b""], field)
    assert through[1].get("/").body == b"plain.bin" + DATA
    assert through[2].get("/").headers[field[0].lower()] == value
    # And it may return a file as well. Then the proxy answers Range, not we.
    app.respond = sends(lambda: open(f"{directory}/files/100%", "rb"), field)
    if proxy == "nginx":  # mod_xsendfile also sends such a body, without its first block.
        answer = through[1].get("/", headers=(("Range", "bytes=1-3"),))
        assert (answer.status, answer.body) == (206, b"lai")
    answer = through[2].get("/", headers=(("Range", "bytes=1-3"),))
    assert (answer.status, answer.body) == (200, b"100%" + DATA)
    assert answer.headers[field[0].lower()] == value


FROM_CLIENTS = (
    ("X-Accel-Redirect", "/_files/what%3F"),
    ("X-Sendfile", "/etc/passwd"),
    ("X-Sendfile-Type", "X-Accel-Redirect"),
    ("X-Accel-Mapping", "/=/_files/"),
)


def test_a_client_that_sends_the_headers(app: App, get: Callable[..., Answer]) -> None:
    assert get("plain.bin", *FROM_CLIENTS).body == b"plain.bin" + DATA
    assert app.senders[0].startswith("X-")


def test_cve_2025_61780(directory: str) -> None:
    """A client cannot turn offload on, nor map directories, with X-Sendfile-Type."""
    path = f"{directory}/files/plain.bin"
    for other in (None, XSendfile([f"{directory}/filesystem"])):
        app = FileWrapperMiddleware(sends(lambda: open(path, "rb")), offload=other)
        with serving(app) as port:
            answer = ask(port, "/", headers=FROM_CLIENTS)
        assert answer.body == b"plain.bin" + DATA
        assert not any(name in answer.headers for name in DROPPED)


def test_cve_2026_34830(directory: str) -> None:
    """The name of a directory is not a regular expression. X-Accel-Mapping is ignored."""
    path = f"{directory}/files/plain.bin"
    for root in (f"{directory}/f.les", f"{directory}/(files)", f"{directory}/.*"):
        os.mkdir(root)
        middleware = FileWrapperMiddleware(
            sends(lambda: open(path, "rb")), offload=XAccelRedirect({root: "/_files"})
        )
        with serving(middleware) as port:
            mapping = ("X-Accel-Mapping", f"{directory}/(.*)=/_files/$1")
            answer = ask(port, "/", headers=(mapping,))
        assert answer.body == b"plain.bin" + DATA
        assert not any(name in answer.headers for name in DROPPED)


def test_cve_2025_27111(directory: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a request nor a line end in the name of a file gets into the log."""
    caplog.set_level(logging.DEBUG, "wsgifile")
    path = os.path.join(os.fsencode(directory), b"files", b"new\nline")
    middleware = FileWrapperMiddleware(
        sends(lambda: open(path, "rb")), offload=XSendfile([directory], quoted=True)
    )
    with serving(middleware) as port:
        answer = ask(port, "/FORGED", headers=(("X-Sendfile-Type", "FORGED%0d%0a"),))
    assert answer.headers["x-sendfile"].endswith("/new%0Aline")
    assert "X-Sendfile" in caplog.text
    for record in caplog.records:
        message = record.getMessage()
        assert "FORGED" not in message
        assert message.isprintable()


def test_two_processes(proxy: str, directory: str) -> None:
    """Behind one proxy, the client gets the same answer from both."""
    processes, ports = [], [free_port(), free_port()]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import logging, waitress, offload\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "app = offload.application(sys.argv[2], sys.argv[3])\n"
        "waitress.serve(app, host='127.0.0.1', port=int(sys.argv[4]))\n"
    )
    files = f"{directory}/files"
    try:
        for port in ports:
            command = [sys.executable, "-c", code, os.path.dirname(example.__file__), proxy, files]
            processes.append(
                subprocess.Popen([*command, str(port)], stderr=subprocess.PIPE, text=True)
            )
        for port, process in zip(ports, processes, strict=True):
            wait_until_listening(port, process)
        with front(proxy, files, ports) as port:
            answers = [ask(port, "/plain.bin") for _ in range(10)]
            etag = answers[0].headers["etag"]
            again = [
                ask(port, "/plain.bin", headers=(("If-None-Match", etag),)) for _ in range(10)
            ]
    finally:
        for process in processes:
            process.terminate()
        logs = [process.communicate(timeout=20)[1] for process in processes]
    assert {answer.body for answer in answers} == {b"plain.bin" + DATA}
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert {answer.status for answer in again} == {304}
    assert all("by X-" in log for log in logs)


# Which files are left to a proxy: tests without a proxy.


def test_prefixes(directory: str) -> None:
    """The innermost directory counts. It may be a link, and the link may change."""
    path = f"{directory}/files/plain.bin"
    with open(path, "rb") as file:
        both = XAccelRedirect({directory: "/all", f"{directory}/files": "/f/"})
        assert both.field(file) == ("X-Accel-Redirect", "/f/plain.bin")
        assert XAccelRedirect({"/": "/"}).field(file) == ("X-Accel-Redirect", quote(path))
        assert XSendfile(["/"]).field(file) == ("X-Sendfile", quote(path))
        assert XSendfile([Path(directory)]).field(file) == ("X-Sendfile", quote(path))
        link = XSendfile([f"{directory}/link"])
        assert link.field(file) == ("X-Sendfile", f"{directory}/link/plain.bin")
        os.unlink(f"{directory}/link")
        os.symlink("filesystem", f"{directory}/link")
        try:
            assert isinstance(link.field(file), Declined)
        finally:
            os.unlink(f"{directory}/link")
            os.symlink("files", f"{directory}/link")


def test_quoted(directory: str) -> None:
    files = os.path.join(os.fsencode(directory), b"files")
    for quoted in (True, False, None):
        offload = XSendfile([directory], quoted=quoted)
        for name in NAMES:
            path = os.path.join(files, name)
            with open(path, "rb") as file:
                field = offload.field(file)
            if quoted or (quoted is None and quote(name) == os.fsdecode(name)):
                assert field == ("X-Sendfile", quote(path))
            elif quoted is None or name == b"new\nline":
                assert isinstance(field, Declined)
            else:
                assert field == ("X-Sendfile", path.decode("latin-1"))
    for name in (b"ends ", b"tab\t", b"nul\x7f"):
        path = os.path.join(files, name)
        write(path, b"x")
        with open(path, "rb") as file:
            assert isinstance(XSendfile([directory], quoted=False).field(file), Declined)


def test_too_long(directory: str) -> None:
    name = "ü" * 120
    path = os.path.join(directory, *[name] * 3, "x")
    os.makedirs(os.path.dirname(path))
    write(path, b"x")
    with open(path, "rb") as file:
        assert isinstance(XSendfile([directory], quoted=False).field(file), tuple)
        declined = XSendfile([directory], quoted=True).field(file)
    assert isinstance(declined, Declined)
    assert "too long" in declined.reason


def test_a_name_that_was_set(directory: str) -> None:
    with open(f"{directory}/files/plain.bin", "rb") as file:
        raw: Any = file.raw
        raw.name = "nul\0"
        declined = XSendfile([directory]).field(file)
    assert isinstance(declined, Declined)
    assert "not there" in declined.reason


def test_dots_in_a_directory(directory: str) -> None:
    """The kernel follows a link before it goes up, and so do we."""
    os.makedirs(f"{directory}/other/inner")
    os.symlink(f"{directory}/other/inner", f"{directory}/files/inner")
    write(f"{directory}/other/x", b"x")
    with open(f"{directory}/files/inner/../x", "rb") as file:
        offload = XAccelRedirect({f"{directory}/files/inner/..//": "/f"})
        assert offload.field(file) == ("X-Accel-Redirect", "/f/x")


def test_relative_name(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(f"{directory}/files")
    with open("plain.bin", "rb") as file:
        assert XSendfile([directory]).field(file) == ("X-Sendfile", f"{directory}/files/plain.bin")
        monkeypatch.chdir(directory)
        assert isinstance(XSendfile([directory]).field(file), Declined)
        gone = tempfile.mkdtemp()
        monkeypatch.chdir(gone)
        os.rmdir(gone)
        assert isinstance(XSendfile([directory]).field(file), Declined)
        monkeypatch.chdir(directory)


def answer(
    app: WSGIApplication, directory: str, environ: Any = (), **options: Any
) -> dict[str, Any]:
    got: dict[str, Any] = {}

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None
    ) -> Callable[[bytes], object]:
        got.update(status=status, headers={name.lower(): value for name, value in headers})
        return lambda data: None

    middleware = FileWrapperMiddleware(app, offload=XSendfile([directory]), **options)
    environ = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": "127.0.0.1", **dict(environ)}
    if environ["REMOTE_ADDR"] is None:
        del environ["REMOTE_ADDR"]
    body: Any = middleware(environ, start_response)
    with contextlib.closing(body):
        got["body"] = b"".join(body)
    return got


def seek(file: Any, position: int) -> Any:
    file.seek(position)
    return file


def test_what_is_left_to_it(directory: str) -> None:
    path = f"{directory}/files/plain.bin"
    size = len(DATA) + 9
    for headers, environ, options in [
        ([], {}, {}),
        ([], {}, {"ranges": False, "validators": False}),
        ([], {"HTTP_RANGE": "bytes=0-3"}, {}),
        ([], {"HTTP_IF_NONE_MATCH": "*"}, {}),
        ([("Content-Length", str(size))], {}, {}),
        ([("ETag", '"own"'), ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")], {}, {}),
        ([("Content-Encoding", "identity"), ("Accept-Ranges", "bytes")], {}, {}),
    ]:
        got = answer(sends(lambda: open(path, "rb"), *headers), directory, environ, **options)
        assert got["status"] == "200 OK"
        assert got["body"] == b""
        assert got["headers"].pop("x-sendfile") == path
        assert got["headers"].pop("content-length") == "0"
        # We add no field, and drop none of the application.
        own = {name.lower(): value for name, value in headers if name != "Content-Length"}
        assert got["headers"] == own


def test_what_is_not_left_to_it(directory: str) -> None:
    path = f"{directory}/files/plain.bin"
    own = open(path, "rb")
    by_number = open(os.dup(own.fileno()), "rb")
    own.close()
    for respond, environ in [
        (sends(lambda: io.BytesIO(DATA)), {}),
        (sends(lambda: by_number), {}),
        (sends(lambda: seek(open(path, "rb"), 5)), {}),
        (sends(lambda: open(path, "rb"), ("Content-Length", "5")), {}),
        (sends(lambda: open(path, "rb"), ("Content-Encoding", "gzip")), {}),
        (sends(lambda: open(path, "rb"), ("Accept-Ranges", "none")), {}),
        (sends(lambda: open(path, "rb"), ("Content-MD5", "x")), {}),
        (sends(lambda: open(path, "rb"), status="404 Not Found"), {}),
        (sends(lambda: open(path, "rb"), status="206 Partial Content"), {}),
        (sends(lambda: open(path, "rb")), {"REQUEST_METHOD": "POST"}),
    ]:
        got = answer(respond, directory, environ)
        assert "x-sendfile" not in got["headers"]
        assert got["body"]


def test_no_remote_addr(directory: str) -> None:
    app = sends(lambda: open(f"{directory}/files/plain.bin", "rb"))
    for networks in (["127.0.0.1"], ["unix"]):
        got = answer(app, directory, {"REMOTE_ADDR": None}, trusted_proxies=networks)
        assert ("x-sendfile" in got["headers"]) == (networks == ["unix"])


def test_after_write(directory: str) -> None:
    """The header has been sent and the body has begun, so the file is sent here."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])(b"begun")
        return open(f"{directory}/files/plain.bin", "rb")

    assert "x-sendfile" not in answer(app, directory)["headers"]


def test_the_file_is_closed(directory: str) -> None:
    file = open(f"{directory}/files/plain.bin", "rb")
    assert answer(sends(lambda: file), directory)["body"] == b""
    assert file.closed


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        (["::ffff:10.0.0.0/104"], ["::ffff:10.0.0.1"], ["10.0.0.1", "::ffff:11.0.0.1"]),
        (["127.0.0.1"], ["127.0.0.1", "::ffff:127.0.0.1"], ["127.0.0.2", "", "localhost", "x"]),
        (["10.0.0.0/8", "fd00::/8"], ["10.1.2.3", "fd00::1"], ["11.0.0.1", "::1"]),
        (["unix"], ["", "localhost", "0.0.0.0", "<local>"], ["127.0.0.1", "unix", "unknown"]),
        ([], [], ["127.0.0.1", ""]),
    ],
)
def test_networks(networks: list[str], inside: list[str], outside: list[str]) -> None:
    proxies = Proxies(networks)
    assert all(map(proxies.include, inside))
    assert not any(map(proxies.include, outside))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: XAccelRedirect({}), ValueError, "needs at least one directory"),
        (lambda: XAccelRedirect(["/"]), TypeError, "mapping of directories"),  # type: ignore[arg-type]
        (lambda: XAccelRedirect({"srv": "/f"}), ValueError, "'srv' is not the absolute path"),
        (lambda: XAccelRedirect({"/": "f"}), ValueError, "'f' is not a location"),
        (lambda: XAccelRedirect({"/": "/a b"}), ValueError, "'/a b' is not a location"),
        (lambda: XAccelRedirect({"/": "/f?x"}), ValueError, "is not a location"),
        (lambda: XAccelRedirect({"/": None}), TypeError, "must be a str"),  # type: ignore[dict-item]
        (lambda: XAccelRedirect({3: "/f"}), TypeError, "must be a str or a path, not 3"),
        (lambda: XSendfile([]), ValueError, "needs at least one directory"),
        (lambda: XSendfile("/"), TypeError, "list of directories"),
        (lambda: XSendfile(["../srv"]), ValueError, "not the absolute path"),
        (lambda: XSendfile(["/"], quoted="yes"), TypeError, "quoted must be"),  # type: ignore[arg-type]
        (lambda: Proxies("127.0.0.1"), TypeError, "list of networks"),
        (lambda: Proxies([1]), TypeError, "list of str, not 1 in it"),  # type: ignore[list-item]
        (lambda: Proxies(["10.0.0.1/8"]), ValueError, "has host bits set"),
        (lambda: Proxies(["localhost"]), ValueError, "trusted_proxies .* not 'localhost'"),
        (
            lambda: FileWrapperMiddleware(sends(lambda: None), trusted_proxies=["unix"]),
            ValueError,
            "trusted_proxies is for offload",
        ),
        (lambda: XSendfile(["/not/there"]), ValueError, "offload: .* no directory '/not/there'"),
        (lambda: XAccelRedirect({"/not/there": "/f"}), ValueError, "offload: .* no directory"),
        (lambda: FileWrapperMiddleware(sends(None), offload="nginx"), TypeError, "XAccelRedirect"),  # type: ignore[arg-type]
        (lambda: FileWrapperMiddleware(sends(None), on_sent=3), TypeError, "on_sent must be"),  # type: ignore[arg-type]
    ],
)
def test_bad_configuration(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
