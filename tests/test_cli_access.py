"""Who may read what the command line serves: a password, TLS, and scripts of other sites."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import COMMAND, LINE, ask, get, logged, serving, started
from test_cli_announce import connected
from test_clients import Browser, needed
from tls import CERTIFICATE, wrapped

from wsgifile.cli.access import _ELSEWHERE, Local
from wsgifile.cli.serving import _cut_off

SECRET = "jörg:pass:wörd"


def basic(secret: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(secret.encode()).decode()}"


def status(url: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    """As get(), also for an answer that is an error."""
    try:
        return get(url, method, **headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.parametrize("way", ["option", "environment"])
def test_password(site: Path, tmp_path: Path, way: str) -> None:
    """Everything is 401 without the password, also what does not exist or is no GET."""
    log = tmp_path / "log"
    options = ["--auth", SECRET] if way == "option" else []
    env = {"WSGIFILE_AUTH": SECRET if way == "environment" else "other:one"}
    with serving(str(site), *options, log=log, env=env) as url:
        for given in (SECRET, SECRET):
            assert get(url + "data.bin", Authorization=basic(given))[0] == 200
        assert get(url + "data.bin", Authorization=basic(SECRET, "bASIC"))[0] == 200
        answers = {
            status(url + path, method, **({"Authorization": given} if given else {}))[::2]
            for path in ("", "data.bin", "nosuch", ".env", "%00")
            for method in ("GET", "DELETE", "OPTIONS")
            for given in (
                "",
                "Basic",
                "Basic ",
                "Basic \xff",
                "Basic !!!",
                "Basic YQ",
                basic(""),
                basic(":"),
                basic("jörg:"),
                basic(SECRET + "x"),
                basic(SECRET[:-1]),
                basic("other:one"),
                basic(SECRET, "Bearer"),
                SECRET.encode().decode("latin-1"),
            )
        }
        assert answers == {(401, b"A user name and a password are needed.\n")}
        code, headers, _ = status(url + "data.bin", "HEAD")
        assert (code, headers["ETag"]) == (401, None)
        # waitress would send a body, and the client would take it for the next answer.
        assert ask(url, b"/data.bin", b"HEAD").endswith(b"\r\n\r\n")
        assert headers["WWW-Authenticate"] == 'Basic realm="wsgifile", charset="UTF-8"'
    text = log.read_text()
    assert " 401 " in text
    for part in ("jörg", "pass", "wörd", "w\\xf6rd", base64.b64encode(SECRET.encode()).decode()):
        assert part not in text


def test_application_does_not_see_the_password(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "import os\ndef app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    seen = environ.get('HTTP_AUTHORIZATION'), os.environ.get('WSGIFILE_AUTH')\n"
        "    return [repr((environ['REMOTE_USER'], *seen)).encode()]\n"
    )
    with serving("module:app", cwd=tmp_path, env={"WSGIFILE_AUTH": "a:b"}) as url:
        assert get(url, Authorization=basic("a:b"))[2] == b"('a', None, None)"


def test_curl_and_password(site: Path) -> None:
    """A client that knows the password resumes a download."""
    curl = needed("curl")
    with serving(str(site), "--auth", "a:b") as url:
        part = site.parent / "part"
        part.write_bytes((site / "data.bin").read_bytes()[:1000])
        command = [curl, "--fail", "-s", "-C", "-", "-o", str(part), url + "data.bin"]
        assert subprocess.run(command).returncode == 22
        assert subprocess.run([*command, "-u", "a:b"]).returncode == 0
        assert part.read_bytes() == (site / "data.bin").read_bytes()


@pytest.mark.parametrize("value", ["geheim", ":geheim", "geheim:", ""])
@pytest.mark.parametrize("way", ["option", "environment"])
def test_bad_password(site: Path, value: str, way: str) -> None:
    """The message does not show it."""
    options = ["--auth", value] if way == "option" else []
    env = {**os.environ, "WSGIFILE_AUTH": "other" if options else value}
    done = subprocess.run(
        [*COMMAND, *options, str(site)], capture_output=True, text=True, timeout=60, env=env
    )
    assert (done.returncode, done.stdout) == (2, "")
    source = "argument --auth" if options else "environment variable WSGIFILE_AUTH"
    assert done.stderr == f"wsgifile: {source}: not of the form user:password\n"


@pytest.mark.parametrize("options", [[], ["--cert"]])
def test_warning_without_tls(site: Path, options: list[str]) -> None:
    """A password that crosses a network in the clear is worth a warning."""
    pytest.importorskip("cheroot")
    command = [*connected(), *COMMAND, "-p", "8080", "-b", "192.0.2.77", "--auth", "a:b"]
    if options:
        options = [*options, str(certificate(site.parent))]
    with started(*command, *options, str(site)) as (process, line):
        assert line == f"Serving {site} on http{'s' * bool(options)}://192.0.2.77:8080/\n"
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
        assert "is open to anyone with the password who can reach 192.0.2.77 port 8080\n" in said
        assert ("the password crosses the network in the clear" in said) is not bool(options)


def test_names_of_this_machine(site: Path) -> None:
    """A site whose name leads to 127.0.0.1 cannot read the files by somebody's browser."""
    own = ["localhost", "LOCALHOST:80", "a.localhost:1", "127.0.0.1:9", "127.1", "box", ""]
    own += ["[::1]:80", "[::ffff:127.0.0.1]:80"]
    with serving(str(site)) as url:
        for host in (*own, f"{socket.gethostname()}.:80"):
            assert status(url + "empty", Host=host)[0] == 200, host
        for host in ("rebound.example", "rebound.example:80", "localhost.example", "127.0.0.1.b"):
            assert status(url + "empty", Host=host)[::2] == (421, _ELSEWHERE), host
            assert status(url + "nosuch", "HEAD", Host=host)[::2] == (421, b""), host
    for options in (["--cors"], ["--auth", "a:b"], ["-b", "127.0.0.1"]):
        asked = {"Host": "rebound.example", "Authorization": basic("a:b")}
        with serving(str(site), *options) as url:
            code = status(url + "empty", **asked)[0]
            assert code == (421 if "-b" in options else 200), options


