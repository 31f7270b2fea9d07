"""A file of 4 KiB, in-process, in microseconds of a request.

By hand: open, fstat, read, close, and a list of one block. Beside it, the middleware around
``return open(path, "rb")``, without and with what an application may add, and WhiteNoise, which
knows the file's header since it started. They take turns in small batches. A ratio is to by
hand in the same repeat.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterable
from typing import Any, BinaryIO
from wsgiref.util import setup_testing_defaults

from overhead import answer
from report import Parser, Target, begin, finish, median, number, ratios, run, spread, table
from whitenoise import WhiteNoise

from wsgifile import FileWrapperMiddleware

SIZE = 4096
TYPE = ("Content-Type", "application/octet-stream")
Environ = dict[str, Any]


class Apps:
    """The applications, for the file at this path."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self) -> BinaryIO:
        return open(self.path, "rb")

    def by_hand(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        with open(self.path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            start_response("200 OK", [TYPE, ("Content-Length", str(length))])
            return [file.read()]

    def bare(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [TYPE])
        return self.open()

    def sized(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        file = self.open()
        length = os.fstat(file.fileno()).st_size
        start_response("200 OK", [TYPE, ("Content-Length", str(length))])
        return file

    def wrapped(self, environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", [TYPE])
        return environ["wsgi.file_wrapper"](self.open())


def main() -> None:
    parser = Parser(__doc__, repeats=101)
    parser.add_argument(
        "--count", type=int, default=200, metavar="N", help="requests of a batch (200)"
    )
    args = parser.parse(repeats=7)
    results = begin(args, ["whitenoise"])
    environ: Environ = {"PATH_INFO": "/page"}
    setup_testing_defaults(environ)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as root:
        apps = Apps(os.path.join(root, "page"))
        with open(apps.path, "wb") as file:
            file.write(os.urandom(SIZE))
        contenders = {
            "by hand": apps.by_hand,
            "wsgifile": FileWrapperMiddleware(apps.bare),
            "no ranges, no ETag": FileWrapperMiddleware(apps.bare, ranges=False, validators=False),
            "with Content-Length": FileWrapperMiddleware(apps.sized),
            "by wsgi.file_wrapper": FileWrapperMiddleware(apps.wrapped),
            "WhiteNoise": WhiteNoise(apps.bare, root=root),
        }
        values: dict[str, list[float]] = {name: [] for name in contenders}
        gc.disable()  # As timeit does.
        for repeat in range(args.repeats + 1):
            # Forwards and backwards, so that it does not matter which one comes before.
            for name, app in list(contenders.items())[:: 1 if repeat % 2 else -1]:
                took = answer(app, environ, args.count)
                if repeat:  # The first one warms up.
                    values[name].append(took)
    results["microseconds"] = values
    hand = values["by hand"]
    rows = [[name, spread(got), number(median(ratios(got, hand)))] for name, got in values.items()]
    print(f"\nMicroseconds of a request; medians of {args.repeats} (least..most)\n")
    print(table(("", "microseconds", "of by hand"), rows))
    shown = ratios(values["wsgifile"], hand)
    finish(args, results, [Target("3", "4 KiB: wsgifile / by hand", shown, at_most=1.7)])


if __name__ == "__main__":
    run(main)
