"""Do complete applications work as before with wsgifile put in, and what does it change for them?

Each one is the newest release from PyPI, installed in a venv of its own and started as its own
documentation says: once bare, and once in FileWrapperMiddleware. What its users do is done with
both, and has to give the same. Then a large file is downloaded from both in turn.

The server is gunicorn with threads. Kolibri is on the server that it comes with. Pyramid is on
waitress, by pserve, and is 1.10: the last release that can make a project without GitHub.

This needs the project's own venv with the extra ``test``, PyPI for the first run, curl, and for
WsgiDAV also Debian's litmus. The exit status is 1 if something differs that must not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(HERE)]

import flows  # noqa: E402
from ports import free_port, running  # noqa: E402

STARTED = time.monotonic()
#: The size of the file that is downloaded, in bytes.
LARGE = 100 << 20
REPEATS = 5

#: What comes after the application's own lines, in the module that the server imports.
SERVED = """
from wsgifile import FileWrapperMiddleware

def note(transfer):
    path = transfer.environ["PATH_INFO"]
    with open("transfers", "a") as file:
        file.write(f"{transfer.sent} bytes of {path!r} by {transfer.sender}\\n")

wrapped = FileWrapperMiddleware(bare, on_sent=note)
"""

GUNICORN = ("-m", "gunicorn", "--worker-class", "gthread", "--threads", "4",
            "--no-control-socket", "--bind", "127.0.0.1:{port}", "served:{name}")  # fmt: skip


@dataclass(frozen=True)
class Application:
    #: The name of the distribution on PyPI.
    name: str
    #: The lines that make the WSGI application, as its documentation says. It is called bare.
    code: str
    #: Makes what it serves, in an empty directory: ``prepare(python, directory, large)``.
    prepare: Callable[[Path, Path, Path], None]
    #: Does what users do, and returns what has to be the same: ``flow(url, python, directory)``.
    flow: Callable[[str, Path, Path], object]
    #: The path of the large file in its URL.
    large: str
    #: What it needs besides itself.
    requirements: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    #: How it is served: arguments of its Python. The name is bare or wrapped.
    server: Sequence[str] = GUNICORN


APPLICATIONS = [
    Application(
        "pypiserver",
        "import pypiserver\nbare = pypiserver.app(roots=['packages'], hash_algo='sha256')\n",
        flows.prepare_pypiserver,
        flows.use_pypiserver,
        "/packages/large-1.0.tar.gz",
    ),
    Application(
        "mercurial",
        "from mercurial.hgweb import hgweb\nbare = hgweb(b'repository')\n",
        flows.prepare_hgweb,
        flows.use_hgweb,
        "/raw-file/tip/large",
        environ={"HGPLAIN": "1", "HGRCPATH": ""},
    ),
    Application(
        "WsgiDAV",
        "from wsgidav.wsgidav_app import WsgiDAVApp\n"
        "bare = WsgiDAVApp({'provider_mapping': {'/': 'share'}, 'verbose': 1,\n"
        "    'property_manager': True, 'simple_dc': {'user_mapping': {'*': True}}})\n",
        flows.prepare_wsgidav,
        flows.use_wsgidav,
        "/large",
    ),
    Application(
        "Trac",
        "import os\n"
        "os.environ['TRAC_ENV'] = os.path.abspath('trac')\n"
        "from trac.web.main import dispatch_request as bare\n",
        flows.prepare_trac,
        flows.use_trac,
        "/raw-attachment/wiki/WikiStart/large",
        ["setuptools<81"],
    ),
    Application(
        "Django",
        "import os\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'project.settings'\n"
        "from django.core.wsgi import get_wsgi_application\n"
        "bare = get_wsgi_application()\n",
        flows.prepare_django,
        flows.use_django,
        "/sent/large",
        ["whitenoise", "django-downloadview"],
    ),
    Application(
        "TurboGears2",
        flows.TURBOGEARS,
        flows.prepare_turbogears,
        flows.use_turbogears,
        "/large",
    ),
    Application(
        "kolibri",
        flows.KOLIBRI,
        flows.prepare_kolibri,
        flows.use_kolibri,
        flows.KOLIBRI_FILE + ".mp4",
        environ={"KOLIBRI_HOME": "home"},
        server=["-c", flows.KOLIBRI_SERVER],
    ),
    Application(
        "pyramid",
        "bare = None  # The ini files are served.\n",
        flows.prepare_pyramid,
        flows.use_pyramid,
        "/large",
        ["pyramid<2", "pyramid_jinja2", "setuptools>=80,<81", "waitress"],
        # So that egg:project is found.
        environ={"PYTHONPATH": f"{ROOT}{os.pathsep}project"},
        server=["-m", "pyramid.scripts.pserve", "project/{name}.ini", "port={port}"],
    ),
]


@dataclass
class Side:
    """An application that runs, bare or wrapped."""

    url: str
    directory: Path
    same: object = None
    seconds: list[float] = field(default_factory=list)

    def sender(self, path: str) -> str:
        """By which sender all of this path was sent; "-" if it was not recognised."""
        log = self.directory / "transfers"
        lines = log.read_text() if log.exists() else ""
        found = re.search(rf"\b{LARGE} bytes of '\S*{re.escape(path)}' by (\S+)", lines)
        return found[1] if found else "-"


def step(text: str) -> None:
    """Print what is being done, with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:5.0f} s  {text}", file=sys.stderr, flush=True)