def test_addresses_of_this_machine_only() -> None:
    assert all(map(Local.is_for, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(Local.is_for, ("0.0.0.0", "::", "192.0.2.1", "example.org", "")))


def test_cors(site: Path) -> None:
    """The scripts of any site may read files, ranges and answers of the middleware."""
    with serving(str(site), "--cors") as url:
        code, headers, _ = get(url + "data.bin", Range="bytes=0-4", Origin="http://a.test")
        assert (code, headers["Access-Control-Allow-Origin"]) == (206, "*")
        assert "Content-Range" in headers["Access-Control-Expose-Headers"]
        for path, extra in (
            ("data.bin", {"If-None-Match": headers["ETag"]}),
            ("data.bin", {"Range": "bytes=9999999-"}),
            ("nosuch", {}),
            ("", {}),
        ):
            assert status(url + path, **extra)[1]["Access-Control-Allow-Origin"] == "*"
        code, headers, body = get(url + "data.bin", "OPTIONS")
        assert (code, body, headers["Access-Control-Allow-Methods"]) == (204, b"", "GET, HEAD")
        assert "Range" in headers["Access-Control-Allow-Headers"]
    with serving(str(site)) as url:
        assert get(url + "data.bin")[1]["Access-Control-Allow-Origin"] is None


def test_cors_in_a_browser(site: Path, tmp_path: Path) -> None:
    """A page of another site reads a range, if there is --cors."""
    (site / "page.html").write_text("a page")
    script = """(async () => {
        try {
            let headers = {'Range': 'bytes=5-9', 'If-Range': 'x'};
            let answer = await fetch('%sdata.bin', {headers: headers});
            document.title = answer.status + ' ' + answer.headers.get('Content-Length');
        } catch (error) { document.title = 'refused'; }
    })()"""
    chromium = needed("chromium")
    with (
        serving(str(site)) as page,
        serving(str(site)) as closed,
        serving(str(site), "--cors") as url,
    ):
        browser = Browser(chromium, tmp_path / "profile")
        try:
            browser.call("Page.navigate", url=page + "page.html")
            browser.wait_for("document.body && document.body.innerText == 'a page'")
            for other, expected in ((closed, "refused"), (url, "200 300000")):
                browser.evaluate("document.title = ''")
                browser.evaluate(script % other)
                browser.wait_for("document.title")
                assert browser.evaluate("document.title") == expected
        finally:
            browser.close()


def certificate(directory: Path) -> Path:
    """A file with a key and a certificate."""
    path = directory / "cert.pem"
    path.write_text(CERTIFICATE)
    return path


@contextmanager
def encrypting(
    target: Path | str, *options: str, log: Path, cwd: Path | None = None
) -> Iterator[str]:
    """The command with TLS, and its URL."""
    pytest.importorskip("cheroot")
    cert = certificate(log.parent)
    command = [*COMMAND, "-p", "0", "--cert", str(cert), *options, str(target)]
    with log.open("w") as stderr, started(*command, cwd=cwd, stderr=stderr) as (process, line):
        url = line.split()[-1]
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+/", url)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def fetch(url: str, data: bytes | None = None, **headers: str) -> tuple[int, Message, bytes]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=20, context=context) as answer:
        return answer.status, answer.headers, answer.read()


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.split(":")[2].strip("/"))), 20)


