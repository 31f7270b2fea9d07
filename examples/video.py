"""A page with a film. The browser can seek in it, because it asks for ranges of the file.

In this directory, with a film of your own or one made by
``ffmpeg -f lavfi -i testsrc2=duration=60 film.mp4``:

    FILM=film.mp4 gunicorn --bind 127.0.0.1:8080 --threads 4 video:application

then open http://127.0.0.1:8080/. Needs gunicorn. Any other server works too:

    FILM=film.mp4 wsgifile video:app --port 8080
"""

import mimetypes
import os

from wsgifile import FileWrapperMiddleware

FILM = os.environ["FILM"]
PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>A film</title>
<video src="film" controls muted style="max-width: 100%"></video>
</html>
"""


def app(environ, start_response):
    if environ["PATH_INFO"] == "/":
        headers = [("Content-Type", "text/html"), ("Content-Length", str(len(PAGE)))]
        start_response("200 OK", headers)
        return [PAGE]
    if environ["PATH_INFO"] != "/film":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is only / and /film\n"]
    content_type = mimetypes.guess_type(FILM)[0] or "application/octet-stream"
    start_response("200 OK", [("Content-Type", content_type)])
    return open(FILM, "rb")


application = FileWrapperMiddleware(app)
