"""The application of test_agents.py, under a monitoring agent.

The environment names the agent. Each agent is the real one, with its own way to keep what it
would send to its service. ``/reported`` gives that as JSON, as lists:
``["transaction", status]`` and ``["error", type of the exception]``. ``/coverage`` saves what was
measured, because not all servers end as Python would.

Other paths are ``/FRAMEWORK/PLACE/VIEW``. The places:

- ``bare``: without wsgifile. The agent has patched the framework, or is a plugin of it.
- ``inside``: wsgifile around that.
- ``bare-around``, ``around``: the same two with the agent's own WSGI middleware around the
  framework.
- ``outside``: the agent's WSGI middleware around wsgifile.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

FILES = os.environ["WSGIFILE_TEST_FILES"]
AGENT = os.environ["WSGIFILE_TEST_AGENT"]
#: What the agent has reported, what was closed, and how wsgifile sent.
reported: list[list[Any]] = []


def sentry() -> Callable[[Any], Any]:
    import sentry_sdk
    from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
    from sentry_sdk.transport import Transport

    class Memory(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            for item in envelope.items:
                event = item.payload.json
                if item.type == "transaction":
                    data = event["contexts"]["trace"]["data"]
                    reported.append(["transaction", int(data["http.response.status_code"])])
                elif item.type == "event":
                    reported.append(["error", event["exception"]["values"][-1]["type"]])

    sentry_sdk.init("http://key@127.0.0.1:9/1", transport=Memory, traces_sample_rate=1.0)
    middleware: Callable[[Any], Any] = SentryWsgiMiddleware
    return middleware


def newrelic() -> Callable[[Any], Any]:
    os.environ["NEW_RELIC_DEVELOPER_MODE"] = "true"
    os.environ["NEW_RELIC_LICENSE_KEY"] = "0" * 40
    os.environ["NEW_RELIC_LOG"] = "stderr"
    agent = importlib.import_module("newrelic.agent")
    engine = importlib.import_module("newrelic.core.stats_engine").StatsEngine
    original = engine.record_transaction

    def record(self: Any, transaction: Any) -> Any:
        for error in transaction.errors:
            reported.append(["error", error.type.rpartition(":")[2]])
        attributes = {field.name: field.value for field in transaction.agent_attributes}
        if attributes["request.uri"] != "/reported":  # It may have patched the server, too.
            reported.append(["transaction", int(attributes["response.status"])])
        return original(self, transaction)

    engine.record_transaction = record
    agent.initialize()
    agent.register_application(timeout=20)
    wrapper: Callable[[Any], Any] = agent.WSGIApplicationWrapper
    return wrapper


def ddtrace() -> Callable[[Any], Any]:
    for name in ("INSTRUMENTATION_TELEMETRY", "REMOTE_CONFIGURATION", "CRASHTRACKING"):
        os.environ[f"DD_{name}_ENABLED"] = "false"
    os.environ["DD_TRACE_STARTUP_LOGS"] = "false"
    tracing = importlib.import_module("ddtrace.trace")

    class Memory(tracing.TraceFilter):  # type: ignore[name-defined]
        def process_trace(self, trace: Any) -> None:
            for span in trace:
                if span.get_tag("error.type"):
                    reported.append(["error", span.get_tag("error.type").rpartition(".")[2]])
            status = trace[0].get_tag("http.status_code")
            reported.append(["transaction", status and int(status)])

    tracing.tracer.configure(trace_processors=[Memory()])
    importlib.import_module("ddtrace").patch(flask=True, django=True)
    wrapper: Callable[[Any], Any] = importlib.import_module(
        "ddtrace.contrib.wsgi"
    ).DDWSGIMiddleware
    return wrapper


def opentelemetry() -> Callable[[Any], Any]:
    from opentelemetry import trace
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

    class Memory(SpanExporter):
        def export(self, spans: Any) -> Any:
            for span in spans:
                for event in span.events:
                    name = str(event.attributes["exception.type"])
                    reported.append(["error", name.rpartition(".")[2]])
                if span.parent is None:
                    attributes = span.attributes
                    reported.append(["transaction", attributes["http.status_code"]])

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Memory()))
    trace.set_tracer_provider(provider)
    FlaskInstrumentor().instrument()
    DjangoInstrumentor().instrument()
    middleware: Callable[[Any], Any] = OpenTelemetryMiddleware
    return middleware


def elastic() -> Callable[[Any], Any]:
    from elasticapm.base import get_client
    from elasticapm.contrib.flask import ElasticAPM as ForFlask
    from elasticapm.middleware import ElasticAPM
    from elasticapm.transport.base import Transport

    class Memory(Transport):
        def start_thread(self, pid: Any = None) -> None: ...

        def queue(self, event_type: str, data: dict[str, Any], flush: bool = False) -> None:
            if event_type == "transaction":
                # Such as "HTTP 2xx": not all of its transactions have more.
                reported.append(["transaction", 100 * int(data["result"][5])])
            elif event_type == "error":
                reported.append(["error", data["exception"]["type"]])

    globals()["ElasticMemory"] = Memory  # It is named by a string.

    settings: dict[str, Any] = {
        "TRANSPORT_CLASS": "agents_app.ElasticMemory",
        "CENTRAL_CONFIG": False,
        "SERVICE_NAME": "test",
        "CLOUD_PROVIDER": "none",
        "METRICS_INTERVAL": "0ms",
    }
    import django.conf

    django.conf.settings.ELASTIC_APM = settings
    django.conf.settings.INSTALLED_APPS = ["elasticapm.contrib.django"]
    django.conf.settings.MIDDLEWARE = ["elasticapm.contrib.django.middleware.TracingMiddleware"]
    plugins.append(
        lambda app: ForFlask(app, **{name.lower(): value for name, value in settings.items()})
    )
    # Django's client, which is made when Django is. There is one in a process.
    return lambda app: ElasticAPM(app, client=get_client())


#: Of Django.
urlpatterns: list[Any] = []
#: What an agent wants done to each Flask application.
plugins: list[Callable[[Any], object]] = []


class Breaks:
    """A file that cannot be read to its end."""

    def __init__(self) -> None:
        self.left = 1 << 20

    def read(self, size: int = -1) -> bytes:
        if not self.left:
            raise OSError("the disk is gone")
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def opened(view: str) -> Any:
    if view == "breaks":
        return Breaks()
    return open(os.path.join(FILES, view), "rb")


def django_app() -> Any:
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpRequest, StreamingHttpResponse
    from django.urls import path

    def file(request: HttpRequest, view: str) -> Any:
        response = FileResponse(opened(view), content_type="application/octet-stream")
        response._resource_closers.append(lambda: reported.append(["closed"]))
        return response

    def stream(request: HttpRequest, view: str) -> Any:
        response = StreamingHttpResponse(opened(view), content_type="application/octet-stream")
        response._resource_closers.append(lambda: reported.append(["closed"]))
        return response

    def page(request: HttpRequest, view: str) -> Any:
        return FileResponse(opened(view), content_type="text/html")

    urlpatterns[:] = [
        path("file/<str:view>", file),
        path("stream/<str:view>", stream),
        path("page/<str:view>", page),
    ]
    return get_wsgi_application()


def flask_app() -> Any:
    import flask

    app = flask.Flask("agents_app")
    for plugin in plugins:
        plugin(app)

    @app.route("/file/<view>")
    def file(view: str) -> Any:
        response = flask.send_file(opened(view), mimetype="application/octet-stream")
        response.call_on_close(lambda: reported.append(["closed"]))
        return response

    @app.route("/stream/<view>")
    def stream(view: str) -> Any:
        response = flask.Response(opened(view), mimetype="application/octet-stream")
        response.call_on_close(lambda: reported.append(["closed"]))
        return response

    @app.route("/page/<view>")
    def page(view: str) -> Any:
        return flask.send_file(opened(view), mimetype="text/html")

    return app


def note(transfer: Any) -> None:
    error = transfer.error and type(transfer.error).__name__
    reported.append(["sent", transfer.sender, transfer.status[:3], transfer.sent, error])


def applications() -> dict[str, Any]:
    from django.conf import settings

    settings.configure(ROOT_URLCONF="agents_app", ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
    around = {
        "sentry": sentry,
        "newrelic": newrelic,
        "ddtrace": ddtrace,
        "opentelemetry": opentelemetry,
        "elastic": elastic,
    }[AGENT]()
    from wsgifile import FileWrapperMiddleware

    apps = {}
    for framework, app in (("django", django_app()), ("flask", flask_app())):
        apps[f"{framework}/bare"] = app
        apps[f"{framework}/inside"] = FileWrapperMiddleware(app, on_sent=note)
        apps[f"{framework}/bare-around"] = around(app)
        apps[f"{framework}/around"] = FileWrapperMiddleware(around(app), on_sent=note)
        apps[f"{framework}/outside"] = around(FileWrapperMiddleware(app, on_sent=note))
    return apps


APPLICATIONS = applications()


def app(environ: Any, start_response: Any) -> Any:
    if os.environ.get("COVERAGE_PROCESS_CONFIG") and sys.gettrace() is None:
        sys.settrace(threading.gettrace())  # In a thread that uWSGI has made.
    path = environ["PATH_INFO"]
    if path == "/reported":
        body = json.dumps(reported).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    if path == "/coverage":
        import coverage

        measured = coverage.Coverage.current()
        if measured is not None:
            measured.save()
        start_response("204 No Content", [])
        return []
    _, framework, place, rest = path.split("/", 3)
    environ["PATH_INFO"] = "/" + rest
    return APPLICATIONS[f"{framework}/{place}"](environ, start_response)
