"""An application of each framework, with every way in which it can send a file.

It runs in the process of the server, as the stack of its name. ``WAYS`` lists the paths, and what
the tests have to know about them.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Any
from wsgiref.util import FileWrapper

import cases
from cases import path


@dataclass(frozen=True)
class Way:
    #: The framework: the name of its function in this module.
    framework: str
    path: str
    #: How the file is sent. "fast": by descriptor, where the server allows it. "read": in large
    #: blocks. "own": as the framework iterates it.
    sent: str = "fast"
    #: The same for a 206 with a part of it.
    part: str = "fast"
    #: Whether a GET has an ETag, from the framework or from wsgifile.
    etag: bool = True
    #: Whether close() must run in the thread that made the response. Then the file is read on a
    #: server that sends from another thread.
    threaded: bool = False
    #: Whether the answer to a HEAD has a Content-Length. It has none if the framework drops the
    #: file without having asked for its size.
    head_sized: bool = True
    #: The whole body.
    body: bytes = cases.DATA


#: Lines of text, which a framework encodes.
TEXT = "\n".join(str(n) for n in range(20_000))

WAYS = [
    Way("django", "file_response"),
    Way("django", "storage"),
    Way("django", "field_file"),
    Way("django", "image_field_file"),
    Way("django", "content_file", "read", "read", etag=False),
    Way("django", "static/data", etag=False),
    Way("django", "streaming", threaded=True),
    Way("django", "streaming_file", threaded=True),
    Way("django", "streaming_wrapper", threaded=True),
    Way("django", "streaming_temporary", threaded=True),
    Way("django", "streaming_text", "own", "own", False, body=TEXT.encode()),
    Way("django", "http_response", "own", "own", etag=False),
    # Sub-classes of Django's responses, by other projects.
    Way("django", "downloadview", threaded=True),
    Way("django", "downloadview_file", threaded=True),
    Way("django", "ranged_fileresponse", threaded=True),
    Way("flask", "send_file"),
    Way("flask", "static/data"),
    Way("flask", "passthrough", head_sized=False),
    Way("flask", "file_wrapper", head_sized=False),
    Way("flask", "response", threaded=True, head_sized=False),
    Way("flask", "view", threaded=True, head_sized=False),
    # Werkzeug makes a list of its blocks to know the length.
    Way("flask", "conditional", "own", threaded=True),
    Way("flask", "text", "own", "own", False, body=TEXT.encode()),
    Way("webob", "file_app", etag=False),
    Way("webob", "app_iter", head_sized=False),
    Way("webob", "conditional"),
    Way("pyramid", "file_response", etag=False),
    Way("pyramid", "no_request", etag=False),
    Way("pyramid", "static/data", etag=False),
    Way("pyramid", "app_iter", head_sized=False),
    Way("bottle", "static_file", part="own"),
    Way("bottle", "open", head_sized=False),
    Way("falcon", "stream", head_sized=False),
    Way("falcon", "static/data"),
    Way("cherrypy", "serve_file", threaded=True, etag=False),
    Way("cherrypy", "static/data", threaded=True, etag=False),
    Way("cherrypy", "open", threaded=True, head_sized=False),
    Way("web_py", "open", "own", "own", etag=False),
    Way("web_py", "hooked", "own", "own", etag=False),
    Way("paste", "data"),
    Way("paste_file", ""),
    Way("whitenoise", "data"),
    Way("servestatic", "data"),
]


#: What a response does at its end may depend on variables of its thread.
local = threading.local()


def opened(name: str = "data") -> Any:
    return open(path(name), "rb")


def django() -> Any:
    from django.conf import settings
    from django.core.files.base import ContentFile, File
    from django.core.files.storage import FileSystemStorage
    from django.core.signals import request_finished
    from django.core.wsgi import get_wsgi_application
    from django.db.models.fields.files import FieldFile, FileField, ImageField, ImageFieldFile
    from django.http import FileResponse, HttpResponse, StreamingHttpResponse
    from django.urls import path as url
    from django.views.decorators.gzip import gzip_page
    from django.views.static import serve
    from django_downloadview import DownloadResponse, StorageDownloadView
    from ranged_fileresponse import RangedFileResponse

    def finished(**kwargs: Any) -> None:
        cases.events.append(["finished"])
        cases.events.append(["thread", getattr(local, "streaming", False)])
        local.streaming = False

    def streaming(request: Any) -> Any:
        local.streaming = True
        return StreamingHttpResponse(opened(request.GET.get("file", "data")))

    def streaming_file(request: Any) -> Any:
        file = opened()
        file.read(3)  # Iterating goes back to the beginning.
        return StreamingHttpResponse(File(file))

    def http_response(request: Any) -> Any:
        with opened() as file:
            return HttpResponse(file)

    def temporary(request: Any) -> Any:
        file = NamedTemporaryFile()
        file.write(cases.DATA)
        file.seek(0)
        return StreamingHttpResponse(file)

    def text(request: Any) -> Any:
        return StreamingHttpResponse(io.StringIO(TEXT))

    storage = FileSystemStorage(cases.FILES)
    views = {
        "file_response": lambda request: FileResponse(opened()),
        "storage": lambda request: FileResponse(storage.open("data")),
        "field_file": lambda request: FileResponse(
            FieldFile(None, FileField(storage=storage), "data")
        ),
        "image_field_file": lambda request: FileResponse(
            ImageFieldFile(None, ImageField(storage=storage), "data")
        ),
        "content_file": lambda request: FileResponse(ContentFile(cases.DATA)),
        "streaming": streaming,
        "streaming_file": streaming_file,
        "streaming_wrapper": lambda request: StreamingHttpResponse(FileWrapper(opened())),
        "streaming_temporary": temporary,
        "streaming_text": text,
        "http_response": http_response,
        "downloadview": StorageDownloadView.as_view(storage=storage, path="data"),
        "downloadview_file": lambda request: DownloadResponse(File(opened(), "data")),
        "ranged_fileresponse": lambda request: RangedFileResponse(request, opened()),
        "gzip": gzip_page(lambda request: FileResponse(opened())),
    }
    urls = [url(name, view) for name, view in views.items()]
    urls.append(url("static/<path:path>", serve, {"document_root": cases.FILES}))
    settings.configure(
        ROOT_URLCONF=tuple(urls),
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["django.middleware.http.ConditionalGetMiddleware"],
    )
    request_finished.connect(finished, weak=False)
    return get_wsgi_application()


def flask() -> Any:
    import flask
    import werkzeug.wsgi

    app = flask.Flask("app", static_folder=cases.FILES, static_url_path="/static")

    def conditional() -> Any:
        response = flask.Response(opened())
        response.set_etag("conditional")
        return response.make_conditional(
            flask.request, accept_ranges=True, complete_length=len(cases.DATA)
        )

    def closing() -> Any:
        def finished() -> None:
            cases.events.append(["finished"])
            cases.events.append(["thread", getattr(local, "closing", False)])

        response = flask.Response(opened(flask.request.args.get("file", "data")))
        response.call_on_close(finished)
        local.closing = True
        return response

    views: dict[str, Callable[[], Any]] = {
        "send_file": lambda: flask.send_file(path("data")),
        "passthrough": lambda: flask.Response(opened(), direct_passthrough=True),
        "file_wrapper": lambda: flask.Response(
            werkzeug.wsgi.FileWrapper(opened()), direct_passthrough=True
        ),
        "response": lambda: flask.Response(opened()),
        "view": opened,
        "conditional": conditional,
        "closing": closing,
        "text": lambda: flask.Response(io.StringIO(TEXT)),
    }
    for name, view in views.items():
        app.add_url_rule(f"/{name}", name, view)
    return app


def webob() -> Any:
    from webob import Response
    from webob.dec import wsgify
    from webob.static import FileApp

    apps = {
        "/file_app": FileApp(path("data")),
        "/app_iter": lambda *args: Response(app_iter=opened())(*args),
        "/conditional": lambda *args: Response(
            app_iter=opened(),
            etag="conditional",
            content_length=len(cases.DATA),
            conditional_response=True,
        )(*args),
    }
    return wsgify(lambda request: apps[request.path_info])


def pyramid() -> Any:
    from pyramid.config import Configurator
    from pyramid.response import FileResponse, Response

    views: dict[str, Callable[[Any], Any]] = {
        "file_response": lambda request: FileResponse(path("data"), request),
        "no_request": lambda request: FileResponse(path("data")),
        "app_iter": lambda request: Response(app_iter=opened()),
    }
    with Configurator() as config:
        for name, view in views.items():
            config.add_route(name, name)
            config.add_view(view, route_name=name)
        config.add_static_view("static", cases.FILES)
    return config.make_wsgi_app()


def bottle() -> Any:
    import bottle

    app = bottle.Bottle()
    app.route("/static_file")(lambda: bottle.static_file("data", cases.FILES))
    app.route("/open")(opened)
    return app


def falcon() -> Any:
    import falcon

    class Stream:
        def on_get(self, request: Any, response: Any) -> None:
            response.stream = opened()

        on_head = on_get

    app = falcon.App()
    app.add_route("/stream", Stream())
    app.add_static_route("/static", cases.FILES)
    return app


def cherrypy() -> Any:
    import cherrypy
    from cherrypy.lib.static import serve_file

    class Root:
        @cherrypy.expose
        def serve_file(self) -> Any:
            return serve_file(path("data"), "application/octet-stream")

        @cherrypy.expose
        @cherrypy.config(**{"response.stream": True})
        def open(self) -> Any:
            # For text/html, CherryPy checks for each block whether it has to encode it.
            cherrypy.response.headers["Content-Type"] = "application/octet-stream"
            return opened()

    static = {"tools.staticdir.on": True, "tools.staticdir.dir": cases.FILES}
    cherrypy.config.update({"environment": "embedded"})
    return cherrypy.Application(Root(), "/cherrypy", {"/static": static})


def web_py() -> Any:
    import web

    class Open:
        def GET(self) -> Any:  # noqa: N802
            return opened()

    app = web.application(("/open", Open), {})
    hooked = web.application(("/open", Open), {})
    hooked.add_processor(web.unloadhook(lambda: cases.events.append(["finished"])))
    apps = {"/open": app.wsgifunc(), "/hooked": wsgi_named("/open", hooked.wsgifunc())}
    return lambda environ, start_response: apps[environ["PATH_INFO"]](environ, start_response)


def wsgi_named(name: str, app: Any) -> Any:
    return lambda environ, start_response: app({**environ, "PATH_INFO": name}, start_response)


def paste() -> Any:
    from paste.fileapp import DirectoryApp

    return DirectoryApp(cases.FILES)


def paste_file() -> Any:
    from paste.fileapp import FileApp

    return FileApp(path("data"))


def not_found(environ: Any, start_response: Any) -> Any:
    start_response("404 Not Found", [("Content-Length", "0")])
    return []


def whitenoise() -> Any:
    from whitenoise import WhiteNoise

    return WhiteNoise(not_found, os.path.join(cases.FILES, "only"))


def servestatic() -> Any:
    from servestatic import ServeStatic

    return ServeStatic(not_found, os.path.join(cases.FILES, "only"))
