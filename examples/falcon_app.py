"""Falcon: a static route, and a stream.

In this directory:

    gunicorn --bind 127.0.0.1:8080 falcon_app:application

then open http://127.0.0.1:8080/files/hello.txt and http://127.0.0.1:8080/source. Needs
Falcon and gunicorn.
"""

import logging
import os

import falcon

from wsgifile import FileWrapperMiddleware

logging.basicConfig(level=logging.INFO)
logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.


class Source:
    def on_get(self, request, response):
        response.content_type = falcon.MEDIA_TEXT
        response.stream = open(__file__, "rb")


app = falcon.App()
app.add_static_route("/files", os.path.join(os.path.dirname(os.path.abspath(__file__)), "files"))
app.add_route("/source", Source())
application = FileWrapperMiddleware(app)
