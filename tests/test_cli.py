"""The command line as a separate process: its options, its start and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from command_line import COMMAND, get, links, raw, serving, started
from ports import connect, free_port

from wsgifile.cli import announce


def test_file_whose_name_is_no_utf_8(site: Path) -> None:
    (site / os.fsdecode(b"f\xff.txt")).write_text("odd")
    with serving(os.fsdecode(b"f\xff.txt"), cwd=site) as url:
        assert url.endswith("/f%FF.txt")
        assert get(url)[2] == b"odd"


def test_names_that_begin_with_a_dash(site: Path) -> None:
    (site / "--zip").mkdir()
    (site / "-p").write_text("odd")
    with serving("--quiet", "--", "--zip", "-p", "sub", cwd=site) as url:
        assert links(url) == ["--zip/", "sub/", "-p"]
        assert get(url + "-p")[2] == b"odd"


def test_file(site: Path) -> None:
    path = site / "data.bin"
    with serving(str(path)) as url:
        assert url.endswith("/data.bin")
        assert get(url)[2] == path.read_bytes()
        assert raw(url, b"/other") == 404


def test_callable(tmp_path: Path) -> None:
    """The module is imported from the current directory, as WSGI servers do."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(
        "class app:\n"
        "    def wsgi(environ, start_response):\n"
        "        assert environ['wsgi.file_wrapper'].__module__ == 'wsgifile.wrapper'\n"
        "        start_response('200 OK', [])\n"
        "        return open(__file__, 'rb')\n"
    )
    with serving("package.module:app.wsgi", cwd=tmp_path) as url:
        assert get(url)[2] == (tmp_path / "package" / "module.py").read_bytes()


def test_options(site: Path) -> None:
    options = ["--host", "localhost", "--threads", "2", "--block-size", "1000"]
    with serving(str(site / "data.bin"), *options) as url:
        assert get(url)[2] == (site / "data.bin").read_bytes()


