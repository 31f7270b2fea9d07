"""Real clients: curl resumes a download, and Chromium seeks in a film."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port, running

EXAMPLES = Path(__file__).parent.parent / "examples"


@contextlib.contextmanager
def serving(directory: Path, log: Path, **environ: str) -> Iterator[str]:
    """Run examples/video.py by its own command, with a log that shows the Range fields."""
    pytest.importorskip("gunicorn")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--threads", "4", "--no-control-socket"]
    command += ["--bind", f"127.0.0.1:{port}", "--access-logfile", "-"]
    command += ["--access-logformat", "%(m)s %(U)s %({range}i)s -> %(s)s %(B)s"]
    command += ["video:application"]
    with running(command, port, log, cwd=directory, env={**os.environ, **environ}):
        yield f"http://127.0.0.1:{port}"


def needed(name: str) -> str:
    found = shutil.which(name)
    return found or pytest.skip(f"{name} is not installed")


def test_curl_resumes(tmp_path: Path) -> None:
    """An interrupted download continues where it stopped, and the file is complete then."""
    curl = needed("curl")
    film, part = tmp_path / "film.mp4", tmp_path / "part"
    film.write_bytes(os.urandom(30_000_000))
    with serving(EXAMPLES, tmp_path / "log", FILM=str(film)) as url:
        cut = [curl, "--silent", "--limit-rate", "4M", "-o", str(part), f"{url}/film"]
        with subprocess.Popen(cut) as process:
            while not part.exists() or not part.stat().st_size:
                assert process.poll() is None
                time.sleep(0.05)
            process.terminate()
        begun = part.stat().st_size
        assert 0 < begun < 30_000_000
        subprocess.run([curl, "--fail", "-sC", "-", "-o", str(part), f"{url}/film"], check=True)
    assert hashlib.sha256(part.read_bytes()).digest() == hashlib.sha256(film.read_bytes()).digest()
    log = (tmp_path / "log").read_text()
    assert f"GET /film bytes={begun}- -> 206 {30_000_000 - begun}\n" in log


class Browser:
    """Headless Chromium, controlled through its debugging pipe."""

    def __init__(self, chromium: str, profile: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # It reads from descriptor 3 and writes to 4.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        options += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        options += ["--disable-component-update", "--autoplay-policy=no-user-gesture-required"]
        options += [f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        script = f'exec "$@" 3<&{commands} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", chromium, *options],
            pass_fds=[commands, answers],
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._calls = 0
        self._read = b""
        [page] = [
            target
            for target in self.call("Target.getTargets")["targetInfos"]
            if target["type"] == "page"
        ]
        attach = {"targetId": page["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", **attach)["sessionId"]

    _session = None

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method of the Chrome DevTools Protocol."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                data = os.read(self._answers, 65536)
                assert data, "the browser has exited"
                self._read += data
            line, _, self._read = self._read.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + 30
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.1)

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(10)
        os.close(self._commands)
        os.close(self._answers)


def test_chromium_seeks(tmp_path: Path) -> None:
    """Chromium plays from the middle. It asks for that range long before it has the rest."""
    chromium, ffmpeg = needed("chromium"), needed("ffmpeg")
    film = tmp_path / "film.mp4"
    # Noise makes the film large, so that the browser buffers only a part of its 60 seconds.
    source = "testsrc2=size=640x360:rate=25:duration=60,noise=alls=60:allf=t"
    encoded = ["-c:v", "libx264", "-preset", "ultrafast", "-qp", "18", "-pix_fmt", "yuv420p"]
    command = [ffmpeg, "-loglevel", "error", "-f", "lavfi", "-i", source, *encoded]
    subprocess.run([*command, "-movflags", "+faststart", str(film)], check=True)
    with serving(EXAMPLES, tmp_path / "log", FILM=str(film)) as url:
        browser = Browser(chromium, tmp_path / "profile")
        try:
            browser.call("Page.navigate", url=url)
            browser.wait_for("!!window.document.querySelector('video')")
            browser.evaluate("film = document.querySelector('video'); 0")
            browser.wait_for("film.readyState >= 2")
            assert browser.evaluate("film.duration") == pytest.approx(60, abs=0.5)
            browser.evaluate("film.currentTime = 30; film.play(); 0")
            browser.wait_for("film.currentTime > 31 && !film.seeking && !film.paused")
            assert browser.evaluate("film.error") is None
        finally:
            browser.close()
    log = (tmp_path / "log").read_text()
    size = film.stat().st_size
    starts = [int(start) for start in re.findall(r"GET /film bytes=(\d+)-\d* -> 206", log)]
    assert any(0.3 * size < start < 0.7 * size for start in starts), log
