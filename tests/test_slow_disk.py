"""A download from a slow disk must not delay another client's small request."""

from __future__ import annotations

import contextlib
import errno
import http.client
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import slowfs
from ports import free_port, serving, wait_until_listening

from wsgifile import FileWrapperMiddleware, page_cache

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SIZE = 1_000_000
#: Seconds that each read takes. FUSE usually reads 128 KiB at once.
READ = 0.2
#: Seconds within which a small request is answered if it does not wait for such a read.
PROMPT = 0.1

CODE = """
import signal
import sys
import time
sleep = time.sleep
# End as Python does by itself, so that coverage saves its data.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
{patch}
from importlib import import_module
from wsgifile import FileWrapperMiddleware

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    name = environ["PATH_INFO"]
    return [b"small"] if name == "/small" else open({directory!r} + name, "rb")

app = FileWrapperMiddleware(app)
if {cold}:
    # Behave as if nothing were in memory.
    import_module("wsgifile.page_cache").is_resident = lambda fd, offset, count: False
    module = import_module("wsgifile." + {module!r})
    module.prefetch = lambda fd, offset, count: sleep({seconds})
port = {port}
{run}
"""
#: By server: how to patch, how to run, and the module that calls prefetch().
SERVERS = {
    "waitress": (
        "",
        # With this timeout, the test fails unless the main loop is woken to send.
        "import waitress; waitress.serve(app, port=port, asyncore_loop_timeout=60)",
        "servers.waitress",
    ),
    "gevent": (
        "from gevent import monkey; monkey.patch_all()",
        "from gevent.pywsgi import WSGIServer\n"
        "WSGIServer(('127.0.0.1', port), app, log=None).serve_forever()",
        "sockets",
    ),
    "eventlet": (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import eventlet; eventlet.monkey_patch()",
        "import eventlet.wsgi\n"
        "eventlet.wsgi.server(eventlet.listen(('127.0.0.1', port)), app, log_output=False)",
        "sockets",
    ),
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no FUSE on this system")
    try:
        importlib.import_module("mfusepy")
    except (ImportError, OSError) as error:
        pytest.skip(f"mfusepy or its libfuse is not installed: {error}")
    directory = tmp_path_factory.mktemp("slow")
    with slowfs.mounted(str(directory), READ):
        yield directory


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """A function that starts a server for the files of a directory and returns its port."""
    with contextlib.ExitStack() as stack:

        def start(name: str, directory: Path, *, cold: bool = False) -> int:
            pytest.importorskip(name)
            patch, run, module = SERVERS[name]
            port, log = free_port(), tmp_path / "log"
            code = CODE.format(
                patch=patch,
                directory=str(directory),
                cold=cold,
                module=module,
                seconds=READ,
                port=port,
                run=run,
            )
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-c", code], stdout=output, stderr=output
                )
            start.process = process  # type: ignore[attr-defined]
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            wait_until_listening(port, process, log)
            return port

        yield start


def check_that_others_do_not_wait(port: int, sizes: list[int]) -> None:
    got = []
    clients = [
        threading.Thread(target=lambda size=size: got.append(get(port, f"/{size}")))
        for size in sizes
    ]
    get(port, "/small")
    for client in clients:
        client.start()
    waited = []
    while any(client.is_alive() for client in clients):
        begun = time.monotonic()
        assert get(port, "/small") == b"small"
        waited.append(time.monotonic() - begun)
        time.sleep(0.01)
    assert sorted(got, key=len) == [slowfs.content(0, size) for size in sizes]
    assert len(waited) > 10
    # Some may be late because this machine was busy. Of requests that wait for a disk most are.
    assert sum(seconds > PROMPT for seconds in waited) < len(waited) / 4


# Three different files, because what one client has read is in memory for the next.
SIZES = range(1_000_000, 1_000_003)


@pytest.mark.parametrize("server", SERVERS)
def test_slow_file_system(serve: Any, disk: Path, server: str) -> None:
    """Files on FUSE are read by threads, because nobody can tell whether a read will wait."""
    # waitress begins to send in the worker's thread, and goes on in the main loop.
    more = 5_000_000 if server == "waitress" else 0
    check_that_others_do_not_wait(serve(server, disk), [size + more for size in SIZES])


@pytest.mark.parametrize("server", SERVERS)
def test_cold_disk(serve: Any, tmp_path: Path, server: str) -> None:
    """A thread brings into memory what is not there yet."""
    # waitress looks only when its main loop sends, which is after the first megabytes.
    sizes = [size + (9_000_000 if server == "waitress" else 3_000_000) for size in SIZES]
    for size in sizes:
        (tmp_path / str(size)).write_bytes(slowfs.content(0, size))
    check_that_others_do_not_wait(serve(server, tmp_path, cold=True), sizes)


