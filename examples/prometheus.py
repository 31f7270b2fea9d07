"""Counters of what was sent, in Prometheus format.

In this directory:

    gunicorn --bind 127.0.0.1:8080 --threads 4 prometheus:application

then open http://127.0.0.1:8080/ a few times, and look at
http://127.0.0.1:8080/metrics. Needs prometheus_client and gunicorn.
"""

from prometheus_client import Counter, Histogram, make_wsgi_app

from wsgifile import FileWrapperMiddleware

RESPONSES = Counter("wsgifile_responses", "Responses that were files", ["sender", "status"])
BYTES = Counter("wsgifile_sent_bytes", "Bytes of files, where the server tells")
ERRORS = Counter("wsgifile_errors", "Files that were not sent completely", ["type"])
SECONDS = Histogram("wsgifile_seconds", "Time from the header of a file to its end")


def count(transfer):
    RESPONSES.labels(transfer.sender, transfer.status[:3]).inc()
    SECONDS.observe(transfer.seconds)
    if transfer.sent is not None:
        BYTES.inc(transfer.sent)
    if transfer.error is not None:
        ERRORS.labels(type(transfer.error).__name__).inc()


metrics = make_wsgi_app()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return open(__file__, "rb")


application = FileWrapperMiddleware(app, on_sent=count)