def test_tls(site: Path, tmp_path: Path) -> None:
    """Files, ranges and listings over TLS. The log is the same."""
    log = tmp_path / "log"
    data = (site / "data.bin").read_bytes()
    with encrypting(site, log=log) as url:
        assert fetch(url + "data.bin")[2] == data
        code, _, body = fetch(url + "data.bin", Range="bytes=1000-")
        assert (code, body) == (206, data[1000:])
        assert b"data.bin" in fetch(url)[2]
        lines = logged(log, 3)
    assert ("GET /data.bin HTTP/1.1", "206", "299000", "read", "") in lines


def test_tls_with_the_key_in_a_file_of_its_own(site: Path, tmp_path: Path) -> None:
    key, cert = re.findall("-----BEGIN .*?-----END [^\n]*\n", CERTIFICATE, re.DOTALL)
    (tmp_path / "key").write_text(key)
    (tmp_path / "cert").write_text(cert)
    pytest.importorskip("cheroot")
    command = [*COMMAND, "-p", "0", "--cert", "cert", "--key", "key", str(site)]
    with started(*command, cwd=tmp_path) as (_, line):
        assert fetch(line.split()[-1] + "empty")[2] == b""


@pytest.mark.parametrize(
    ("key", "options", "warned"),
    [
        ("site/key.pem", ["site"], True),
        ("site/sub/key.pem", ["sub", "site"], True),
        ("site/.key/pem", ["site"], False),
        ("site/.key/pem", ["site", "--hidden"], True),
        ("key.pem", ["site"], False),
        ("key.pem", ["key.pem"], True),
    ],
)
def test_key_that_is_served(tmp_path: Path, key: str, options: list[str], warned: bool) -> None:
    """Whoever makes a certificate in the directory is told that others can read the key."""
    pytest.importorskip("cheroot")
    (tmp_path / "sub").mkdir()
    for name in ("site", "site/sub", "site/.key"):
        (tmp_path / name).mkdir()
    (tmp_path / key).write_text(CERTIFICATE)
    command = [*COMMAND, "-p", "0", "--cert", key, *options]
    with started(*command, cwd=tmp_path) as (process, line):
        assert fetch(line.split()[-1])[0] == 200
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=20)[1]
    assert (f"wsgifile: the private key is served, too: {key}\n" in error) == warned


def test_clients_that_keep_silent(site: Path, tmp_path: Path) -> None:
    """They hold no thread, and do not stop the handshakes of others."""
    log = tmp_path / "log"
    with encrypting(site, "--threads", "2", log=log) as url:
        silent = [connect(url) for _ in range(6)]
        # If each of them held a thread for ten seconds, this one would give up after twenty.
        assert fetch(url + "empty")[2] == b""
        for each in silent:
            each.close()
        lines = logged(log, 1)
    assert len(lines) == 1


def test_clients_that_speak_no_tls(site: Path, tmp_path: Path) -> None:
    """They are cut off, get nothing, and are no news."""
    log = tmp_path / "log"
    with encrypting(site, log=log) as url:
        for data in (b"GET /data.bin HTTP/1.0\r\n\r\n", b"\0junk\n" * 100, b"\x16\x03"):
            with connect(url) as sock:
                answer = b""
                with suppress(OSError):  # It was reset.
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                    while part := sock.recv(1000):
                        answer += part
                assert b"HTTP" not in answer
        assert fetch(url + "empty")[2] == b""
        logged(log, 1)
    assert LINE.fullmatch(log.read_text().strip())