def test_waitress_does_not_spin(serve: Any, tmp_path: Path) -> None:
    """waitress uses no CPU while it waits for a disk, and closes the file if the client leaves."""
    (tmp_path / "file").write_bytes(bytes(15_000_000))
    port = serve("waitress", tmp_path, cold=True)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = 0
        while received < 6_000_000:  # By then, the main loop sends.
            received += len(client.recv(65536))
        pid = serve.process.pid
        before = cpu_seconds(pid)
        time.sleep(2 * READ)
        assert cpu_seconds(pid) - before < READ / 2
    deadline = time.monotonic() + 20
    while any(name.endswith("/file") for name in open_files(pid)):
        assert time.monotonic() < deadline, "the file is not closed"
        time.sleep(0.05)
    assert get(port, "/small") == b"small"
    assert get(port, "/file") == bytes(15_000_000)


def test_waitress_without_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no descriptor is left for the thread, the main loop reads the file itself."""

    def dup(fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    data = slowfs.content(0, 9_000_000)
    (tmp_path / "file").write_bytes(data)
    asked = []

    def is_resident(*args: object) -> bool:
        asked.append(args)
        return False

    monkeypatch.setattr(page_cache, "is_resident", is_resident)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return open(tmp_path / "file", "rb")

    with serving(FileWrapperMiddleware(app)) as port, monkeypatch.context() as patch:
        patch.setattr(os, "dup", dup)
        assert get(port, "/") == data
    assert len(asked) > 1


def cpu_seconds(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)  # See clock_getcpuclockid(3).


def open_files(pid: int) -> Iterator[str]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/fd/{fd}")


def forget(fd: int, offset: int, count: int, seen: tuple[int, int] | None = None) -> None:
    """Have the kernel drop these bytes, until is_resident() sees it, by default of these bytes.

    Repeatedly, because the kernel may keep a page for a moment, and each probe makes it read.
    """
    deadline = time.monotonic() + 20
    while page_cache.is_resident(fd, *(seen or (offset, count))):
        os.posix_fadvise(fd, offset, count, os.POSIX_FADV_DONTNEED)
        assert time.monotonic() < deadline


def test_resident_and_prefetched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    size = 3 * page_cache._STEP
    path.write_bytes(bytes(size))
    with path.open("rb") as file:
        fd = file.fileno()
        if page_cache._is_cached(fd, 0) is None:
            pytest.skip("the file system of the temporary directory cannot tell")
        os.fsync(fd)
        forget(fd, 0, size)
        page_cache.prefetch(fd, 2_000_000, 500_000)
        assert page_cache.is_resident(fd, 2_000_000, 500_000)
        page_cache.prefetch(fd, 0, size + 1_000_000)
        assert page_cache.is_resident(fd, 0, size)
        forget(fd, size // 2, size // 4, seen=(0, size))
        assert page_cache.is_resident(fd, 0, size // 3)
        # The last byte is probed too; the probes at every _STEP would miss it.
        forget(fd, size // 2, size // 4, seen=(0, size // 2 + 1))


def test_lookahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that nothing is missing, it looks further ahead the next time."""
    step = page_cache._STEP
    cold = range(22 * step, 24 * step)
    monkeypatch.setattr(page_cache, "_is_cached", lambda fd, offset: offset not in cold)
    monkeypatch.setattr(page_cache, "_NOWAIT", 1)
    size, lookahead, seen = 80 * step, page_cache.Lookahead(step), []

    def look(near: bool = False) -> bool:
        found = lookahead.check(0, lookahead.until, size - lookahead.until, near=near)
        seen.append(lookahead.until // step)
        return found

    assert [look(), look(), look(near=True), look()] == 4 * [True]
    assert seen == [2, 4, 5, 13]
    assert not look()
    assert [look(), look(), look()] == 3 * [True]
    assert seen[4:] == [13, 14, 16, 20]
    assert not look()
    lookahead.until = 24 * step
    while lookahead.until < size:
        assert look()
    assert seen[8:] == [20, 25, 27, 31, 39, 55, 71, 80]


def test_without_rwf_nowait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without RWF_NOWAIT nothing is probed, and all files count as in memory."""
    monkeypatch.setattr(page_cache, "_NOWAIT", 0)
    monkeypatch.setattr(page_cache, "_is_cached", None)
    assert not page_cache.may_block(0)
    assert page_cache.is_resident(0, 0, 1)


def test_file_systems(disk: Path, tmp_path: Path) -> None:
    """Readers may wait for long on FUSE, but not on a local disk or on tmpfs."""
    (tmp_path / "file").write_bytes(b"x")
    for path, slow in ((disk / str(SIZE), True), (tmp_path / "file", False)):
        with open(path, "rb") as file:
            assert page_cache.may_block(file.fileno()) is slow
    if os.path.isdir("/dev/shm"):
        path = Path("/dev/shm") / f"wsgifile-{os.getpid()}"
        path.write_bytes(b"x")
        try:
            with open(path, "rb") as file:
                assert not page_cache.may_block(file.fileno())
        finally:
            path.unlink()


def test_file_system_that_is_not_known() -> None:
    assert page_cache._file_system(10**6) is None
    read_end, write_end = os.pipe()  # The file system of pipes is mounted nowhere.
    assert page_cache._file_system(read_end) is None
    os.close(read_end)
    os.close(write_end)
