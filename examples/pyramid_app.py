"""Pyramid and WebOb: a static view, a FileResponse, and an open file.

In this directory:

    waitress-serve --listen 127.0.0.1:8080 pyramid_app:application

then open http://127.0.0.1:8080/files/hello.txt, http://127.0.0.1:8080/download and
http://127.0.0.1:8080/source. Needs Pyramid.
"""

import logging
import os

from pyramid.config import Configurator
from pyramid.response import FileResponse, Response

from wsgifile import FileWrapperMiddleware

logging.basicConfig(level=logging.INFO)
logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files")


def download(request):
    response = FileResponse(os.path.join(FILES, "hello.txt"), request=request)
    response.content_disposition = 'attachment; filename="hello.txt"'
    return response


def source(request):
    return Response(app_iter=open(__file__, "rb"), content_type="text/plain")


with Configurator() as config:
    config.add_static_view("files", FILES)
    for view in (download, source):
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(view, route_name=view.__name__)
    application = FileWrapperMiddleware(config.make_wsgi_app())
