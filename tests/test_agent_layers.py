"""What only looks like an agent's, and agents that fail. The real ones are in test_agents.py."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from wsgifile import FileWrapper
from wsgifile.agents import SpanIterable, report, servers_start_response, span_iterable
from wsgifile.recognise import recognise


def define(monkeypatch: pytest.MonkeyPatch, kind: Any, module: str) -> None:
    """As if this type came from there."""
    loaded = types.ModuleType(module)
    setattr(loaded, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, module, loaded)
    kind.__module__, kind.__qualname__ = module, kind.__name__


def test_datadog_with_an_iterator_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """DDWSGIMiddleware(app_is_iterator=True) does not iterate what it wraps."""

    class _TracedIterable:
        _self_wrapped_is_iterator = True

    define(monkeypatch, _TracedIterable, "ddtrace._trace.trace_handlers")
    traced: Any = _TracedIterable()
    traced.__wrapped__ = FileWrapper(io.BytesIO(b"data"))
    assert recognise(traced) is None
    traced._self_wrapped_is_iterator = False
    assert recognise(traced) is not None


def test_error_in_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with the file's error as its context."""

    class _ScopedResponse:
        _response: Any = None

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self._response
            except ValueError:
                raise ZeroDivisionError from None

    define(monkeypatch, _ScopedResponse, "sentry_sdk.integrations.wsgi")
    scoped, file = _ScopedResponse(), io.BytesIO(b"data")
    scoped._response = FileWrapper(file)
    with pytest.raises(ZeroDivisionError):
        report(scoped, ValueError("of the file"))
    scoped._response.close()
    assert file.closed


def test_error_without_an_agent() -> None:
    """Nobody is told, and nothing is read."""
    file = io.BytesIO(b"data")
    report(FileWrapper(file), ValueError("of the file"))
    assert file.tell() == 0


ended: list[Any] = []


def _end_span_after_iterating(iterable: Any) -> Iterator[bytes]:
    try:
        yield from iterable
    except ValueError as error:
        ended.append(error)
        raise
    finally:
        ended.append(iterable)


def test_function_with_opentelemetrys_name() -> None:
    generator = _end_span_after_iterating(FileWrapper(io.BytesIO(b"data")))
    assert span_iterable(generator) is generator


def test_opentelemetrys_function(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("opentelemetry.instrumentation.wsgi")
    module._end_span_after_iterating = _end_span_after_iterating
    monkeypatch.setitem(sys.modules, module.__name__, module)
    wrapper = FileWrapper(io.BytesIO(b"data"))
    generator = _end_span_after_iterating(wrapper)
    spanned = span_iterable(generator)
    assert type(spanned) is SpanIterable
    ended.clear()
    spanned.close()  # It ends the generator, which has not begun, without reading the file.
    assert (ended, wrapper.filelike.read(4)) == ([wrapper], b"data")

    error = ValueError("of the file")
    report(span_iterable(_end_span_after_iterating(wrapper)), error)
    assert ended == [wrapper, error, wrapper]

    around_another = _end_span_after_iterating([b"data"])
    assert span_iterable(around_another) is around_another
    assert span_iterable(generator) is generator  # It has ended.

    wsgi = pytest.importorskip("werkzeug.wsgi")
    in_flask = _end_span_after_iterating(wsgi.ClosingIterator(FileWrapper(io.BytesIO(b"data"))))
    assert type(span_iterable(in_flask)) is SpanIterable


def test_start_response_of_sentry(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("sentry_sdk.integrations.wsgi")
    module._sentry_start_response = lambda start_response, span, *args: None
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert servers_start_response(partial(module._sentry_start_response, print, None)) is print


def test_partial_of_another() -> None:
    start_response = partial(print, None)
    assert servers_start_response(start_response) is start_response
