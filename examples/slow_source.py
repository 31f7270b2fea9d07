"""A download from another server, read ahead of the client.

In this directory:

    waitress-serve --listen 127.0.0.1:8080 slow_source:application

then open http://127.0.0.1:8080/. Needs waitress. This file also contains the other server,
which is slow. To use another one, put SOURCE=http://... in front of the command.
"""

import io
import logging
import os
import threading
import time
from contextlib import closing
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import waitress

from wsgifile import FileWrapperMiddleware

logging.basicConfig(level=logging.INFO)
logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.

#: Header fields that are passed on, of the request and of the response.
ASKED = ("Range", "If-Range", "If-None-Match", "If-Modified-Since")
TOLD = ("Content-Type", "Content-Length", "Content-Range", "ETag", "Last-Modified")


def slow_server():
    """Start a server that is slow for each 256 KiB, and return its URL."""
    data = bytes(range(256)) * 16384

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return io.BytesIO(data)

    def slow(environ, start_response):
        with closing(FileWrapperMiddleware(app)(environ, start_response)) as blocks:
            for block in blocks:
                time.sleep(0.02)
                yield block

    server = waitress.create_server(slow, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    return f"http://127.0.0.1:{server.effective_port}/"


def app(environ, start_response):
    request = Request(SOURCE, method="HEAD" if environ["REQUEST_METHOD"] == "HEAD" else "GET")
    for name in ASKED:
        value = environ.get("HTTP_" + name.upper().replace("-", "_"))
        if value is not None:
            request.add_header(name, value)
    try:
        answer = urlopen(request, timeout=30)
    except HTTPError as error:
        answer = error  # 304 and 416 are ordinary responses here.
    headers = [(name, answer.headers[name]) for name in TOLD if name in answer.headers]
    start_response(f"{answer.status} {answer.reason}", headers)
    return answer


SOURCE = os.environ.get("SOURCE") or slow_server()
application = FileWrapperMiddleware(app, read_ahead=4)
