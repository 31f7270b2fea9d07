"""The recipes of docs/deployment.rst, with the servers and proxies that they name."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nginx
import pytest
from pages import DOCS, blocks, commands, sections
from ports import connect, free_port, running
from slow import BIN, DATA, SIZE, Address, begin, gets_all, logged, rest, without_coverage
from tls import CERTIFICATE, wrapped

PAGE = (DOCS / "deployment.rst").read_text()
SECTIONS = sections(PAGE)
GUNICORN = "nginx and gunicorn, by a unix socket"
WAITRESS = "nginx or Apache, and waitress"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what runs there is Linux's")


class Place:
    """Where a test runs a recipe: each path and address of the page, and what stands for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.socket = str(root / "app.sock")
        self.port, self.front = free_port(), free_port()
        self.instead = {
            "/srv/app/.venv/bin": str(BIN),
            "/run/app/app.sock": self.socket,
            "app:8000": f"127.0.0.1:{self.port}",
            "8000": str(self.port),
            "8443": str(self.port),
            "listen 80;": f"listen 127.0.0.1:{self.front};",
        }

    def here(self, text: str) -> str:
        # At once: a port may have another one in its digits.
        return re.sub("|".join(self.instead), lambda found: self.instead[found[0]], text)

    def command(self, words: list[str]) -> list[str]:
        """This command, run by the Python of the tests."""
        program = shutil.which(words[0], path=str(BIN))
        if program is None:
            pytest.skip(f"{words[0]} is not installed")
        # A worker of uWSGI that has to end soon after its start may never do so by itself.
        mercy = ["--worker-reload-mercy", "5"] if words[0] == "uwsgi" else []
        return [program, *map(self.here, words[1:]), *mercy]

    def nginx(self, section: str, **replaced: str) -> list[str]:
        """The command for nginx, with the configuration of this section."""
        [(_, conf)] = blocks(SECTIONS[section], "nginx")
        for old, new in replaced.items():
            assert old in conf
            conf = conf.replace(old, new)
        (self.root / "uwsgi_params").write_text(nginx.PARAMS)
        return nginx.command(self.root, self.here(conf))

    def says(self, sender: str) -> None:
        """Wait until the log names this sender."""
        logged(self.log, f": files are sent by {sender}\n")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    [(name, code)] = blocks(PAGE)
    (tmp_path / name).write_text(code)
    (tmp_path / "film.mp4").write_bytes(DATA)
    (tmp_path / "cert.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(CERTIFICATE)
    return Place(tmp_path)


@contextmanager
def served(place: Place, section: str, address: Address) -> Iterator[subprocess.Popen[bytes]]:
    """By the command of this section."""
    [words] = commands(SECTIONS[section])
    command = place.command(words)
    with running(command, address, place.log, cwd=place.root) as process:
        yield process


def as_it_is(sock: socket.socket) -> socket.socket:
    return sock


def serves(address: Address, wrap: Callable[[socket.socket], socket.socket] = as_it_is) -> None:
    """The whole film, and a part of it."""
    exact = rest(begin(address, "/", wrap=wrap)) == DATA
    assert exact
    with wrap(connect(address, 30)) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\nRange: bytes=1000-1999\r\n\r\n")
        head, _, part = rest(sock).partition(b"\r\n\r\n")
    assert head.split()[1] == b"206"
    assert part == DATA[1000:2000]


#: For each section with nginx: whether the server has a unix socket, and the senders.
FRONTS = {
    GUNICORN: (True, "os.sendfile", "background"),
    "nginx and uWSGI": (True, "wsgi.file_wrapper", "background"),
    WAITRESS: (False, "wsgi.file_wrapper", "wsgi.file_wrapper"),
}


@pytest.mark.parametrize("section", FRONTS)
def test_nginx(place: Place, section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the whole film, parts of it, and slow clients, which hold no worker."""
    by_socket, sender, slow = FRONTS[section]
    without_coverage(monkeypatch)  # Because of uWSGI.
    address = place.socket if by_socket else place.port
    with (
        served(place, section, address),
        running(place.nginx(section), place.front, place.root / "nginx.log"),
    ):
        serves(place.front)
        place.says(sender)
        sock = begin(place.front, "/")
        place.says(slow)
        gets_all(sock)
    assert "Traceback" not in place.log.read_text()


#: Sections, what to leave out of their commands, and who may write to the socket then.
MODES = [
    (GUNICORN, "", 0o777),
    ("nginx and uWSGI", "", 0o666),
    ("nginx and uWSGI", "--chmod-socket", 0o755),
]


@pytest.mark.parametrize(("section", "without", "mode"), MODES)
def test_sockets(
    place: Place, section: str, without: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody may write to gunicorn's, and to uWSGI's only with the option of the recipe."""
    without_coverage(monkeypatch)
    [words] = commands(SECTIONS[section])
    command = place.command(
        [word for word in words if not without or not word.startswith(without)]
    )
    with (
        running(command, place.socket, place.log, cwd=place.root, umask=0o022),
        running(place.nginx(section), place.front, place.root / "nginx.log"),
    ):
        serves(place.front)  # Before that, uWSGI does not notice that it has to end.
        assert Path(place.socket).stat().st_mode & 0o777 == mode


APACHE = """
ServerRoot "{root}"
ServerName localhost
DefaultRuntimeDir "{root}"
PidFile "{root}/apache.pid"
ErrorLog /dev/stderr
Listen 127.0.0.1:{port}
{user}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
{conf}
"""


def test_apache(place: Place) -> None:
    """In front of waitress."""
    program = shutil.which("apache2", path=os.environ.get("PATH", "") + ":/usr/sbin")
    modules = Path("/usr/lib/apache2/modules")
    if program is None or not modules.exists():
        pytest.skip("Apache is not installed, or not where Debian has it")
    [(_, conf)] = blocks(SECTIONS[WAITRESS], "apache")
    path = place.root / "apache.conf"
    path.write_text(
        APACHE.format(
            root=place.root,
            port=place.front,
            modules=modules,
            user="" if os.geteuid() else "User www-data\nGroup www-data",
            conf=place.here(conf),
        )
    )
    apache = [program, "-DFOREGROUND", "-f", str(path)]
    with (
        served(place, WAITRESS, place.port),
        running(apache, place.front, place.root / "apache.log"),
    ):
        serves(place.front)
        gets_all(begin(place.front, "/"))
        place.says("wsgi.file_wrapper")


def test_tls(place: Place) -> None:
    """Files are read, and a slow client holds a thread, but not all of them."""
    with served(place, "gunicorn alone, with TLS", place.port):
        serves(place.port, wrap=wrapped)
        sock = begin(place.port, "/", wrap=wrapped)
        serves(place.port, wrap=wrapped)
        gets_all(sock)
        place.says("read")
        assert "background" not in place.log.read_text()


@pytest.mark.parametrize("preload", [True, False])
def test_hup(place: Place, preload: bool) -> None:
    """The downloads of the workers that end go on, and new ones serve meanwhile: with new code?"""
    [words] = commands(SECTIONS["Restarts of gunicorn"])
    command = place.command([word for word in words if preload or word != "--preload"])
    with running(command, place.port, place.log, cwd=place.root) as process:
        logged(place.log, "Booting worker", times=2)
        sock = begin(place.port, "/")
        place.says("background")
        app = place.root / "app.py"
        app.write_text(app.read_text().replace("video/mp4", "video/new"))
        process.send_signal(signal.SIGHUP)
        logged(place.log, "Booting worker", times=4)
        serves(place.port)
        gets_all(sock)
        logged(place.log, "Worker exiting", times=2)
        with urllib.request.urlopen(f"http://127.0.0.1:{place.port}/", timeout=30) as answer:
            assert answer.headers["Content-Type"] == ("video/mp4" if preload else "video/new")
    assert "Traceback" not in place.log.read_text()


def test_max_requests(place: Place) -> None:
    """The same when a worker has answered enough requests. The page says 1000."""
    [words] = commands(SECTIONS["Restarts of gunicorn"])
    few = {"1000": "1", "100": "0"}
    assert set(few) < set(words)
    command = place.command([few.get(word, word) for word in words])
    with running(command, place.port, place.log, cwd=place.root):
        sock = begin(place.port, "/")
        logged(place.log, "Autorestarting worker")
        place.says("background")
        serves(place.port)
        gets_all(sock)
    assert "Traceback" not in place.log.read_text()


def units() -> dict[str, configparser.ConfigParser]:
    """The units of systemd on the page, by name."""
    found = {}
    for name, text in blocks(PAGE, "ini"):
        found[name] = configparser.ConfigParser(interpolation=None)
        found[name].optionxform = str  # type: ignore[assignment,method-assign]
        found[name].read_string(text)
    return found


def by_systemd(place: Place, path: str, command: list[str]) -> list[str]:
    """Have the program of systemd open the socket."""
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not installed")
    # It passes on only the variables that it is told to.
    kept = [name for name in ("NOTIFY_SOCKET", "PYTHONPATH") if name in os.environ]
    return [activate, *(f"--setenv={name}" for name in kept), "--listen", path, *command]


def by_hand(place: Place, path: str, command: list[str]) -> list[str]:
    """Open the socket as systemd does, with descriptor 3."""
    activate = (
        "import os, socket, sys\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1])\n"
        "listener.listen()\n"
        "os.dup2(listener.fileno(), 3)\n"
        "os.set_inheritable(3, True)\n"  # dup2() does not, if it was 3 already.
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    return [sys.executable, "-c", activate, path, *command]


@pytest.mark.parametrize("activated", [by_systemd, by_hand])
def test_systemd(
    place: Place,
    activated: Callable[[Place, str, list[str]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gunicorn takes the socket, says when it is ready, and reloads by the command of the unit."""
    unit, service = units()["app.socket"], units()["app.service"]["Service"]
    path = place.here(unit["Socket"]["ListenStream"])
    command = shlex.split(place.here(service["ExecStart"]))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.settimeout(30)
        notified.bind(str(place.root / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(place.root / "notify"))
        starting = activated(place, path, command)
        with running(starting, path, place.log, cwd=place.root) as process:
            serves(path)
            assert b"READY=1" in notified.recv(1000)
            sock = begin(path, "/")
            place.says("background")
            reload = service["ExecReload"].replace("$MAINPID", str(process.pid))
            subprocess.run(shlex.split(reload), check=True)
            logged(place.log, "Booting worker", times=4)
            serves(path)
            gets_all(sock)
    assert f"unix:{path}" in place.log.read_text()
    assert "Traceback" not in place.log.read_text()
    assert int(service["TimeoutStopSec"]) > 30


def dockerfile() -> dict[str, str]:
    """The last of each instruction."""
    [(name, text)] = blocks(PAGE, "docker")
    assert name == "Dockerfile"
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in text.splitlines()}


def test_container(place: Place) -> None:
    """The command of the image finishes its downloads when it is stopped."""
    instructions = dockerfile()
    words = json.loads(instructions["CMD"])
    assert f"0.0.0.0:{instructions['EXPOSE']}" in words
    [(app, _)] = blocks(PAGE)
    assert instructions["COPY"].split() == [app, "film.mp4", "./"]
    with running(place.command(words), place.port, place.log, cwd=place.root) as process:
        serves(place.port)
        sock = begin(place.port, "/")
        place.says("background")
        process.send_signal(signal.SIGTERM)
        logged(place.log, "Handling signal: term")
        gets_all(sock)
        assert process.wait(30) == 0
    assert "Traceback" not in place.log.read_text()


def test_compose(place: Place) -> None:
    """nginx reaches the application by its name, and finds its own file."""
    yaml = pytest.importorskip("yaml")
    [(_, text)] = blocks(PAGE, "yaml")
    services = yaml.safe_load(text)["services"]
    assert services["app"] == {"build": ".", "stop_grace_period": "35s"}
    [volume] = services["nginx"]["volumes"]
    name, target, _ = volume.split(":")
    captions = [caption for caption, _ in blocks(SECTIONS["A container"], "nginx")]
    assert captions == [name.removeprefix("./")]
    assert target == "/etc/nginx/conf.d/default.conf"
    assert services["nginx"]["ports"] == ["80:80"]
    command = place.command(json.loads(dockerfile()["CMD"]))
    with (
        running(command, place.port, place.log, cwd=place.root),
        running(place.nginx("A container"), place.front, place.root / "nginx.log"),
    ):
        serves(place.front)
        sock = begin(place.front, "/")
        place.says("background")
        gets_all(sock)


def stored(place: Place) -> int:
    """The number of bytes in the temporary files of nginx, which have no name any more."""
    count = 0
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(f"{place.root}/proxy/"):
                count += link.stat().st_size
        except OSError:  # It has been closed, or is not ours.
            continue
    return count


#: What nginx has instead of proxy_max_temp_file_size 0, and whether it stores the film.
BUFFERS = {
    "default": ("", True),
    "proxy_max_temp_file_size 0": ("proxy_max_temp_file_size 0;", False),
    "proxy_buffering off": ("proxy_buffering off;", False),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers(place: Place, name: str) -> None:
    """The table of the page: what nginx has on its disk while a client stops."""
    setting, stores = BUFFERS[name]
    assert re.search(rf"^(``)?{name}(``)? ", SECTIONS["nginx's buffers"], re.MULTILINE)
    front = place.nginx(GUNICORN, **{"proxy_max_temp_file_size 0;": setting})
    with (
        served(place, GUNICORN, place.socket),
        running(front, place.front, place.root / "nginx.log"),
    ):
        sock = begin(place.front, "/")
        if stores:
            deadline = time.monotonic() + 30
            while stored(place) < SIZE // 2:  # The kernel has a part, too.
                assert time.monotonic() < deadline
                time.sleep(0.05)
        else:
            place.says("background")
            assert stored(place) == 0
        gets_all(sock)
