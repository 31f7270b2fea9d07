"""What the command line says at the start, its help, and several targets in one command."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from argparse import _StoreAction
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from command_line import COMMAND, ask, get, links, raw, serving, started
from ports import free_port, wait_until_listening
from test_clients import needed

from wsgifile.cli import announce
from wsgifile.cli.arguments import make_parser


def alone() -> list[str]:
    """A command that gives the command after it a network of its own."""
    command = [needed("unshare"), "--user", "--net", "--map-root-user"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets us have no network of our own")
    return command


#: Interfaces as a laptop with Docker has them, and then the command. An interface whose file is
#: closed has no network at its other end.
NETWORK = """
import fcntl, os, struct, subprocess, sys

def interface(name, *addresses, runs=True):
    file = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(file, 0x400454CA, struct.pack("16sH22s", name.encode(), 0x1002, b""))
    fcntl.ioctl(file, 0x400454CB, 1)  # Keep it.
    for address in addresses:
        command = ["ip", "address", "add", address, "dev", name]
        subprocess.run([*command, *["nodad"] * (":" in address)], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    if runs:
        os.set_inheritable(file, True)
    else:
        os.close(file)
        while b"NO-CARRIER" not in subprocess.check_output(["ip", "link", "show", name]):
            pass

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
interface("wlan0", "192.0.2.77/24", "2001:db8:1::77/64")
interface("eth7", "198.51.100.8/24")
interface("eth8", "169.254.3.4/16")
interface("docker0", "203.0.113.9/24", runs=False)
interface("bare0")
subprocess.run(["ip", "route", "add", "default", "via", "192.0.2.2"], check=True)
subprocess.run(["ip", "-6", "route", "add", "default", "via", "2001:db8:1::2"], check=True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def connected() -> list[str]:
    """A command that gives the command after it a network with several interfaces."""
    needed("ip")
    command = [*alone(), sys.executable, "-c", NETWORK]
    if subprocess.run([*command, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("this system lets us have no network interfaces of our own")
    return command


@pytest.mark.parametrize("option", ["--bind", "-b", "--host"])
def test_addresses_of_the_machine(site: Path, option: str) -> None:
    """On 0.0.0.0 each URL has an address that other machines can open."""
    command = [*connected(), *COMMAND, "-p", "8080", "--quiet"]
    with started(*command, option, "0.0.0.0", str(site)) as (process, line):
        assert process.stdout is not None
        shown = [line, process.stdout.readline()]
        assert shown == [
            f"Serving {site} on http://192.0.2.77:8080/\n",
            f"Serving {site} on http://198.51.100.8:8080/\n",
        ]
        process.send_signal(signal.SIGINT)
        message = f"{site} is open to anyone who can reach 0.0.0.0 port 8080"
        assert process.communicate(timeout=20) == ("", f"wsgifile: {message}\n")


def test_addresses_of_ipv6(site: Path) -> None:
    command = [*connected(), *COMMAND, "-p", "8080", "--quiet"]
    with started(*command, "-b", "::", str(site)) as (process, line):
        assert line == f"Serving {site} on http://[2001:db8:1::77]:8080/\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[0] == ""


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_no_network(site: Path, host: str, shown: str) -> None:
    """Without a network, the URL is for a browser on this machine. The warning stays."""
    command = [*alone(), *COMMAND, "--host", host, "--port", "8080", "--quiet", str(site)]
    with started(*command) as (process, line):
        assert line == f"Serving {site} on http://{shown}:8080/\n"
        process.send_signal(signal.SIGINT)
        message = f"{site} is open to anyone who can reach {host} port 8080"
        assert process.communicate(timeout=20) == ("", f"wsgifile: {message}\n")


def on_a_terminal(*command: str, **env: str) -> str:
    """What a command prints on a terminal, until the line that says it is ready."""
    # Not by pexpect, which forks: eventlet, which other tests import, warns of that.
    ours, theirs = os.openpty()
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8", **env}
    process = subprocess.Popen(command, env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, ready = b"", False
    with suppress(OSError):  # The command has ended.
        while select.select([ours], [], [], 20)[0]:
            shown += os.read(ours, 65536)
            if not ready and re.search(b"Serving .*\r\n", shown):
                ready = True
                process.send_signal(signal.SIGINT)
    os.close(ours)
    assert process.wait(20) == 0, shown
    return shown.decode()


def qr_code(text: str) -> list[str]:
    """The lines of text that are made of blocks."""
    return [line for line in text.splitlines() if re.fullmatch("[ █▀▄]{20,}", line)]


def test_qr_code(site: Path) -> None:
    """On a terminal, a QR code has the first URL that other machines can open."""
    segno = pytest.importorskip("segno")
    command = [*connected(), *COMMAND, "-p", "8080", str(site)]
    text = on_a_terminal(*command, "-b", "0.0.0.0")
    shown = qr_code(text)
    code = segno.make("http://192.0.2.77:8080/", micro=False, error="l")
    rows = [list(row) for row in code.matrix_iter(border=2)]
    rows += [[1] * len(rows[0])] * (len(rows) % 2)
    blocks = {(1, 1): " ", (0, 1): "▀", (1, 0): "▄", (0, 0): "█"}
    assert shown == [
        "".join(blocks[pair] for pair in zip(top, bottom, strict=True))
        for top, bottom in zip(rows[::2], rows[1::2], strict=True)
    ]
    assert text.index("198.51.100.8") < text.index(shown[0])
    # Nothing can open 127.0.0.1 but this machine, and 0.0.0.0 is that without a network.
    for host in ("127.0.0.1", "0.0.0.0"):
        quiet = on_a_terminal(*alone(), "sh", "-ec", 'ip link set lo up; exec "$@"', "sh",
                              *COMMAND, "-b", host, "-p", "8080", str(site))  # fmt: skip
        assert "http://127.0.0.1:8080/" in quiet
        assert not qr_code(quiet)


@pytest.mark.parametrize("cannot", ["encode", "import"])
def test_without_qr_code(site: Path, tmp_path: Path, cannot: str) -> None:
    """Without segno, or the characters in the terminal, there is only the URL."""
    env = {"PYTHONIOENCODING": "latin-1"}
    if cannot == "import":
        (tmp_path / "segno.py").write_text("raise ImportError\n")
        env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    else:
        pytest.importorskip("segno")
    command = [*connected(), *COMMAND, "-p", "8080", str(site)]
    text = on_a_terminal(*command, "-b", "0.0.0.0", **env)
    assert "http://192.0.2.77:8080/" in text
    assert not qr_code(text)
    assert "Traceback" not in text


def test_system_without_ioctl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere only the address that leads to other networks is found."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert list(announce._ipv4()) == []


def test_help() -> None:
    """The help fits on a screen, and names every option."""
    result = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert 24 <= len(lines) <= 40
    assert max(map(len, lines)) <= 80
    for action in make_parser()._actions:
        for option in set(action.option_strings) - {"--host"}:
            assert re.search(rf"(^|[ ,]){option}\b", result.stdout, re.MULTILINE), option
        if isinstance(action, _StoreAction) and isinstance(action.default, (int, str)):
            assert str(action.default) in result.stdout
    for word in ("TARGET", "$PORT", "$BROWSER", "examples:", "Exit status:"):
        assert word in result.stdout


@pytest.fixture
def several(site: Path, tmp_path: Path) -> list[str]:
    """Targets with a file and a secret beside them."""
    music = tmp_path / "elsewhere" / "müsic <b>"
    music.mkdir(parents=True)
    (music / "song.ogg").write_bytes(b"song")
    (music / ".env").write_text("secret")
    (music.parent / "beside").write_text("secret")
    (tmp_path / "film.mp4").write_bytes(bytes(100_000))
    return [str(site), str(music), str(tmp_path / "film.mp4")]


def test_several(several: list[str]) -> None:
    """Each target is at its own name, and the page at / lists them."""
    with serving(*several) as url:
        assert links(url) == ["m%C3%BCsic%20%3Cb%3E/", "site/", "film.mp4"]
        assert links(url + "?sort=-size")[2] == "film.mp4"
        page = get(url)[2].decode()
        assert "müsic &lt;b&gt;/" in page
        assert "Directories: 2. Files: 1, 97.7 KiB." in page
        assert get(url + "film.mp4", Range="bytes=0-9")[0] == 206
        assert get(url + "film.mp4", Range="bytes=0-9")[1]["Content-Type"] == "video/mp4"
        assert get(url + "site/data.bin", Range="bytes=0-9")[0] == 206
        assert get(url + "m%C3%BCsic%20%3Cb%3E/song.ogg")[2] == b"song"
        # Without the slash at the end, it redirects and keeps the query.
        assert get(url + "site?sort=-name")[2] == get(url + "site/?sort=-name")[2]
        page = get(url + "site/sub/")[2].decode()
        assert "<title>Index of /site/sub/</title>" in page
        assert '<a href="../../">/</a><a href="../">site/</a>' in page
        assert links(url + "site/")[0] == "../"
        for path in ("", "nosuch", "site/nosuch", "film.mp4"):
            assert ask(url, f"/{path}".encode(), b"DELETE").split()[1] == b"405", path


def test_page_of_several(several: list[str]) -> None:
    """It has the filter and the previews that a listing has."""
    with serving(*several) as url:
        assert links(url + "?q=S") == ["m%C3%BCsic%20%3Cb%3E/", "site/"]
        assert links(url + "?q=nosuch") == []
        assert '<a href="film.mp4?view"' in get(url)[2].decode()
        page = get(url + "film.mp4?view")[2].decode()
        assert '<video controls preload="metadata" src="film.mp4">' in page
        assert '<a href="./">/</a>' in page
        assert get(url + "site/data.bin?view")[1]["Content-Type"] == "application/octet-stream"


def test_nothing_outside_of_several(several: list[str]) -> None:
    """No path leads out of a target, or from one to what is beside it."""
    with serving(*several) as url:
        for target in (
            b"/secret",
            b"/nosuch",
            b"/site/../secret",
            b"/site/../film.mp4",
            b"/site/..",
            b"/../secret",
            b"/..",
            b"/m%C3%BCsic%20%3Cb%3E/../beside",
            b"/m%C3%BCsic%20%3Cb%3E/.env",
            b"/film.mp4/",
            b"/film.mp4/../secret",
            b"/film.mp4%00",
            b"/%00",
            b"/%ff",
        ):
            assert raw(url, target) == 404, target


def test_several_of_which_one_goes(several: list[str]) -> None:
    """A target that is deleted is not listed any more."""
    with serving(*several) as url:
        os.unlink(several[2])
        assert links(url) == ["m%C3%BCsic%20%3Cb%3E/", "site/"]
        assert raw(url, b"/film.mp4") == 404


def test_output_that_nobody_reads(site: Path) -> None:
    """As in ``wsgifile | head -1``. The files are sent, and --explain just ends."""
    port = free_port()
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [*COMMAND, "-p", str(port), "--quiet", str(site)], stdout=write, stderr=subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_until_listening(("127.0.0.1", port), process)
        assert get(url + "empty")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == b""
        assert process.returncode == 0
    finally:
        process.kill()
    done = subprocess.run(
        [*COMMAND, "--explain", str(site), "/empty"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_without_the_characters(site: Path) -> None:
    (site / "müsic").mkdir()
    env = {"PYTHONIOENCODING": "ascii"}
    command = [*COMMAND, "-p", "0", "müsic"]
    with started(*command, cwd=site, env=env) as (_, line):
        assert line.startswith(r"Serving m\xfcsic on http://")


def test_port_in_short(site: Path) -> None:
    port = free_port()
    command = [*COMMAND, "-p", str(port), "-b", "127.0.0.1", str(site)]
    with started(*command) as (_, line):
        assert urlsplit(line.split()[-1]).port == port
