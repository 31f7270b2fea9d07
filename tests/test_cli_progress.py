"""What the access log shows on a terminal of responses that are under way."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from command_line import COMMAND, LINE, get, started
from tls import CERTIFICATE, wrapped

from wsgifile.cli import progress

SIZE = 200_000_000


class Terminal:
    """A terminal of 100 columns and 20 lines, to write to, and what was written."""

    def __init__(self) -> None:
        self._ours, self.fd = os.openpty()
        self.resize(100, 20)
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self.text += data.decode()
        except OSError:  # It is closed.
            pass

    def wait_for(self, pattern: str) -> list[str]:
        """The lines that are seen, once the pattern is among them."""
        deadline = time.monotonic() + 30
        while lines := self.screen():
            if any(re.search(pattern, line) for line in lines):
                break
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)
        return lines

    def screen(self) -> list[str]:
        """All lines, as if the terminal were as high as needed."""
        lines, at = [""], 0
        for part in re.findall(r"\x1b\[[^A-Z]*[A-Z]|\r\n|\r|[^\x1b\r]+|\x1b", self.text):
            if part == "\r\n":
                at += 1
                lines += [""] * (at == len(lines))
            elif part == "\x1b[J":
                lines[at:] = [""]
            elif part.startswith("\x1b["):
                at -= int(part[2:-1])
            elif part != "\r":
                lines[at] = part + lines[at][len(part) :]
        return lines


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    os.close(made.fd)


@contextmanager
def logging_to(terminal: Terminal, cwd: Path, *args: str, term: str = "xterm") -> Iterator[str]:
    """The command, which logs to this terminal, and its URL."""
    command, env = [*COMMAND, "-p", "0", *args], {"TERM": term}
    with started(*command, cwd=cwd, env=env, stderr=terminal.fd) as (process, line):
        yield line.split()[-1]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@contextmanager
def stopped(url: str, path: str, *, tls: bool = False) -> Iterator[socket.socket]:
    """A client that has asked for this, and reads no more than the beginning."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 20) as plain:
        sock = wrapped(plain) if tls else plain
        with sock:
            sock.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
            assert sock.recv(100)
            yield sock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a file that no socket takes at once."""
    (tmp_path / "folder").mkdir()
    with (tmp_path / "folder" / "large").open("wb") as file:
        file.truncate(SIZE)
    (tmp_path / "folder" / "small").write_text("small")
    return tmp_path / "folder"


def row(
    path: str, amount: str = r" +\d+% +[\d.]+ [MK]?i?B of 190\.7 MiB", speed: str = ".*"
) -> str:
    """A pattern for the row of a response."""
    return rf"^{amount} +{speed}/s  127\.0\.0\.1  GET /{path} HTTP/1\.\d$"


@pytest.mark.parametrize("tls", [False, True])
def test_download(terminal: Terminal, folder: Path, tmp_path: Path, tls: bool) -> None:
    """It has a row below the log, until its own line of the log comes."""
    if tls:
        pytest.importorskip("cheroot")
    (tmp_path / "cert").write_text(CERTIFICATE)
    options = ["--cert", "../cert"] if tls else []
    with logging_to(terminal, folder, *options) as url:
        with stopped(url, "large", tls=tls):
            terminal.wait_for(row("large"))
            # When the socket takes no more, the speed says so after five seconds.
            terminal.wait_for(row("large", speed="0 B"))
            with stopped(url, "small", tls=tls):
                lines = terminal.wait_for('"GET /small ')
            assert LINE.fullmatch(lines[0])
            assert lines[1] == ""
            assert re.search(row("large"), lines[2])
            assert len(lines) == 3
        lines = terminal.wait_for('"GET /large ')
        assert [bool(LINE.fullmatch(line)) for line in lines] == [True, True, False]
        assert lines[1].endswith(f" aborted of {SIZE}: the connection was closed")
        assert lines[2] == ""


def test_application(terminal: Terminal, tmp_path: Path) -> None:
    """What is no file has a row, too, and so has a request without an answer."""
    (tmp_path / "module.py").write_text(
        "import os, sys, time\n\n"
        "def app(environ, start_response):\n"
        "    path = environ['PATH_INFO'][1:]\n"
        "    length = [('Content-Length', '10240')] if path == 'known' else []\n"
        "    if path == 'late': wait(path)\n"
        "    start_response('200 OK', length)\n"
        "    return blocks(path)\n\n"
        "def blocks(path):\n"
        "    yield b'x' * 1024\n"
        "    yield b''\n"
        "    wait(path)\n"
        "    print('somebody', 'else', file=sys.stderr)\n"
        "    yield b'x' * 9216\n\n"
        "def wait(path):\n"
        "    while not os.path.exists(path): time.sleep(0.02)\n"
    )
    with logging_to(terminal, tmp_path, "module:app") as url, ExitStack() as clients:
        for path in ("known", "unknown"):
            clients.enter_context(stopped(url, path))
        late = threading.Thread(target=get, args=(url + "late",))
        late.start()
        terminal.wait_for(row("known", " 10%    1.0 KiB of 10.0 KiB ", "0 B"))
        terminal.wait_for(row("unknown", " {8}1.0 KiB {17}", "0 B"))
        terminal.wait_for(row("late", " {12}0 B {17}", "0 B"))
        (tmp_path / "known").touch()
        lines = terminal.wait_for('"GET /known ')
        # What another writes stays, and the rows are below it.
        assert lines.index("somebody else") < len(lines) - 3
        assert {line.split()[-2] for line in lines[-2:]} == {"/unknown", "/late"}
        (tmp_path / "late").touch()
        (tmp_path / "unknown").touch()
        late.join()
        terminal.wait_for('"GET /unknown ')


def test_end(terminal: Terminal, folder: Path) -> None:
    """After Ctrl-C, there is the line of the log, and no row."""
    with ExitStack() as clients, logging_to(terminal, folder) as url:
        clients.enter_context(stopped(url, "large"))
        terminal.wait_for(row("large"))
    lines = terminal.wait_for('"GET /large ')
    assert LINE.fullmatch(lines[0])
    assert lines[1:] == [""]


def test_many(terminal: Terminal, folder: Path) -> None:
    """The rows leave some of the terminal to the log, and are cut where a line ends."""
    with logging_to(terminal, folder) as url, ExitStack() as clients:
        for _ in range(12):
            clients.enter_context(stopped(url, "large"))
        lines = terminal.wait_for("^and 3 more$")
        assert len([line for line in lines if re.search(row("large"), line)]) == 9
        terminal.resize(40, 6)
        lines = terminal.wait_for("^and 11 more$")
        assert len(lines) == 3
        assert len(lines[1]) == 39


@pytest.mark.parametrize(("options", "term"), [([], "dumb"), (["--quiet"], "xterm")])
def test_without_rows(terminal: Terminal, folder: Path, options: list[str], term: str) -> None:
    """Not on a terminal without escape sequences, and not with --quiet."""
    with logging_to(terminal, folder, *options, term=term) as url:
        with stopped(url, "large"):
            time.sleep(2.5)  # In which two rows would be drawn.
            assert terminal.text == ""
        if not options:
            terminal.wait_for('"GET /large ')
    assert "\x1b" not in terminal.text


def test_stderr_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress.Progress.is_possible()
    progress.write("nobody reads this")
    assert progress._drawing(["a"] * 30).count("\n") == 10  # As on a terminal of usual size.


def test_line_inside_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector may end a response while a line is written."""
    written: list[str] = []
    monkeypatch.setattr(progress, "write", written.append)

    class Ends:
        @property
        def row(self) -> str:
            under_way.clear()
            made.write("inner\n")
            return ""

        def look(self) -> None:
            pass

    under_way: list[Ends] = []
    made = progress.Progress(under_way)  # type: ignore[arg-type]
    under_way.append(Ends())
    writer = threading.Thread(target=made.write, args=("outer\n",), daemon=True)
    writer.start()
    writer.join(20)
    assert not writer.is_alive()
    made._end()
    assert written == ["\r\x1b[Jinner\n", "\r\x1b[Jouter\n"]


def test_row_is_one_line_of_ascii() -> None:
    """Otherwise a client could write to any place of the terminal."""
    assert progress._drawing(["\x1b[2J\n\r\x9b é 漢"]) == (
        "\n\\x1b[2J\\n\\r\\x9b \\xe9 \\u6f22\r\x1b[1A"
    )
