"""Each example runs by the commands at its top, as a reader would run them.

They run in a copy of the directory, which has a free port and some large files.
"""

from __future__ import annotations

import ast
import csv
import io
import os
import random
import re
import shlex
import shutil
import socket
import sysconfig
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("h11")

from client import Client
from ports import free_port, running

EXAMPLES = Path(__file__).parents[1] / "examples"
IGNORED = shutil.ignore_patterns("__pycache__", "*.mp4")
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"], "/usr/sbin"])
#: More than is read at once.
LARGE = random.Random(5).randbytes(300_007)


def report(directory: Path) -> bytes:
    """The CSV report that the Flask and Django examples make of a directory."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["file", "bytes"])
    rows.writerows((path.name, path.stat().st_size) for path in sorted(directory.iterdir()))
    return text.getvalue().encode()


def archive(directory: Path) -> bytes:
    """The zip file that the Django example makes of a directory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for path in sorted(directory.iterdir()):
            made.write(path, path.name)
    return file.getvalue()


def says(path: str, *texts: str) -> Callable[[Client, Path], None]:
    """A function that checks that a page has these texts."""

    def check(client: Client, copy: Path) -> None:
        answer = client.get(path)
        assert answer.status == 200
        for text in texts:
            assert text in answer.body.decode()

    return check


def project(client: Client, copy: Path) -> None:
    """The Django project has an index, and its 404 page does not show its URL patterns."""
    says("/", "/media/hello.txt", "/report.csv", "/all.zip")(client, copy)
    answer = client.get("/none")
    assert answer.status == 404
    assert b"urls" not in answer.body


def metrics(client: Client, copy: Path) -> None:
    """/metrics counts the earlier requests, after a moment."""
    size = (copy / "prometheus.py").stat().st_size
    expected = [
        'wsgifile_responses_total{sender="read",status="200"} 1.0',
        'wsgifile_responses_total{sender="read",status="206"} 1.0',
        'wsgifile_responses_total{sender="none",status="200"} 1.0',
        f"wsgifile_sent_bytes_total {size + 100:.1f}",
        "wsgifile_seconds_count 3.0",
    ]
    deadline = time.monotonic() + 10
    while True:
        lines = client.get("/metrics").body.decode().splitlines()
        if not set(expected) - set(lines):
            return
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


def in_the_store(client: Client, copy: Path) -> None:
    """The store sends the film, in whole and in part."""
    says("/", '<video src="/film"', '<video src="/sent"', '<a href="/source"')(client, copy)
    for _ in range(2):  # The first response is over when the second one comes.
        answer = client.get("/film")
        assert (answer.status, answer.body) == (302, b"")
        location = answer.headers["location"]
        asked = urllib.request.Request(location, headers={"Range": "bytes=5-104"})
        for request, status, content in ((location, 200, LARGE), (asked, 206, LARGE[5:105])):
            with urllib.request.urlopen(request, timeout=20) as got:
                assert (got.status, got.headers["Content-Type"]) == (status, "video/mp4")
                assert got.read() == content
    told = (copy.parent / "log").read_text()
    assert re.search("302 Found: 0 bytes of .* by Location in ", told), told


@dataclass(frozen=True)
class Example:
    #: The content of each path: a file of the copy, a function of a directory in it, or bytes.
    pages: dict[str, str | tuple[Callable[[Path], bytes], str] | bytes]
    #: For each of its commands, the sender of the first page in the log; None: it has no log.
    senders: tuple[str | None, ...]
    #: Its other files.
    parts: tuple[str, ...] = ()
    #: Modules that it imports.
    needs: tuple[str, ...] = ()
    #: The path below which a directory is served, and a file next to that directory.
    below: tuple[str, str] | None = None
    #: The statuses allowed for a path that leads out of that directory or to no file.
    refused: tuple[int, ...] = (404,)
    check: Callable[[Client, Path], None] | None = None


