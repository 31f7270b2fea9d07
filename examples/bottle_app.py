"""Bottle: the files of a directory, and an open file.

In this directory:

    bottle --bind 127.0.0.1:8080 --server cheroot bottle_app:application

then open http://127.0.0.1:8080/files/hello.txt and http://127.0.0.1:8080/source. Needs
Bottle and cheroot.
"""

import logging
import os

from bottle import Bottle, response, static_file

from wsgifile import FileWrapperMiddleware

logging.basicConfig(level=logging.INFO)
logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files")
app = Bottle()


@app.get("/files/<name:path>")
def download(name):
    return static_file(name, root=FILES, download=True)


@app.get("/source")
def source():
    response.content_type = "text/plain; charset=utf-8"
    return open(__file__, "rb")


application = FileWrapperMiddleware(app)
