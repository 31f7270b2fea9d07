"""What a middleware adds to a response that is no file, in-process, in microseconds.

FileWrapperMiddleware beside WhiteNoise, for a path that it does not know, and
werkzeug's ProxyFix, for a request without and with X-Forwarded headers. They take
turns in small batches. The figure is the difference to the bare application in the
same repeat.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from flask import Flask
from report import Parser, Target, begin, finish, median, progress, ratios, run, spread, table
from werkzeug.middleware.proxy_fix import ProxyFix
from whitenoise import WhiteNoise

from wsgifile import FileWrapperMiddleware

App = Callable[[dict[str, Any], Any], Iterable[bytes]]
FORWARDED = {"HTTP_X_FORWARDED_FOR": "192.0.2.1", "HTTP_X_FORWARDED_PROTO": "https"}
TEXT = b"Hello, world!\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(TEXT)))]


def list_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", HEADERS.copy())
    return [TEXT]


def generator_app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", HEADERS.copy())
    yield TEXT


def flask_app() -> App:
    app = Flask("benchmark")
    app.add_url_rule("/page", view_func=lambda: TEXT)
    return app.wsgi_app


urlpatterns = [path("page", lambda request: HttpResponse(TEXT))]


def django_app() -> App:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
    django.setup()
    return get_wsgi_application()


def write(data: bytes) -> None:
    pass


def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
    return write


def answer(app: App, environ: dict[str, Any], count: int) -> float:
    """Microseconds of processor time of one request, as a server would make it."""
    begun = time.thread_time()
    for _ in range(count):
        app_iter = app(environ.copy(), start_response)
        for _block in app_iter:
            pass
        close = getattr(app_iter, "close", None)
        if close is not None:
            close()
    return (time.thread_time() - begun) / count * 1e6


def measure(app: App, root: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """What each middleware adds to this application, and what it takes itself."""
    plain: dict[str, Any] = {"PATH_INFO": "/page"}
    setup_testing_defaults(plain)
    forwarded = {**plain, **FORWARDED}
    contenders = {
        "wsgifile": (FileWrapperMiddleware(app), plain),
        "WhiteNoise": (WhiteNoise(app, root=root), plain),
        "ProxyFix": (ProxyFix(app), plain),
        "ProxyFix, forwarded": (ProxyFix(app), forwarded),
    }
    values: dict[str, list[float]] = {"alone": []}
    for repeat in range(args.repeats + 1):
        alone = answer(app, plain, args.count)
        # To copy the environ takes longer with the headers: no fault of the middleware.
        with_headers = answer(app, forwarded, args.count)
        added = {
            name: answer(contender, environ, args.count)
            - (with_headers if environ is forwarded else alone)
            for name, (contender, environ) in contenders.items()
        }
        if repeat:  # The first one warms up.
            values["alone"].append(alone)
            for name, value in added.items():
                values.setdefault(name, []).append(value)
    return values


def main() -> None:
    parser = Parser(__doc__, repeats=101)
    parser.add_argument(
        "--count", type=int, default=500, metavar="N", help="requests of a batch (500)"
    )
    args = parser.parse(repeats=5)
    results = begin(args, ["Django", "Flask", "Werkzeug", "whitenoise"])
    apps = {
        "list": list_app,
        "generator": generator_app,
        "Flask response": flask_app(),
        "Django HttpResponse": django_app(),
    }
    values = results["microseconds"] = {}
    targets = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as root:
        for number in range(10):
            with open(os.path.join(root, f"{number}.css"), "w") as file:
                file.write("p {}")
        gc.disable()  # As timeit does.
        for name, app in apps.items():
            progress(name)
            values[name] = got = measure(app, root, args)
            ours = got["wsgifile"]
            for other, most in (("WhiteNoise", 2.0), ("ProxyFix", 1.0)):
                # Of the medians: a difference of two noisy values may be about 0.
                both = ratios([median(ours)], [median(got[other])])
                targets.append(Target("5", f"{name}: wsgifile / {other}", both, at_most=most))
            gc.collect()
    print(f"\nMicroseconds added to a request; medians of {args.repeats} (least..most)\n")
    rows = [[name, *map(spread, got.values())] for name, got in values.items()]
    print(table(("response", *values["list"]), rows))
    finish(args, results, targets)


if __name__ == "__main__":
    run(main)
