"""What is expected of each server, and what cannot be mended in front of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cases import DATA

SIZE = len(DATA)
#: The header's bytes are in the number as well, on servers that count so.
MORE = "1500[12][0-9][0-9]"


@dataclass(frozen=True)
class Known:
    #: What has to be importable, else the server is skipped and listed.
    module: str
    #: What is recorded of the sender of a slice of a file on disk.
    fast: frozenset[object] = frozenset({"read"})
    #: What its access log shows for /ours/plain, as a regular expression; None
    #: if it logs nothing.
    log: str | None = None
    #: An application that raises before the first byte gets no 500 here, but a
    #: connection that ends, for reasons of the server's own.
    ends_instead_of_500: bool = False
    #: Test ids (function, or function-parameter) that fail, and why it is the
    #: server's doing. They are expected to fail: xfail_strict is on.
    faults: dict[str, str] = field(default_factory=dict)


SENDFILE = frozenset({"sendfile"})
# gunicorn's wrapper is one of os.sendfile.
GUNICORN = frozenset({("wrapper", "wsgifile.servers.gunicorn"), "sendfile"})
GUNICORN_LOG = f'"GET /ours/plain HTTP/1.1" 200 {SIZE} '
HEAD_CHUNK = "without a length it ends even a HEAD by a last chunk, and closes"

SERVERS = {
    "waitress": Known(
        "waitress",
        frozenset({("wrapper", "wsgifile.servers.waitress")}),
        faults={"test_head-gzip_file": HEAD_CHUNK},
    ),
    "gunicorn": Known("gunicorn", GUNICORN, GUNICORN_LOG),
    "gunicorn_gthread": Known("gunicorn", GUNICORN, GUNICORN_LOG),
    "gunicorn_gevent": Known("gevent", log=GUNICORN_LOG),
    "wsgiref": Known("wsgiref", SENDFILE, f'"GET /ours/plain HTTP/1.1" 200 {SIZE}\n'),
    # Werkzeug counts no bytes.
    "werkzeug": Known("werkzeug", SENDFILE, 'GET /ours/plain HTTP/1.1" 200 -\n'),
    "werkzeug_http11": Known("werkzeug", SENDFILE, 'GET /ours/plain HTTP/1.1" 200 -\n'),
    "cheroot": Known("cheroot", ends_instead_of_500=True),
    "gevent": Known(
        "gevent",
        log=f'"GET /ours/plain HTTP/1.1" 200 {MORE} ',
        faults={"test_head-gzip_file": HEAD_CHUNK},
    ),
    "eventlet": Known("eventlet", log=f'"GET /ours/plain HTTP/1.1" 200 {MORE} '),
    "granian": Known("granian", ends_instead_of_500=True),
    "a2wsgi": Known("a2wsgi", log='"GET /ours/plain HTTP/1.1" 200 OK', ends_instead_of_500=True),
}