TABLE = {
    "plain.py": Example({"/": "plain.py"}, (None, None)),
    "flask_app.py": Example(
        {
            "/files/large.bin": "files/large.bin",
            "/files/hello.txt": "files/hello.txt",
            "/report.csv": (report, "files"),
            "/source": "flask_app.py",
        },
        ("os.sendfile",),
        needs=("flask",),
        below=("/files/", "plain.py"),
        check=says("/", "/files/hello.txt", "/report.csv", "/source"),
    ),
    "django_project/manage.py": Example(
        {
            "/media/large.bin": "django_project/media/large.bin",
            "/media/hello.txt": "django_project/media/hello.txt",
            "/report.csv": (report, "django_project/media"),
            "/all.zip": (archive, "django_project/media"),
        },
        ("os.sendfile", "os.sendfile"),
        parts=(
            "django_project/project/__init__.py",
            "django_project/project/settings.py",
            "django_project/project/urls.py",
            "django_project/project/views.py",
            "django_project/project/wsgi.py",
            "django_project/media/hello.txt",
        ),
        needs=("django",),
        below=("/media/", "manage.py"),
        check=project,
    ),
    "pyramid_app.py": Example(
        {
            "/files/large.bin": "files/large.bin",
            "/download": "files/hello.txt",
            "/source": "pyramid_app.py",
        },
        ("wsgi.file_wrapper",),
        needs=("pyramid",),
        below=("/files/", "plain.py"),
    ),
    "bottle_app.py": Example(
        {"/files/large.bin": "files/large.bin", "/source": "bottle_app.py"},
        ("os.sendfile",),
        needs=("bottle", "cheroot"),
        below=("/files/", "plain.py"),
        refused=(403, 404),
    ),
    "falcon_app.py": Example(
        {"/files/large.bin": "files/large.bin", "/source": "falcon_app.py"},
        ("os.sendfile",),
        needs=("falcon",),
        below=("/files/", "plain.py"),
    ),
    "pipeline.ini": Example(
        {"/large.bin": "files/large.bin", "/hello.txt": "files/hello.txt"},
        (None,),
        parts=("pipeline_parts.py", "serve_ini.py"),
        needs=("paste.deploy",),
        below=("/", "plain.py"),
        check=says("/hello", "Hello from a filter\n"),
    ),
    "gunicorn_conf.py": Example({"/film": "film.mp4"}, ("os.sendfile",)),
    "video.py": Example({"/film": "film.mp4"}, (None, None), check=says("/", '<video src="film"')),
    "offload.py": Example(
        {"/large.bin": "files/large.bin", "/hello.txt": "files/hello.txt"},
        ("X-Accel-Redirect", "X-Sendfile"),
        parts=("offload-nginx.conf", "offload-apache.conf"),
        below=("/", "plain.py"),
        refused=(400, 404),
    ),
    "object_store.py": Example(
        {"/source": "object_store.py", "/sent": "film.mp4"},
        ("read", "read"),
        needs=("boto3", "s3fs", "moto.server", "flask", "django"),
        check=in_the_store,
    ),
    "slow_source.py": Example({"/": bytes(range(256)) * 16384}, ("read",)),
    "prometheus.py": Example(
        {"/": "prometheus.py"}, (None,), needs=("prometheus_client",), check=metrics
    ),
}
#: Files that belong to no single example.
SHARED = ("files/hello.txt", "README.rst")


def commands(name: str) -> list[str]:
    """The commands at the top of an example: its lines that are indented."""
    text = (EXAMPLES / name).read_text()
    if name.endswith(".py"):
        text = ast.get_docstring(ast.parse(text)) or ""
    else:
        text = re.sub("^; ?", "", text.partition("\n\n")[0], flags=re.MULTILINE)
    return re.findall(r"^    (\S.*)$", text, re.MULTILINE)


@pytest.fixture
def copy() -> Iterator[Path]:
    """A copy of the directory. nginx may enter it, unlike pytest's temporary directories."""
    with tempfile.TemporaryDirectory(prefix="examples-") as scratch:
        copy = Path(os.path.realpath(scratch), "examples")
        shutil.copytree(EXAMPLES, copy, ignore=IGNORED)
        copy.parent.chmod(0o755)
        for name in ("files/large.bin", "django_project/media/large.bin", "film.mp4"):
            (copy / name).write_bytes(LARGE)
        yield copy


