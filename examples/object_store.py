"""A film in an object store, in two ways. The application decides who gets it.

In this directory, with a film of your own:

    python object_store.py flask film.mp4
    python object_store.py django film.mp4

then open http://127.0.0.1:8080/. Without a film, ffmpeg makes one. Needs ``wsgifile[serve]``,
boto3, s3fs, moto[server], and Flask or Django. moto is a store for tests, which speaks the
protocol of S3 and keeps everything in memory.

The page has the film twice. The view of /film returns the object as any file; wsgifile redirects
the browser to a presigned URL. The view of /sent returns it as s3fs opens it; it has no URL, so
wsgifile sends it, and asks the store for what the browser wants. /source is a file on disk.
"""

from __future__ import annotations

import argparse
import logging
import mimetypes
import subprocess
import sys
import tempfile

import boto3
import s3fs
import waitress
from botocore.config import Config
from moto.server import ThreadedMotoServer

from wsgifile import FileWrapperMiddleware, Redirect

BUCKET = "films"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>A film in an object store</title>
<p>From the store:
<p><video src="/film" controls muted style="max-width: 100%"></video>
<p>Through the application:
<p><video src="/sent" controls muted style="max-width: 100%"></video>
<p>The program is <a href="/source">here</a>.
</html>
"""


class Films:
    """The films in a store."""

    def __init__(self, endpoint):
        self.s3 = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="example",
            aws_secret_access_key="example",  # noqa: S106  # moto takes any.
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self.s3.create_bucket(Bucket=BUCKET)
        self.files = s3fs.S3FileSystem(
            key="example",
            secret="example",  # noqa: S106  # As above.
            endpoint_url=endpoint,
        )

    def add(self, key, path):
        content_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        self.s3.upload_file(path, BUCKET, key, ExtraArgs={"ContentType": content_type})

    def open(self, key):
        """The object, as a file-like object that the store can send."""
        answer = self.s3.get_object(Bucket=BUCKET, Key=key)
        file = answer["Body"]
        file.in_store, file.content_type = key, answer["ContentType"]
        return file

    def open_to_send(self, key):
        """The object, as a file-like object that can seek."""
        return self.files.open(f"{BUCKET}/{key}")

    def url_for(self, file):
        """A URL that is good for ten minutes; None: this file is sent from here."""
        key = getattr(file, "in_store", None)
        if key is None:
            return None
        asked = {"Bucket": BUCKET, "Key": key}
        return self.s3.generate_presigned_url("get_object", Params=asked, ExpiresIn=600)


def flask_app(films):
    from flask import Flask, send_file

    app = Flask(__name__)

    @app.get("/")
    def page():
        return PAGE

    @app.get("/film")
    def film():
        file = films.open("film")  # After a check of who asks for it.
        return send_file(file, mimetype=file.content_type)

    @app.get("/sent")
    def sent():
        return send_file(films.open_to_send("film"), mimetype="video/mp4")

    @app.get("/source")
    def source():
        return send_file(__file__, mimetype="text/plain")

    return app


def django_app(films):
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpResponse, StreamingHttpResponse
    from django.urls import path

    def page(request):
        return HttpResponse(PAGE)

    def film(request):
        file = films.open("film")  # After a check of who asks for it.
        return FileResponse(file, content_type=file.content_type)

    def sent(request):
        return StreamingHttpResponse(films.open_to_send("film"), content_type="video/mp4")

    def source(request):
        return FileResponse(open(__file__, "rb"), content_type="text/plain")

    class Urls:
        urlpatterns = [  # noqa: RUF012
            path("", page),
            path("film", film),
            path("sent", sent),
            path("source", source),
        ]

    settings.configure(ROOT_URLCONF=Urls, ALLOWED_HOSTS=["127.0.0.1", "localhost"])
    return get_wsgi_application()


def make_film(path):
    source = ["-f", "lavfi", "-i", "testsrc2=duration=60"]
    made = ["ffmpeg", "-loglevel", "error", *source, "-pix_fmt", "yuv420p", path]
    subprocess.run(made, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("framework", choices=("flask", "django"))
    parser.add_argument("film", nargs="?")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    store.start()
    try:
        films = Films("http://{}:{}".format(*store.get_host_and_port()))
        with tempfile.TemporaryDirectory() as directory:
            film = args.film or f"{directory}/film.mp4"
            if args.film is None:
                make_film(film)
            films.add("film", film)
        app = flask_app(films) if args.framework == "flask" else django_app(films)
        app = FileWrapperMiddleware(app, offload=Redirect(films.url_for))
        waitress.serve(app, host="127.0.0.1", port=args.port)
    finally:
        store.stop()


if __name__ == "__main__":
    sys.exit(main())
