"""Counters of what was sent, in the format of Prometheus.

In this directory:

    gunicorn --bind 127.0.0.1:8080 --threads 4 prometheus:application

then get http://127.0.0.1:8080/ some times, and look at
http://127.0.0.1:8080/metrics. Needs prometheus_client and gunicorn.
"""

from prometheus_client import Counter, Histogram, make_wsgi_app

from wsgifile import FileWrapperMiddleware

RESPONSES = Counter("wsgifile_responses", "Responses that were files", ["sender", "status"])
BYTES = Counter("wsgifile_sent_bytes", "Bytes of files, as far as the server tells")
ERRORS = Counter("wsgifile_errors", "Files that could not be sent to their end", ["type"])
SECONDS = Histogram("wsgifile_seconds", "From the header of a file to its end")


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