def installed(example: Example, command: list[str]) -> None:
    """Skip the test if something that the command needs is not installed."""
    program = next(word for word in command if "=" not in word)
    programs = [program]
    if "offload.py" in command:
        programs.append({"nginx": "nginx", "apache": "apache2"}[command[2]])
        module = Path("/usr/lib/apache2/modules/mod_xsendfile.so")
        if command[2] == "apache" and not module.exists():
            pytest.skip("no mod_xsendfile on this system")
    for name in programs:
        if shutil.which(name, path=PATH) is None:
            pytest.skip(f"{name} is not installed")
    for name in example.needs:
        pytest.importorskip(name)


def cases() -> Iterator[object]:
    for name, example in TABLE.items():
        pairs = zip(commands(name), example.senders, strict=True)
        for number, (command, sender) in enumerate(pairs):
            yield pytest.param(name, command, sender, id=f"{name}-{number}")


@pytest.mark.parametrize(("name", "command", "sender"), list(cases()))
def test_example(copy: Path, name: str, command: str, sender: str | None) -> None:
    example = TABLE[name]
    installed(example, shlex.split(command))
    port = free_port()
    for path in copy.rglob("*.*"):
        if path.suffix in (".py", ".ini"):
            path.write_text(path.read_text().replace("8080", str(port)))
    log = copy.parent / "log"
    # Another gunicorn may already have a control socket at the same path. A worker that has
    # just been forked loses a SIGTERM, so there is only one, and it answers a request first.
    options = "--no-control-socket --workers 1"
    environ = {**os.environ, "PATH": PATH, "GUNICORN_CMD_ARGS": options}
    command = command.replace("8080", str(port))
    with (
        running(["env", *shlex.split(command)], port, log, cwd=copy, env=environ),
        Client(port) as client,
    ):
        ask(client, copy, example)
        if example.check is not None:
            example.check(client, copy)
    with pytest.raises(ConnectionRefusedError):  # Nothing stays behind.
        socket.create_connection(("127.0.0.1", port), 1).close()
    told = log.read_text()
    # The only warning allowed is Pyramid's UserWarning about pkg_resources.
    assert not re.search(r"Traceback|(?<!User)Warning:|:alert]", told), told
    if sender is not None:
        # If a proxy sends the file, the application sends no byte.
        size = 0 if sender.startswith("X-") else len(expected(copy, example)[0][1])
        assert re.search(rf"200 OK: {size} bytes of .* by {sender} in ", told), told


def expected(copy: Path, example: Example) -> list[tuple[str, bytes]]:
    """The paths of an example, with their content."""
    found = []
    for path, content in example.pages.items():
        if isinstance(content, str):
            content = (copy / content).read_bytes()
        elif isinstance(content, tuple):
            content = content[0](copy / content[1])
        found.append((path, content))
    return found


def ask(client: Client, copy: Path, example: Example) -> None:
    """Request every page in whole and in part, and paths that must be refused."""
    pages = expected(copy, example)
    for path, content in pages:
        answer = client.get(path)
        assert (answer.status, answer.short) == (200, False)
        assert answer.body == content
        assert answer.headers["content-length"] == str(len(content))
        answer = client.get(path, headers=(("Range", "bytes=5-104"),))
        assert (answer.status, answer.body) == (206, content[5:105])
        end = min(105, len(content)) - 1
        assert answer.headers["content-range"] == f"bytes 5-{end}/{len(content)}"
    path, content = pages[0]
    answer = client.get(path, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(content))
    if example.below is not None:
        below, near = example.below
        for way in ("../", "%2e%2e/", "..%2f", "hello.txt/../../", "none/", "none%00"):
            answer = client.get(below + way + near)
            assert answer.status in example.refused, way


def test_all_are_tested() -> None:
    """Every file of the directory belongs to an example."""
    found = set()
    for directory, directories, names in os.walk(EXAMPLES):
        ignored = IGNORED(directory, [*directories, *names])
        directories[:] = set(directories) - ignored
        found |= {
            Path(directory, name).relative_to(EXAMPLES).as_posix() for name in set(names) - ignored
        }
    parts = {part for example in TABLE.values() for part in example.parts}
    assert found == {*TABLE, *parts, *SHARED}


def test_all_are_listed() -> None:
    """README.rst lists the examples in the order of TABLE."""
    text = (EXAMPLES / "README.rst").read_text()
    assert re.findall(r"^``(\S+)``  ", text, re.MULTILINE) == list(TABLE)
