"""Do the test suites of frameworks pass with the middleware around their applications?

Each suite runs twice, bare and wrapped. It is the newest release of the framework from PyPI, in
a venv of its own, with the tests from the source distribution of that release. A test that
passes bare has to pass wrapped, and requests must have gone through the middleware.

This needs Python 3.11 or newer with venv, and PyPI for the first run. The exit status is 1 if
the middleware breaks a test, or if a listed exception is not needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

STARTED = time.monotonic()

#: A run that takes longer than this number of seconds is taken to hang.
TIMEOUT = 300

#: The tests of Flask and Falcon do not run with pytest 9.
PYTEST = "pytest<9"

FIRST_EXC_INFO = "exc_info of a start_response that replaces nothing does not reach the server"
TWO_STARTS = "start_response a second time without exc_info: PEP 3333 forbids it, we refuse"


@dataclass(frozen=True)
class Suite:
    """The tests of one framework."""

    #: The name of the distribution on PyPI, and of the entry in suite_plugin.PLACES.
    name: str
    #: Files with tests in the source distribution, or other arguments of the runner.
    tests: Sequence[str] = ()
    #: What the tests need besides the framework.
    requirements: Sequence[str] = (PYTEST,)
    #: The runner and its options, if it uses unittest instead of pytest.
    runner: Sequence[str] = ()
    #: Files that the source distribution lacks, and their replacements in this directory.
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    #: Tests that pass bare and rightly fail wrapped: the ends of their names, and the reasons.
    differ: Mapping[str, str] = field(default_factory=dict)
    #: The reason why the suite cannot run.
    missing: str = ""


SUITES = (
    Suite(
        "waitress",
        ["tests/test_functional.py"],
        differ={
            "FileWrapperTests::test_filelike_longcl_http11": "Content-Length is more than the"
            " file has: waitress lowers it, the middleware ends the connection after the file"
        },
    ),
    Suite(
        "webob",
        ["tests"],
        differ={
            "::test_use_wsgi_filewrapper": "blocks of 256 KiB, not of 64 KiB",
            "::test_call_application_raises_exc_info": FIRST_EXC_INFO,
            "::test_call_application_returns_exc_info": FIRST_EXC_INFO,
        },
    ),
    Suite(
        "werkzeug",
        # The development server is tested in separate processes.
        ["tests", "--ignore=tests/test_serving.py"],
        [PYTEST, "pytest-timeout", "ephemeral-port-reserve"],
        differ={
            "::test_lazy_start_response_empty_response_app[False-False]": TWO_STARTS,
            "::test_lazy_start_response_empty_response_app[True-False]": TWO_STARTS,
            "::test_shared_data_middleware": "a small file comes as a list, which needs no"
            " close(), and the test calls it",
        },
    ),
    Suite("flask", ["tests"], [PYTEST, "asgiref"]),
    Suite(
        "django",
        [
            "responses",
            "wsgi",
            "handlers",
            "httpwrappers",
            "staticfiles_tests",
            "view_tests",
            "servers",
        ],
        requirements=(),
        runner=["tests/runtests.py", "--parallel=1"],
        differ={
            ".test_file_wrapper": "blocks of 256 KiB, not of 4 KiB",
            ".test_static.StaticHelperTest.test_chunked": "blocks of 256 KiB, not of 4 KiB",
            ".test_static.StaticTests.test_chunked": "blocks of 256 KiB, not of 4 KiB",
        },
    ),
    Suite("bottle", ["test"]),
    Suite("falcon", ["tests"], [PYTEST, "requests"]),
    Suite("pyramid", ["tests"], [PYTEST, "webtest", "zope.component"]),
    # Its tests import pkg_resources.
    Suite("paste", ["tests"], [PYTEST, "setuptools<81"]),
    Suite(
        "cherrypy",
        # Its server leaves sockets to the garbage collector. Some test or other failed with
        # that, bare as well.
        ["cherrypy/test/test_static.py", "-p", "no:unraisableexception"],
        [PYTEST, "path", "py"],
    ),
    Suite(
        "whitenoise",
        # The other tests are about compression, and serve nothing.
        [
            "tests/test_whitenoise.py",
            "tests/test_django_whitenoise.py",
            "tests/test_responders.py",
        ],
        [PYTEST, "requests", "django", "brotli"],
        stand_ins={
            "tests/conftest.py": "whitenoise_conftest.py",
            "tests/utils.py": "whitenoise_utils.py",
        },
    ),
    Suite("servestatic", missing="its source distribution has no tests"),
)


@dataclass(frozen=True)
class Installed:
    """A suite that is ready to run."""

    suite: Suite
    folder: Path
    version: str

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def source(self) -> Path:
        (source,) = (self.folder / "source").iterdir()
        return source


class Record:
    """The record that suite_plugin.py wrote about a run."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.requests = self.files = 0
        #: The worst outcome of each test. There are lines for its phases and subtests.
        self.outcomes: dict[str, str] = {}
        self.messages: dict[str, str] = {}
        severity = ("passed", "skipped", "failed").index
        for kind, *values in map(json.loads, lines):
            if kind == "test":
                test, outcome, message = values
                if severity(outcome) >= severity(self.outcomes.get(test, "passed")):
                    self.outcomes[test], self.messages[test] = outcome, message
            elif kind == "request":
                self.requests += 1
            elif kind == "file":
                self.files += 1

    def tests(self, outcome: str) -> set[str]:
        return {test for test, its in self.outcomes.items() if its == outcome}


