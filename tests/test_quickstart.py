"""docs/quickstart.rst: the line that shows that it works is logged on gunicorn and in Django."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from pages import DOCS, blocks
from ports import free_port, running
from slow import gunicorn

PAGE = (DOCS / "quickstart.rst").read_text()
SNIPPETS = dict(blocks(PAGE))
LINE = r"gunicorn/[\w.]+: files are sent by os\.sendfile$"

PLAIN = """
from wsgifile import FileWrapperMiddleware

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "video/mp4")])
    return open("film.mp4", "rb")

app = FileWrapperMiddleware(app)
"""
DJANGO = """
import os
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse
from django.urls import path
from wsgifile import FileWrapperMiddleware

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
urlpatterns = [path("film", lambda request: FileResponse(open("film.mp4", "rb")))]
app = FileWrapperMiddleware(get_wsgi_application())
"""
SETTINGS = 'ROOT_URLCONF = "app"\nALLOWED_HOSTS = ["*"]\n'


def log_of(root: Path, app: str) -> str:
    """What gunicorn logs while it sends a part of a film and then the whole."""
    pytest.importorskip("gunicorn")
    (root / "app.py").write_text(app)
    (root / "film.mp4").write_bytes(bytes(300_000))
    port, log = free_port(), root / "log"
    with running(gunicorn()(port), port, log, cwd=root):
        # The request of the page.
        url = f"http://127.0.0.1:{port}/film"
        assert "-r 0-99 http://127.0.0.1:8000/film\n" in PAGE
        part = urllib.request.Request(url, headers={"Range": "bytes=0-99"})
        with urllib.request.urlopen(part, timeout=20) as answer:
            assert (answer.status, len(answer.read())) == (206, 100)
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert len(answer.read()) == 300_000
    return log.read_text()


@pytest.mark.parametrize("shown", [False, True])
def test_gunicorn(tmp_path: Path, shown: bool) -> None:
    """The line is there with the snippet, and not without it. gunicorn's own are there once."""
    if shown:
        (tmp_path / "gunicorn.conf.py").write_text(SNIPPETS["gunicorn.conf.py"])
    log = log_of(tmp_path, PLAIN)
    assert len(re.findall(LINE, log, re.MULTILINE)) == shown
    assert log.count("Booting worker") == 1


@pytest.mark.parametrize("shown", [False, True])
def test_django(tmp_path: Path, shown: bool) -> None:
    """The same with Django's own logging, also on gunicorn."""
    pytest.importorskip("django")
    snippet = SNIPPETS["settings.py"] if shown else ""
    (tmp_path / "settings.py").write_text(SETTINGS + snippet)
    log = log_of(tmp_path, DJANGO)
    assert len(re.findall(LINE, log, re.MULTILINE)) == shown