LAZY = "def __getattr__(name): raise ValueError('\x1b[31m\\n no')\n"
LATER = """
async def app(scope, receive, send): pass
class Later:
    async def __call__(self, scope, receive, send): pass
object = Later()
"""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nosuch"], "nosuch does not exist, and is not of the form package.module:callable"),
        (["nosuch:app"], "cannot import nosuch: ModuleNotFoundError: No module named 'nosuch'"),
        (["broken:app"], "cannot import broken: ZeroDivisionError: division by zero"),
        (["exits:app"], "cannot import exits: SystemExit: 3"),
        (["stopped:app"], "cannot import stopped: KeyboardInterrupt\n"),
        (["json:nosuch"], "json has no nosuch"),
        (["lazy:app"], r"cannot get lazy:app: ValueError: \x1b[31m no"),
        (["later:app"], "later:app is async, so it is no WSGI application"),
        (["later:object"], "later:object is async, so it is no WSGI application"),
        (["json:__doc__"], "json:__doc__ is not callable, so it is no WSGI application"),
        (["fifo"], "fifo is neither a file nor a directory"),
        (["--port", "x"], "argument -p/--port: 'x' is not a number from 0 to 65535"),
        (["--port", "65536"], "argument -p/--port: '65536' is not a number from 0 to 65535"),
        (["--threads", "0"], "argument --threads: '0' is not a number from 1 to 1024"),
        (
            ["--block-size", "-1"],
            "argument --block-size: '-1' is not a number from 1 to 1073741824",
        ),
        (["--header", "A: b"], "--header is for --explain"),
        (["--explain", ".", "/a", "/b"], "--explain takes one TARGET and one PATH"),
        (["data", "nosuch"], "nosuch does not exist; an application is served alone"),
        (["data", "fifo"], "fifo is neither a file nor a directory"),
        (["data", "./data"], "two targets have the name data; each needs a name of its own\n"),
        (["data", "/"], "/ has no name, so it is served alone\n"),
        (["--nosuch"], "unrecognized arguments: --nosuch"),
        (
            ["data", "--hidden"],
            "--hidden, --follow-symlinks and --zip are for directories, not data",
        ),
        (
            ["json:loads", "--follow-symlinks"],
            "--hidden, --follow-symlinks and --zip are for directories",
        ),
        (["json:loads", "--host", "host.invalid"], "cannot listen on host.invalid port 8080: "),
        (["json:loads", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 8080: "),
    ],
)
def test_one_clear_line(tmp_path: Path, args: list[str], message: str) -> None:
    """A wrong argument ends the program with status 2 and one line, without a traceback."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "data").touch()
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "lazy.py").write_text(LAZY)
    (tmp_path / "later.py").write_text(LATER)
    (tmp_path / "stopped.py").write_text("raise KeyboardInterrupt  # As Ctrl-C does.\n")
    result = subprocess.run(
        [*COMMAND, *args], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"wsgifile: {message}")
    assert result.stderr.count("\n") == 1


def test_port_in_use(site: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        result = subprocess.run(
            [*COMMAND, str(site), "--port", str(port)], capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 2
    expected = f"wsgifile: cannot listen on 127.0.0.1 port {port}: the port is in use\n"
    assert result.stderr == expected


@pytest.mark.parametrize("port", ["x", "65536", "-1"])
def test_port_of_the_environment(site: Path, port: str) -> None:
    """PORT is the port unless --port is given. The message for a bad PORT names it."""
    wanted = str(free_port())
    with serving(str(site), env={"PORT": wanted}) as url:
        assert url == f"http://127.0.0.1:{wanted}/"
    with serving(str(site), "--port", "0", env={"PORT": port}) as url:
        assert get(url + "empty")[2] == b""
    result = subprocess.run(
        [*COMMAND, str(site)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PORT": port},
    )
    assert (result.returncode, result.stdout) == (2, "")
    message = f"environment variable PORT: {port!r} is not a number from 0 to 65535"
    assert result.stderr == f"wsgifile: {message}\n"


def test_sigterm(site: Path) -> None:
    """SIGTERM, which stops services and containers, ends the program as Ctrl-C does."""
    with started(*COMMAND, str(site), "--port", "0") as (process, _):
        process.terminate()
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


def test_second_ctrl_c(tmp_path: Path) -> None:
    """The first waits for the requests that are being answered, the second ends the program."""
    (tmp_path / "slow.py").write_text(
        "import time\n\ndef app(environ, start_response):\n"
        "    print('asked', flush=True)\n    time.sleep(60)\n"
    )
    with started(*COMMAND, "slow:app", "--port", "0", cwd=tmp_path) as (process, line):
        assert process.stdout is not None
        with connect(urlsplit(line.split()[-1]).port or 0, 20) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert process.stdout.readline() == "asked\n"
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20) == ("", "")
            assert process.returncode == -signal.SIGINT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ctypes.CDLL(None) is for POSIX")
def test_ctrl_c_before_the_loop_waits(tmp_path: Path) -> None:
    """It ends the wait, although Python would run no handler before the end of the wait."""
    (tmp_path / "app.py").write_text(
        "import ctypes, os, select, signal\nfrom functools import partial\n"
        "from types import SimpleNamespace\nfrom waitress import wasyncore\n\n"
        "def interrupted(r, w, e, timeout):\n"
        "    wasyncore.select = select\n"
        "    kill = partial(ctypes.CDLL(None).kill, os.getpid(), int(signal.SIGINT))\n"
        # map() calls both in C, so no handler can run between them. The wait has no timeout.
        "    calls = [kill, partial(select.select, r, w, e)]\n"
        "    return [*map(partial.__call__, calls)][-1]\n\n"
        "wasyncore.select = SimpleNamespace(select=interrupted)\n\n"
        "def app(environ, start_response):\n    pass\n"
    )
    with started(*COMMAND, "app:app", "--port", "0", cwd=tmp_path) as (process, _):
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


def test_ctrl_c_while_a_client_connects(tmp_path: Path) -> None:
    """The client's connection, which comes after it, does not keep the program alive."""
    (tmp_path / "app.py").write_text(
        "import os, signal\nfrom waitress.server import TcpWSGIServer\n\n"
        "set_options = TcpWSGIServer.set_socket_options\n\n"
        "def interrupted(self, conn):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    set_options(self, conn)\n\n"
        "TcpWSGIServer.set_socket_options = interrupted\n\n"
        "def app(environ, start_response):\n    pass\n"
    )
    with started(*COMMAND, "app:app", "--port", "0", cwd=tmp_path) as (process, line):
        with connect(urlsplit(line.split()[-1]).port or 0, 20):
            assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0


