"""What is expected of each server, and what cannot be mended in front of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cases import DATA

from wsgifile.blocks import DEFAULT_BLOCK_SIZE

SIZE = len(DATA)
#: The header's bytes are in the number as well, on servers that count so.
MORE = "1500[12][0-9][0-9]"


@dataclass(frozen=True)
class Known:
    #: What has to be importable, else the server is skipped and listed.
    module: str
    #: What is recorded of the sender of a slice of a file on disk.
    fast: frozenset[Any] = frozenset({"read"})
    #: What its access log shows for /ours/plain, as a regular expression; None
    #: if it logs nothing.
    log: str | None = None
    #: An application that raises before the first byte gets no 500 here, but a
    #: connection that ends, for reasons of the server's own.
    ends_instead_of_500: bool = False
    #: It reads a body as fast as it can, whatever the client takes, so that a
    #: file is done with before it can be truncated.
    buffers: bool = False
    #: It sends nothing before it has the whole body, so that an error can be a 500.
    joins: bool = False
    #: What ends a broken body takes with it some of what the client had to get.
    resets: bool = False
    #: It serves nobody else before a client has its response.
    one_at_a_time: bool = False
    #: Whether more than 4 GiB are really sent, not only announced: once a sender.
    huge: bool = False
    #: Up to this number of bytes of a file are read before the header.
    at_once: int = 65536
    #: Its wrapper reaches no further into a file.
    within_2_gib: bool = False
    #: It calls close(), as PEP 3333 wants it.
    closes: bool = True
    #: Seconds for a client to wait for bytes.
    patience: float = 20
    #: Like faults, but not always.
    sometimes: dict[str, str] = field(default_factory=dict)
    #: Test ids (function, or function-parameter) that fail, and why it is the
    #: server's doing. They are expected to fail: xfail_strict is on.
    faults: dict[str, str] = field(default_factory=dict)


SENDFILE = frozenset({"sendfile"})
GUNICORN_LOG = f'"GET /ours/plain HTTP/1.1" 200 {SIZE} '
UWSGI = Known(
    "pyuwsgi",
    frozenset({("wrapper", "uwsgi")}),
    f"GET /ours/plain => generated {SIZE} bytes ",
    within_2_gib=True,
    ends_instead_of_500=True,
)
RAISES = "an application that raises leaves the client waiting"
KEPT_OPEN = "it keeps the connection open though the header tells no length"
HIDDEN = "an error leaves the connection open, and we do not see the server behind the filter"
COMPLETE = "after an error it ends a body without a length as if it were complete"
MOD_WSGI = Known(
    "mod_wsgi", log=f'"GET /ours/plain HTTP/1.1" 200 {SIZE}\n', at_once=DEFAULT_BLOCK_SIZE
)
# Its wsgi_transfer_response() takes the end of the daemon's connection for the end of the body.
MOD_WSGI_DAEMON = replace(
    MOD_WSGI, faults={"test_next_request_at_once-unsized_read_raises_later": COMPLETE}
)
# Werkzeug counts no bytes.
WERKZEUG = Known("werkzeug", SENDFILE, 'GET /ours/plain HTTP/1.1" 200 -\n')

SERVERS = {
    "waitress": Known(
        "waitress", frozenset({("wrapper", "wsgifile.servers.waitress"), "sendfile"}), huge=True
    ),
    "gunicorn": Known("gunicorn", SENDFILE, GUNICORN_LOG, one_at_a_time=True, huge=True),
    "gunicorn_gthread": Known("gunicorn", SENDFILE, GUNICORN_LOG),
    "gunicorn_gevent": Known("gevent", SENDFILE, GUNICORN_LOG),
    "uwsgi": replace(UWSGI, huge=True),
    "uwsgi_http11": replace(
        UWSGI,
        # It ends a connection after 4 seconds, which is not to pass for the body's end.
        patience=3,
        faults={
            **dict.fromkeys(
                ["test_bytes-generator", "test_bytes-list_"],
                KEPT_OPEN,
            ),
            "test_text_mode": RAISES,
            "test_directory": RAISES,
        },
    ),
    "uwsgi_router": replace(
        UWSGI,
        resets=True,
        faults={"test_text_mode": RAISES, "test_directory": RAISES},
    ),
    "cheroot": Known("cheroot", SENDFILE, ends_instead_of_500=True),
    "gevent": Known("gevent", SENDFILE, f'"GET /ours/plain HTTP/1.1" 200 {MORE} '),
    "eventlet": Known("eventlet", SENDFILE, f'"GET /ours/plain HTTP/1.1" 200 {MORE} ', huge=True),
    "wsgiref": Known(
        "wsgiref",
        SENDFILE,
        f'"GET /ours/plain HTTP/1.1" 200 {SIZE}\n',
        one_at_a_time=True,
        huge=True,
    ),
    "runserver": Known(
        "django",
        SENDFILE,
        faults={
            "test_next_request_at_once-hidden-length_larger": HIDDEN,
            "test_next_request_at_once-hidden-small_length_larger": HIDDEN,
            "test_next_request_at_once-hidden-medium_length_larger": HIDDEN,
            "test_next_request_at_once-hidden-read_raises_later": HIDDEN,
            "test_next_request_before_truncation-hidden": HIDDEN,
            "test_length_larger-hidden": HIDDEN,
            "test_truncated_while_sent-hidden": HIDDEN,
        },
    ),
    "werkzeug": replace(WERKZEUG, one_at_a_time=True),
    "werkzeug_threaded": WERKZEUG,
    "werkzeug_http11": WERKZEUG,
    "granian": Known(
        "granian",
        ends_instead_of_500=True,
        resets=True,
        faults={"test_next_request_at_once-unsized_read_raises_later": COMPLETE},
    ),
    "bjoern": Known("bjoern", faults={"test_head-gzip_file": "it ends a HEAD by a last chunk"}),
    "mod_wsgi": MOD_WSGI_DAEMON,
    "mod_wsgi_sendfile": MOD_WSGI_DAEMON,
    "mod_wsgi_embedded": MOD_WSGI,
    "mod_wsgi_embedded_sendfile": MOD_WSGI,
    "paste": Known("paste.httpserver", SENDFILE),
    "paste_http11": Known(
        "paste.httpserver",
        SENDFILE,
        faults={"test_directory": "an OSError of the application leaves the client waiting"},
    ),
    "twisted": Known(
        "twisted",
        buffers=True,
        sometimes={"test_server_is_shut_down": "it waits for a thread that waits for it"},
    ),
    "tornado": Known(
        "tornado",
        buffers=True,
        joins=True,
        faults={
            "test_next_request_at_once-hidden": RAISES,
            "test_length_larger-hidden": RAISES,
            "test_text_mode": RAISES,
            "test_directory": RAISES,
            "test_close_raises": RAISES,
        },
    ),
    "hypercorn": Known("hypercorn"),
    "a2wsgi": Known("a2wsgi", log='"GET /ours/plain HTTP/1.1" 200 OK', ends_instead_of_500=True),
    "pyruvate": Known(
        "pyruvate",
        faults={
            "test_next_request_at_once": "its 500 for an error in the body goes into the body",
            "test_length_larger": "its 500 for an error in the body goes into the body",
            "test_small_and_short": "its 500 for an error in the body goes into the body",
            "test_read_raises_later": "its 500 for an error in the body goes into the body",
            "test_read_ahead_raises": "its 500 for an error in the body goes into the body",
            "test_on_sent_of_a_short_file": "its 500 for an error in the body goes into the body",
            "test_composition-validator": "it never calls close()",
        },
        sometimes={
            "test_next_request_before_truncation": (
                "its 500 for an error in the body goes into the body"
            ),
            "test_client_leaves": "what a client left is dropped some time later",
            "test_client_stops_reading": "what a client left is dropped some time later",
            "test_client_leaves_a_slow_source": "what a client left is dropped some time later",
        },
        closes=False,
    ),
    "fastwsgi": Known(
        "fastwsgi",
        faults={
            "test_length_larger-hidden": "it crashes when an iterator raises",
            "test_close_raises": "it crashes when close() raises",
            "test_trickle": "it collects what is small",
        },
        # Seldom it does not.
        sometimes={
            "test_next_request_at_once-hidden": "it crashes when an iterator raises",
            "test_next_request_before_truncation-hidden": "it crashes when an iterator raises",
            "test_truncated_while_sent-hidden": "it crashes when an iterator raises",
        },
    ),
}
