"""Install a wheel or an sdist into an empty environment, and use it.

First without anything else: it must bring no other package, and its command must say in one
line what to install. Then with the extra ``serve``, to get a file from the command, and with
``tls`` and ``qr``. All this happens outside of the checkout, so that nothing can come from there.
For a wheel, pyright checks that everything exported has a type. An sdist has all files of the
checkout: its documentation builds, and its quick tests pass.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import venv


def main(dist: str) -> None:
    dist = os.path.abspath(dist)
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.path.join(scratch, "venv")
        venv.create(environment, with_pip=True)
        programs = os.path.join(environment, "bin")
        python = os.path.join(programs, "python")
        command = os.path.join(programs, "wsgifile")
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        before = packages(pip)
        subprocess.run([*pip, "install", "-q", dist], check=True)
        assert packages(pip) - before == {"wsgifile"}
        subprocess.run([python, "-W", "error", "-c", "import wsgifile"], cwd=scratch, check=True)
        for arguments in ([], ["--explain"]):
            refused("waitress is not installed: pip install waitress WebOb", command, *arguments)
        subprocess.run([*pip, "install", "-q", f"{dist}[serve]"], check=True)
        subprocess.run([*pip, "check"], check=True)
        get_file(command, scratch)
        tls = [command, "--cert", os.path.join(scratch, "nosuch")]
        refused("cheroot is not installed: pip install cheroot", *tls)
        subprocess.run([*pip, "install", "-q", f"{dist}[tls,qr]"], check=True)
        subprocess.run([*pip, "check"], check=True)
        refused("cannot use --cert and --key: No such file or directory", *tls)
        subprocess.run([python, "-c", "import segno"], cwd=scratch, check=True)
        if dist.endswith(".tar.gz"):
            use_sources(dist, scratch)
        else:
            # As if that environment were active, which is where pyright looks for packages.
            path = os.pathsep.join([programs, os.environ["PATH"]])
            subprocess.run(
                [sys.executable, "-m", "pyright", "--ignoreexternal", "--verifytypes", "wsgifile"],
                env={**os.environ, "PATH": path, "VIRTUAL_ENV": environment},
                check=True,
            )


def use_sources(dist: str, scratch: str) -> None:
    """Build the documentation of an sdist, and run its quick tests, outside of the checkout."""
    with tarfile.open(dist) as archive:
        archive.extractall(scratch, filter="data")
    root = os.path.join(scratch, os.path.basename(dist).removesuffix(".tar.gz"))
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True)
    files = set(listed.stdout.split("\0")) - {"", ".gitignore"}
    missing = {name for name in files if not os.path.exists(os.path.join(root, name))}
    assert not missing, missing
    python = [sys.executable, "-m"]
    environ = {**os.environ, "PYTHONPATH": root}
    for arguments in (
        ["sphinx", "-q", "-W", "-n", "-b", "html", "docs", f"{scratch}/html"],
        ["pytest", "-q", "-m", "quick", "-p", "no:cacheprovider"],
    ):
        subprocess.run([*python, *arguments], cwd=root, env=environ, check=True)


def refused(message: str, *command: str) -> None:
    """The command says this in one line, and ends."""
    done = subprocess.run([*command, "."], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"wsgifile: {message}\n")


def packages(pip: list[str]) -> set[str]:
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True)
    return {package["name"] for package in json.loads(listed.stdout)}


def get_file(command: str, scratch: str) -> None:
    """Serve a directory with the command, and get a part of a file."""
    content = os.urandom(300_000)
    site = os.path.join(scratch, "site")
    os.mkdir(site)
    with open(os.path.join(site, "file.bin"), "wb") as file:
        file.write(content)
    server = subprocess.Popen(
        [command, "--port", "0", site], cwd=scratch, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    with server:
        url = re.search(r"http://\S+", server.stdout.readline())
        assert url is not None
        request = urllib.request.Request(url[0] + "file.bin", headers={"Range": "bytes=9-"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert (answer.status, answer.read()) == (206, content[9:])
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0


if __name__ == "__main__":
    main(sys.argv[1])
