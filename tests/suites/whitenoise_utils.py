"""Replaces tests/utils.py, which the source distribution of WhiteNoise lacks.

It is written from how the tests use its two names, not from the original. The files that the
tests serve are missing as well, and are made here.
"""

from __future__ import annotations

import gzip
import tempfile
import threading
import wsgiref.simple_server
import wsgiref.util
from pathlib import Path
from typing import Any

import requests


class AppServer:
    """The server of wsgiref in a thread, with the application below a prefix."""

    PREFIX = "subdir"  # as test_force_script_name has it

    def __init__(self, application: Any) -> None:
        def prefixed(environ: Any, start_response: Any) -> Any:
            wsgiref.util.shift_path_info(environ)
            return application(environ, start_response)

        self._server = wsgiref.simple_server.make_server("127.0.0.1", 0, prefixed)
        # It checks every 10 ms whether to stop, because each test has a server.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def get(self, url: str, **options: Any) -> requests.Response:
        return self.request("get", url, **options)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        port = self._server.server_port
        return requests.request(method, f"http://127.0.0.1:{port}{url}", timeout=10, **options)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Files:
    """A directory with a file for each keyword, and the path, URL and content of each file."""

    def __init__(self, directory: str, **files: str) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix=f"{directory}-")
        self.directory = self._temporary.name
        for name, path in files.items():
            content = f"{Path(path).name.removesuffix('.gz')}, some text\n".encode() * 10
            if path.endswith(".gz"):
                content = gzip.compress(content)
            file = Path(self.directory, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            setattr(self, f"{name}_path", path)
            setattr(self, f"{name}_url", f"/{AppServer.PREFIX}/{path}")
            setattr(self, f"{name}_content", content)
