"""Monitoring agents around a file: Sentry, New Relic, Datadog and OpenTelemetry.

An agent puts an iterable of its own around each response, to report errors and the end.
``layers`` looks through it, and the file is sent without iterating it. The agent's ``close()``
is still called at the end. The rest of what the agent would have seen is here.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from .blocks import BlockReader, close_app_iter
from .layers import AGENTS, layer_of, name_of_type
from .wrapper import FileWrapper

__all__ = ["SpanIterable", "report", "servers_start_response", "span_iterable"]


def report(app_iter: Any, error: BaseException) -> None:
    """Have the agents around app_iter report this error, which reading the file has raised.

    It is raised again, where the agents would have met it if they had read the file.
    """
    outer: Any = None
    attribute, inner = "", app_iter
    kind: Any = type(inner)
    while layer_of(kind) is not None and (name := AGENTS.get(name_of_type(kind))) is not None:
        outer, attribute, inner = inner, name, getattr(inner, name)
        kind = type(inner)
    failing = _Failing(inner, error)
    if type(app_iter) is SpanIterable:
        app_iter.wrapper.reader = failing
    elif outer is not None:
        setattr(outer, attribute, failing)
    else:
        return
    traceback = error.__traceback__
    try:
        next(iter(app_iter), None)
    except BaseException as raised:
        if raised is not error:
            raise
    finally:
        # The frames of this call refer to app_iter. Some servers never close it.
        error.__traceback__ = traceback
        del failing.error


class _Failing:
    """Raises the error, in the place of what an agent iterates or of a FileWrapper's reader."""

    def __init__(self, app_iter: object, error: BaseException) -> None:
        self.app_iter = app_iter
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raise self.error

    def next_block(self, size: int) -> bytes:
        """What a FileWrapper calls."""
        raise self.error

    def close(self) -> None:
        """Close what was in this place."""
        close_app_iter(self.app_iter)


class SpanIterable:
    """OpenTelemetry's generator around a response whose bytes come from a FileWrapper.

    The generator ends its span and closes the file only if it is iterated. So close() iterates
    it, after the FileWrapper was given nothing to read.
    """

    def __init__(self, generator: Iterable[bytes], iterable: object, wrapper: FileWrapper) -> None:
        self.generator = generator
        #: What the generator iterates.
        self.iterable = iterable
        self.wrapper: Any = wrapper

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.generator)

    def close(self) -> None:
        """Have the generator end the span and close the file."""
        self.wrapper.reader = BlockReader(io.BytesIO())
        next(iter(self), None)  # There is no block, so the generator ends.


def span_iterable(generator: Any) -> Any:
    """The SpanIterable for this generator; the generator itself if it is another one."""
    name = "_end_span_after_iterating"
    if generator.gi_code.co_name != name:
        return generator
    function = getattr(sys.modules.get("opentelemetry.instrumentation.wsgi"), name, None)
    if getattr(function, "__code__", None) is not generator.gi_code or not generator.gi_frame:
        return generator
    iterable = inner = generator.gi_frame.f_locals["iterable"]
    while not isinstance(inner, FileWrapper):
        kind: Any = type(inner)
        look = layer_of(kind)
        found = None if look is None else look(inner)
        if found is None:
            return generator
        inner = found.file
    return SpanIterable(generator, iterable, inner)


def servers_start_response(start_response: partial[Any]) -> Any:
    """The start_response that Sentry's middleware calls, if this one is from there.

    That middleware returns what has a ``fileno`` as it is, so that uWSGI recognises it. What
    has none is iterated by the middleware, and then no body goes past WSGI.
    """
    module = sys.modules.get("sentry_sdk.integrations.wsgi")
    if start_response.func is getattr(module, "_sentry_start_response", None):
        return start_response.args[0]
    return start_response
