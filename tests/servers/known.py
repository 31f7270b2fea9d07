"""What the tests expect of each server, and which of its faults wsgifile cannot mend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from cases import DATA

from wsgifile.blocks import DEFAULT_BLOCK_SIZE

SIZE = len(DATA)
#: On some servers, the number includes the bytes of the header.
MORE = "1500[12][0-9][0-9]"


@dataclass(frozen=True)
class Known:
    #: What is recorded of the sender of a slice of a file on disk.
    fast: frozenset[Any] = frozenset({"read"})
    #: A regular expression for the line of /ours/plain in its access log. None: it has no such
    #: log.
    log: str | None = None
    #: Whether the server ends the connection, instead of sending a 500, if the application
    #: raises before the first byte.
    ends_instead_of_500: bool = False
    #: The stacks in which it reads the whole body at once, even for a slow client. Then a file
    #: has been read before a test can truncate it.
    buffers: frozenset[str] = frozenset()
    #: Whether it sends nothing before it has the whole body, so that an error can be a 500.
    joins: bool = False
    #: Whether bytes are lost that were sent before an error ended the connection.
    resets: bool = False
    #: Whether it serves nobody else until a client has its response.
    one_at_a_time: bool = False
    #: Whether a test really sends more than 4 GiB. One server for each sender is enough.
    huge: bool = False
    #: Up to this number of bytes of a file are read before the header.
    at_once: int = 65536
    #: Whether its wrapper can only send the first 2 GiB of a file.
    within_2_gib: bool = False
    #: Whether it calls close(), as PEP 3333 requires.
    closes: bool = True
    #: Seconds that a client waits for bytes.
    patience: float = 20
    #: Like faults, for those that do not always show.
    sometimes: dict[str, str] = field(default_factory=dict)
    #: Test ids (function, or function-parameter) that fail, and how the server causes that. With
    #: this release of the server they must fail. Another one may have mended them.
    faults: dict[str, str] = field(default_factory=dict)
    release: str = ""


SENDFILE = frozenset({"sendfile"})
GUNICORN_LOG = f'"GET /ours/plain HTTP/1.1" 200 {SIZE} '
UWSGI = Known(
    frozenset({("wrapper", "uwsgi")}),
    f"GET /ours/plain => generated {SIZE} bytes ",
    within_2_gib=True,
    ends_instead_of_500=True,
    release="2.0.30.post1",
)
RAISES = "an application that raises leaves the client waiting"
KEPT_OPEN = "it keeps the connection open though the header tells no length"
COMPLETE = "after an error it ends a body without a length as if it were complete"
MOD_WSGI = Known(
    log=f'"GET /ours/plain HTTP/1.1" 200 {SIZE}\n', at_once=DEFAULT_BLOCK_SIZE, release="6.1.1"
)
# Its wsgi_transfer_response() takes the end of the daemon's connection for the end of the body.
MOD_WSGI_DAEMON = replace(
    MOD_WSGI, faults={"test_next_request_at_once-unsized_read_raises_later": COMPLETE}
)
# Werkzeug counts no bytes.
WERKZEUG = Known(SENDFILE, 'GET /ours/plain HTTP/1.1" 200 -\n')

SERVERS = {
    "waitress": Known(
        frozenset({("wrapper", "wsgifile.servers.waitress"), "sendfile"}), huge=True
    ),
    "gunicorn": Known(SENDFILE, GUNICORN_LOG, one_at_a_time=True, huge=True),
    "gunicorn_gthread": Known(SENDFILE, GUNICORN_LOG),
    "gunicorn_gevent": Known(SENDFILE, GUNICORN_LOG),
    "uwsgi": replace(UWSGI, huge=True),
    "uwsgi_http11": replace(
        UWSGI,
        # It ends a connection after 4 seconds. That must not be taken for the end of the body.
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
    "cheroot": Known(SENDFILE, ends_instead_of_500=True),
    "gevent": Known(SENDFILE, f'"GET /ours/plain HTTP/1.1" 200 {MORE} '),
    "eventlet": Known(SENDFILE, f'"GET /ours/plain HTTP/1.1" 200 {MORE} ', huge=True),
    "wsgiref": Known(
        SENDFILE,
        f'"GET /ours/plain HTTP/1.1" 200 {SIZE}\n',
        one_at_a_time=True,
        huge=True,
    ),
    "runserver": Known(SENDFILE),
    "werkzeug": replace(WERKZEUG, one_at_a_time=True),
    "werkzeug_threaded": WERKZEUG,
    "werkzeug_http11": WERKZEUG,
    "granian": Known(ends_instead_of_500=True, resets=True),
    "bjoern": Known(
        faults={"test_head-gzip_file": "it ends a HEAD by a last chunk"}, release="3.2.2"
    ),
    "mod_wsgi": MOD_WSGI_DAEMON,
    "mod_wsgi_sendfile": MOD_WSGI_DAEMON,
    "mod_wsgi_embedded": MOD_WSGI,
    "mod_wsgi_embedded_sendfile": MOD_WSGI,
    "paste": Known(SENDFILE),
    "paste_http11": Known(
        SENDFILE,
        faults={"test_directory": "an OSError of the application leaves the client waiting"},
        release="3.10.1",
    ),
    "twisted": Known(
        buffers=frozenset({"hidden"}),
    ),
    "tornado": Known(
        buffers=frozenset({"ours", "hidden"}),
        joins=True,
        faults={
            "test_next_request_at_once-hidden": RAISES,
            "test_length_larger-hidden": RAISES,
            "test_text_mode": RAISES,
            "test_directory": RAISES,
            "test_close_raises": RAISES,
        },
        release="6.6.1",
    ),
    "hypercorn": Known(),
    "a2wsgi": Known(log='"GET /ours/plain HTTP/1.1" 200 OK', ends_instead_of_500=True),
    "pyruvate": Known(
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
        release="1.6.1",
        closes=False,
    ),
    "fastwsgi": Known(
        faults={
            "test_trickle": "it collects what is small",
        },
        release="0.0.9",
        # On rare occasions it does not crash.
        sometimes={
            "test_close_raises": "it crashes when close() raises",
            "test_length_larger-hidden": "it crashes when an iterator raises",
            "test_next_request_at_once-hidden": "it crashes when an iterator raises",
            "test_next_request_before_truncation-hidden": "it crashes when an iterator raises",
            "test_truncated_while_sent-hidden": "it crashes when an iterator raises",
        },
    ),
}