def test_download_over_tls_that_ends_early(site: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (site / "large").open("wb") as file:
        file.truncate(200_000_000)
    with encrypting(site, log=log) as url:
        with wrapped(connect(url)) as sock:
            sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
            assert sock.recv(100)
        [line] = logged(log, 1)
    assert line[4] == " aborted of 200000000: the connection was closed"


def test_ctrl_c_during_a_download_over_tls(site: Path, tmp_path: Path) -> None:
    """A client that takes nothing does not keep the process alive."""
    with (site / "large").open("wb") as file:
        file.truncate(200_000_000)
    pytest.importorskip("cheroot")
    command = [*COMMAND, "-p", "0", "--cert", str(certificate(tmp_path)), str(site)]
    with started(*command) as (process, line), wrapped(connect(line.split()[-1])) as sock:
        sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        assert sock.recv(100)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_nothing_in_the_clear_when_a_connection_is_cut_off(tmp_path: Path) -> None:
    """The thread that sends cannot go on without encryption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    ours, theirs = socket.socketpair()
    with context.wrap_socket(ours, True, do_handshake_on_connect=False) as sock, theirs:
        _cut_off(SimpleNamespace(socket=sock))
        with pytest.raises(OSError, match=r"."):
            sock.send(b"secret")
        assert theirs.recv(100) == b""
    _cut_off(None)  # A thread that has none.


BODY = b"x" * ((64 << 10) + 1)


@pytest.mark.parametrize("tls", [False, True])
def test_bodies_of_requests(site: Path, tmp_path: Path, tls: bool) -> None:
    """Files need none. A server that takes it nevertheless would have to keep it."""
    log = tmp_path / "log"
    with encrypting(site, log=log) if tls else serving(str(site), log=log) as url:
        for body, code in ((BODY, b" 413 "), (BODY[1:], b" 405 ")):
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            with wrapped(connect(url)) if tls else connect(url) as sock:
                # The refusal comes before the body, which would meet a closed connection.
                sock.sendall(head)
                if code == b" 405 ":
                    sock.sendall(body)
                assert code in sock.recv(100)


@pytest.mark.parametrize("tls", [False, True])
def test_bodies_for_an_application(tmp_path: Path, tls: bool) -> None:
    """It may take uploads."""
    (tmp_path / "module.py").write_text("""
def app(environ, start_response):
    count = len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % count]
""")
    log = tmp_path / "log"
    options = ("module:app",)
    with (
        encrypting(*options, log=log, cwd=tmp_path)
        if tls
        else serving(*options, log=log, cwd=tmp_path) as url
    ):
        assert fetch(url, BODY)[2] == b"%d" % len(BODY)


def test_application_over_tls_that_fails(tmp_path: Path) -> None:
    """The traceback is on stderr."""
    (tmp_path / "module.py").write_text("def app(environ, start_response): 1 / 0\n")
    log = tmp_path / "log"
    with encrypting("module:app", log=log, cwd=tmp_path) as url:
        with pytest.raises(urllib.error.HTTPError, match="500") as failed:
            fetch(url)
        failed.value.close()
    assert "ZeroDivisionError: division by zero\n" in log.read_text()
    assert "Traceback" in log.read_text()


CANNOT = "cannot use --cert and --key: "


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cert", "nosuch"], f"{CANNOT}No such file or directory\n"),
        (["--cert", "empty"], f"{CANNOT}they are not a certificate and its key, as PEM\n"),
        (["--cert", "cert.pem", "--key", "empty"], f"{CANNOT}they are not a certificate"),
        (
            ["--cert", "cert.pem", "-b", "192.0.2.1"],
            "cannot listen on 192.0.2.1 port 8080: Cannot assign requested address\n",
        ),
        (["--key", "cert.pem"], "--key needs --cert\n"),
        (["--auth", "a:b", "--cors"], "--auth and --cors do not go together\n"),
    ],
)
def test_options_that_cannot_be_used(site: Path, options: list[str], message: str) -> None:
    pytest.importorskip("cheroot")
    certificate(site)
    done = subprocess.run(
        [*COMMAND, *options, "."], cwd=site, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"wsgifile: {message}")
    assert done.stderr.count("\n") == 1


def test_port_in_use_with_tls(site: Path) -> None:
    pytest.importorskip("cheroot")
    certificate(site)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        command = [*COMMAND, "--cert", "cert.pem", "-p", port, "."]
        done = subprocess.run(command, cwd=site, capture_output=True, text=True, timeout=60)
    message = f"cannot listen on 127.0.0.1 port {port}: the port is in use"
    assert (done.returncode, done.stderr) == (2, f"wsgifile: {message}\n")