def test_open(site: Path, tmp_path: Path) -> None:
    """--open shows the page in the browser, and Ctrl-C does not wait for the browser."""
    browser, got = tmp_path / "browser", tmp_path / "got"
    browser.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, time, urllib.request\n"
        "with urllib.request.urlopen(sys.argv[1], timeout=20) as answer:\n"
        "    data = sys.argv[1].encode() + b' ' + answer.read()\n"
        f"with open({str(got) + '.new'!r}, 'wb') as file:\n"
        "    file.write(data)\n"
        f"os.rename({str(got) + '.new'!r}, {str(got)!r})\n"
        "time.sleep(1)\n"
    )
    browser.chmod(0o700)
    (site / "a b.txt").write_text("text")
    env = {"BROWSER": str(browser)}
    with serving("--open", str(site / "a b.txt"), env=env) as url:
        deadline = time.monotonic() + 20
        while not got.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert url.endswith("/a%20b.txt")
        assert got.read_text() == f"{url} text"


def test_open_without_a_browser(site: Path, tmp_path: Path) -> None:
    """If no browser opens, --open says so, and the files are served all the same."""
    log = tmp_path / "log"
    env = {"BROWSER": "/nonexistent", "PATH": "/nonexistent", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    with serving("--open", "--quiet", str(site), log=log, env=env) as url:
        deadline = time.monotonic() + 20
        while log.read_text() != f"wsgifile: no browser has opened {url}\n":
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert get(url + "empty")[2] == b""


def test_browser_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: url.endswith("/1"))
    announce._open("http://127.0.0.1/1")
    announce._open("http://127.0.0.1/")
    assert capsys.readouterr().err == "wsgifile: no browser has opened http://127.0.0.1/\n"


@pytest.mark.parametrize(
    ("module", "package", "args"),
    [
        ("waitress", "waitress", ["."]),
        ("waitress", "waitress", ["json:loads"]),
        ("waitress", "waitress", ["--explain", "."]),
        ("webob", "WebOb", ["."]),
        ("webob", "WebOb", ["data.bin"]),
        ("webob", "WebOb", ["--explain", "."]),
        ("cheroot", "cheroot", ["--cert", "nosuch"]),
    ],
)
def test_not_installed(site: Path, module: str, package: str, args: list[str]) -> None:
    """If a package is missing, the message says what to install."""
    code = (
        f"import sys; sys.modules[{module!r}] = None; from wsgifile.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, *args]
    result = subprocess.run(command, cwd=site, capture_output=True, text=True)
    packages = package if package == "cheroot" else "waitress WebOb"
    message = f"wsgifile: {package} is not installed: pip install {packages}\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)


def test_application_without_webob(tmp_path: Path) -> None:
    """WebOb is needed for a directory or a file, but not for an application."""
    (tmp_path / "module.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return open(__file__, 'rb')\n"
    )
    code = "import sys; sys.modules['webob'] = None; from wsgifile.cli.main import main; main()"
    command = [sys.executable, "-c", code, "--port", "0", "module:app"]
    with started(*command, cwd=tmp_path) as (_, line):
        pass
    assert line.startswith("Serving module:app on http://127.0.0.1:")
    command = [sys.executable, "-c", code, "--explain", "module:app"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "the client:           200 OK" in result.stdout


def test_version() -> None:
    result = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    assert result.stdout == f"wsgifile {metadata.version('wsgifile')}\n"


def test_script() -> None:
    """The console script runs the same program."""
    script = os.path.join(os.path.dirname(sys.executable), "wsgifile")
    result = subprocess.run([script, "nosuch"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr[:17]) == (2, "wsgifile: nosuch ")