@dataclass(frozen=True)
class Result:
    """The outcome of a suite, bare and wrapped."""

    installed: Installed
    bare: Record
    wrapped: Record

    @property
    def broken(self) -> dict[str, str]:
        """Tests that the middleware breaks, and how. This includes the expected ones."""
        record = self.wrapped
        return {
            test: record.messages.get(test) or record.outcomes.get(test, "did not run")
            for test in sorted(self.bare.tests("passed") - record.tests("passed"))
        }

    @property
    def differing(self) -> dict[str, str]:
        """The broken tests that are expected, and the reasons."""
        listed = self.installed.suite.differ.items()
        return {test: why for end, why in listed for test in self.broken if test.endswith(end)}

    @property
    def complaints(self) -> list[str]:
        """Everything that makes this a failure."""
        broken, differing = self.broken, self.differing
        says = [f"BROKEN: {test}: {how}" for test, how in broken.items() if test not in differing]
        for end in self.installed.suite.differ:
            listed = {test for test in self.bare.outcomes if test.endswith(end)}
            if not listed or listed - differing.keys():
                says.append(f"STALE: listed as one that differs, and does not: {end}")
        if not self.bare.tests("passed"):
            says.append("NO TEST passed bare")
        if not self.wrapped.requests:
            says.append("NO REQUEST came by the middleware")
        return says


