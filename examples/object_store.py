"""Films in an object store, which the store itself sends. The application decides who gets them.

In this directory, with a film of your own or one made by
``ffmpeg -f lavfi -i testsrc2=duration=60 film.mp4``:

    python object_store.py flask film.mp4
    python object_store.py django film.mp4

then open http://127.0.0.1:8080/. Needs ``wsgifile[serve]``, boto3, moto[server], and Flask or
Django. moto is a store for tests, which speaks the protocol of S3 and keeps everything in memory.
The page has the film at /film. That view returns the object as any file; wsgifile redirects the
browser to a presigned URL. /source is a file on disk, which has no URL, so it is sent from here.
"""

from __future__ import annotations

import argparse
import logging
import mimetypes
import sys

import boto3
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
<video src="/film" controls muted style="max-width: 100%"></video>
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

    def add(self, key, path):
        content_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
        self.s3.upload_file(path, BUCKET, key, ExtraArgs={"ContentType": content_type})

    def open(self, key):
        """The object, as a file-like object that has its key."""
        answer = self.s3.get_object(Bucket=BUCKET, Key=key)
        file = answer["Body"]
        file.key, file.content_type = key, answer["ContentType"]
        return file

    def url_for(self, file):
        """A URL that is good for ten minutes; None: this file is not from the store."""
        key = getattr(file, "key", None)
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

    @app.get("/source")
    def source():
        return send_file(__file__, mimetype="text/plain")

    return app


def django_app(films):
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpResponse
    from django.urls import path

    def page(request):
        return HttpResponse(PAGE)

    def film(request):
        file = films.open("film")  # After a check of who asks for it.
        return FileResponse(file, content_type=file.content_type)

    def source(request):
        return FileResponse(open(__file__, "rb"), content_type="text/plain")

    class Urls:
        urlpatterns = [path("", page), path("film", film), path("source", source)]  # noqa: RUF012

    settings.configure(ROOT_URLCONF=Urls, ALLOWED_HOSTS=["127.0.0.1", "localhost"])
    return get_wsgi_application()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("framework", choices=("flask", "django"))
    parser.add_argument("film")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("wsgifile").setLevel(logging.DEBUG)  # One line per file.
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    store.start()
    try:
        films = Films("http://{}:{}".format(*store.get_host_and_port()))
        films.add("film", args.film)
        app = flask_app(films) if args.framework == "flask" else django_app(films)
        app = FileWrapperMiddleware(app, offload=Redirect(films.url_for))
        waitress.serve(app, host="127.0.0.1", port=args.port)
    finally:
        store.stop()


if __name__ == "__main__":
    sys.exit(main())
