"""README.rst agrees with the code, and renders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from known import SERVERS

from wsgifile.cli.explain import senders_of

README = Path(__file__).parents[1] / "README.rst"


def rows() -> dict[str, list[str]]:
    """The table of senders: for each name in the first column, the servers in the second."""
    table = README.read_text().partition("files over 64 KiB go by     servers\n")[2]
    found: dict[str, list[str]] = {}
    for line in table.splitlines()[1:]:
        if line.startswith("==="):
            return found
        first, names = line[:28].strip(), line[28:].strip()
        if first:
            sender = first
        found.setdefault(sender, []).extend(names.strip(",").split(", "))
    raise AssertionError("the table has no end")


def test_senders() -> None:
    """The table names the same sender for each server as the files of wsgifile/servers."""
    read = {name.partition("_")[0] for name, known in SERVERS.items() if "read" in known.fast}
    # mod_wsgi has an underscore in its own name, and stands for all its variants.
    read = {"mod_wsgi" if name == "mod" else name for name in read}
    assert rows() == {
        "the server's own wrapper": senders_of()["wsgi.file_wrapper"],
        "os.sendfile": [*senders_of()["os.sendfile"]],
        "read(256 KiB)": sorted(read),
    }


def test_renders() -> None:
    """README.rst has no markup warning, with which the package index would not show it."""
    pytest.importorskip("docutils")
    command = [sys.executable, "-m", "docutils", "--report=1", "--halt=2", str(README)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("<table", done.stdout)
