"""The first request of a process that has no descriptors left."""

from __future__ import annotations

from pathlib import Path

import launch
import pytest
from client import Client
from ports import free_port, running

DATA = bytes(range(256)) * 4000
APP = """
import os, resource
from wsgifile import FileWrapperMiddleware

taken = []

def files(environ, start_response):
    if environ["PATH_INFO"] == "/free":
        for fd in taken:
            os.close(fd)
        start_response("204 No Content", [])
        return []
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    file = open("data", "rb")
    start_response("200 OK", [("Content-Length", str(os.fstat(file.fileno()).st_size))])
    try:
        while True:
            taken.append(os.dup(file.fileno()))
    except OSError:
        return file

app = FileWrapperMiddleware(files)
"""


@pytest.mark.parametrize("name", ["waitress", "gunicorn_gthread", "uwsgi_router", "cheroot"])
def test_no_descriptors(tmp_path: Path, name: str) -> None:
    """It gets the file. What is known of the server has been imported before."""
    pytest.importorskip(launch.SERVERS[name].module)
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "app_without_descriptors.py").write_text(APP)
    port = free_port()
    command = launch.command(name, str(tmp_path / "app_without_descriptors.py"), port)
    with running(command, port, tmp_path / "log", cwd=tmp_path), Client(port, 10) as client:
        answer = client.get("/data")
        assert (answer.status, answer.short, answer.body) == (200, False, DATA)
        # On the same connection: to accept another one takes a descriptor.
        if answer.reusable:
            client.get("/free")
