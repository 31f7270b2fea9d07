"""Install a wheel or an sdist into an empty environment, and get a file by what it is.

Outside of the checkout, so that nothing can be taken from there; and pyright looks
whether all that it exports has a type.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
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
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                f"{dist}[serve]",
            ],
            check=True,
        )
        subprocess.run([python, "-m", "pip", "check"], check=True)
        content = os.urandom(300_000)
        site = os.path.join(scratch, "site")
        os.mkdir(site)
        with open(os.path.join(site, "file.bin"), "wb") as file:
            file.write(content)
        server = subprocess.Popen(
            [os.path.join(programs, "wsgifile"), "--port", "0", site],
            cwd=scratch,
            stdout=subprocess.PIPE,
            text=True,
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
        if dist.endswith(".whl"):
            # As if that environment were activated: it takes no other word for it.
            path = os.pathsep.join([programs, os.environ["PATH"]])
            subprocess.run(
                [sys.executable, "-m", "pyright", "--ignoreexternal", "--verifytypes", "wsgifile"],
                env={**os.environ, "PATH": path, "VIRTUAL_ENV": environment},
                check=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