def install(application: Application, folder: Path, *, update: bool) -> Path:
    """The Python of a venv with the application and with this checkout. The cache keeps it."""
    python, stamp = folder / "venv/bin/python", folder / "installed"
    wanted = " ".join([application.name, *application.requirements])
    if update or not stamp.exists() or stamp.read_text() != wanted:
        step(f"{application.name}: installing")
        shutil.rmtree(folder, ignore_errors=True)
        flows.call(sys.executable, "-m", "venv", folder / "venv")
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        flows.call(*pip, "gunicorn", application.name, *application.requirements)
        stamp.write_text(wanted)
    return python


@contextlib.contextmanager
def served(
    application: Application, python: Path, directory: Path, large: Path, *, wrapped: bool
) -> Iterator[Side]:
    """The application with data of its own, on a server of its own."""
    directory.mkdir()
    application.prepare(python, directory, large)
    (directory / "served.py").write_text(application.code + SERVED)
    port, name = free_port(), "wrapped" if wrapped else "bare"
    command = [str(python), *(part.format(port=port, name=name) for part in application.server)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **application.environ}
    with running(command, port, directory / "log", cwd=directory, env=environ):
        yield Side(f"http://127.0.0.1:{port}", directory)


def measure(
    application: Application, python: Path, temporary: Path, large: Path
) -> tuple[list[str], list[str]]:
    """The row of the table, and what is wrong."""
    name, path = application.name, application.large
    both = [
        served(application, python, temporary / f"{name}-{wrapped}", large, wrapped=wrapped)
        for wrapped in (False, True)
    ]
    with both[0] as bare, both[1] as ours:
        for side in (bare, ours):
            step(f"{name}, {'bare' if side is bare else 'wrapped'}: what its users do")
            side.same = application.flow(side.url, python, side.directory)
        complaints = [] if bare.same == ours.same else [f"{name}: {bare.same} is {ours.same} now"]
        for repeat in range(REPEATS):
            for side in (bare, ours)[:: 1 if repeat % 2 else -1]:
                got = flows.download(side.url + path)
                side.seconds.append(got.seconds)
                if got.sha256 != flows.sha256(large):
                    complaints.append(f"{name}: {path} has other bytes")
        step(f"{name}: {path} downloaded")
        parts, again = [], []
        for side in (bare, ours):
            part = flows.download(side.url + path, "--range", "1000-1999")
            parts.append("yes" if part.status == 206 and part.size == 1000 else "no")
            again.append("yes" if flows.is_304(side.url + path) else "no")
            if part.status == 206 and part.sha256 != flows.sha256(large, 1000, 2000):
                complaints.append(f"{name}: a range of {path} has other bytes")
        sender = ours.sender(path)
    ask = f"from importlib.metadata import version; print(version({name!r}))"
    release = flows.call(python, "-c", ask).strip()
    ratios = [b / o for b, o in zip(bare.seconds, ours.seconds, strict=True)]
    row = [f"{name} {release}", "same" if bare.same == ours.same else "DIFFERS", sender]
    row += [f"{before}, {now}" for before, now in (parts, again)]
    row += [f"{statistics.median(side.seconds):.3f}" for side in (bare, ours)]
    return [*row, f"{statistics.median(ratios):.2f}"], complaints


def show(report: Any, rows: list[list[str]]) -> None:
    print(f"\nA file of {LARGE >> 20} MiB: its sender, whether there are ranges and 304 (bare,")
    print(f"ours), and the seconds of a download, medians of {REPEATS} in turn\n")
    head = ["application", "flows", "sender", "ranges", "304", "bare", "ours", "bare / ours"]
    print(report.table(head, rows))


def main() -> int:
    names = [application.name for application in APPLICATIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=flows.Formatter)
    parser.add_argument("--only", metavar="NAME", action="append", choices=names, default=[])
    parser.add_argument("--update", action="store_true", help="install the newest releases")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsgifile-apps"
    parser.add_argument("--cache", type=Path, default=cache, help=f"default: {cache}")
    args = parser.parse_args()
    sys.path.append(str(ROOT / "benchmarks"))
    report = import_module("report")
    report.begin(args, ["gunicorn"])
    rows, complaints = [], []
    with tempfile.TemporaryDirectory(prefix="applications-") as made:
        large = Path(made) / "large"
        large.write_bytes(os.urandom(LARGE))
        for application in APPLICATIONS:
            if not args.only or application.name in args.only:
                folder = args.cache / application.name
                python = install(application, folder, update=args.update)
                row, wrong = measure(application, python, Path(made), large)
                rows.append(row)
                complaints += wrong
    show(report, rows)
    print(*complaints, sep="\n", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