def call(*command: str | Path) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def step(text: str) -> None:
    """Print what is being done, with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:5.0f} s  {text}", flush=True)


def install(suite: Suite, folder: Path, *, update: bool) -> Installed:
    """Install the framework, its source and what its tests need. The cache keeps all that."""
    stamp = folder / "installed.json"
    wanted = [suite.name, *suite.requirements]
    key = {"python": sys.version, "wanted": wanted}
    if stamp.exists() and not update:
        found = json.loads(stamp.read_text())
        if found["of"] == key:
            return Installed(suite, folder, found["version"])
    step(f"{suite.name}: installing")
    shutil.rmtree(folder, ignore_errors=True)
    call(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "install", *wanted)
    ask = f"from importlib.metadata import version; print(version({suite.name!r}))"
    version = call(python, "-c", ask).strip()
    # pip builds the metadata of what it downloads. Only the framework itself is downloaded as
    # source. Otherwise pip would compile the build tools first.
    options = ("--no-deps", f"--no-binary={suite.name}", f"--dest={folder / 'download'}")
    call(*pip, "download", *options, f"{suite.name}=={version}")
    (archive,) = (folder / "download").iterdir()
    shutil.unpack_archive(archive, folder / "source")
    stamp.write_text(json.dumps({"of": key, "version": version}))
    return Installed(suite, folder, version)


def run(installed: Installed, path: Path, *, wrapped: bool) -> Record:
    """Run the tests. Their output goes to a file in the cache."""
    suite, folder = installed.suite, installed.folder
    label = "wrapped" if wrapped else "bare"
    record = folder / f"{label}.jsonl"
    record.write_bytes(b"")
    for lacking, name in suite.stand_ins.items():
        shutil.copy(HERE / name, installed.source / lacking)
    environ = os.environ | {"PYTHONPATH": str(path), "WSGIFILE_SUITE_RECORD": str(record)}
    if wrapped:
        environ["WSGIFILE_SUITE_WRAP"] = suite.name
    # The options that a suite sets for pytest are only about coverage and output.
    pytest = ("-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "suite_plugin")
    runner = (str(path / "suite_plugin.py"), *suite.runner) if suite.runner else pytest
    with (folder / f"{label}.log").open("wb") as log:
        tests = subprocess.Popen(
            [installed.python, *runner, *suite.tests],
            cwd=installed.source,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            tests.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            step(f"{suite.name}: ended, as it was not done after {TIMEOUT} seconds")
        finally:
            # This ends servers that the tests have left running, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tests.pid, signal.SIGKILL)
            tests.wait()
    return Record(record.read_text().splitlines())


def make_path(cache: Path) -> Path:
    """A folder for PYTHONPATH. Not the checkout, which has folders named tests and docs."""
    path = cache / "path"
    path.mkdir(parents=True, exist_ok=True)
    for target in (ROOT / "wsgifile", HERE / "suite_plugin.py"):
        link = path / target.name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return path


def table(results: Sequence[Result]) -> str:
    """The results, with one line for each suite."""
    rows: list[tuple[str, ...]] = [
        ("suite", "version", "failed bare", "passed bare", "passed wrapped", "requests", "files")
    ]
    for result in results:
        numbers = (
            len(result.bare.tests("failed")),
            len(result.bare.tests("passed")),
            len(result.wrapped.tests("passed")),
            result.wrapped.requests,
            result.wrapped.files,
        )
        installed = result.installed
        rows.append((installed.suite.name, installed.version, *map(str, numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust] * 2 + [str.rjust] * 5
    return "\n".join(
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True))
        for row in rows
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [suite.name for suite in SUITES]
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="one of --list; default: all")
    parser.add_argument("--list", action="store_true", help="list the suites and their tests")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "wsgifile-suites",
        metavar="DIR",
        help="where the venvs, the sources and what the tests print are kept (%(default)s)",
    )
    parser.add_argument(
        "--update", action="store_true", help="install again: the newest of everything"
    )
    args = parser.parse_args()
    if unknown := set(args.suites) - set(names):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    args.suites = [suite for suite in SUITES if suite.name in (args.suites or names)]
    return args


def main() -> int:
    args = parse_args()
    if args.list:
        for suite in args.suites:
            print(f"{suite.name}: {suite.missing or ' '.join(suite.tests)}")
        return 0
    # So that no process outlives this script.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cache = args.cache.resolve()
    path = make_path(cache)
    results = []
    for suite in args.suites:
        if not suite.missing:
            installed = install(suite, cache / suite.name, update=args.update)
            step(f"{suite.name} {installed.version}: bare")
            bare = run(installed, path, wrapped=False)
            step(f"{suite.name} {installed.version}: wrapped")
            results.append(Result(installed, bare, run(installed, path, wrapped=True)))
    step("done")
    print(f"\n{table(results)}")
    for suite in args.suites:
        if suite.missing:
            print(f"{suite.name}: {suite.missing}")
    print()
    for result in results:
        for test, why in result.differing.items():
            print(f"{result.installed.suite.name}: differs: {test}: {why}")
        for complaint in result.complaints:
            print(f"{result.installed.suite.name}: {complaint}")
    print(f"What the tests printed: {cache}/*/bare.log and wrapped.log")
    return int(any(result.complaints for result in results))


if __name__ == "__main__":
    sys.exit(main())
