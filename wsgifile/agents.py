"""Monitoring agents around a file: Sentry, New Relic, Datadog and OpenTelemetry.

An agent puts an iterable of its own around each response, to report errors and the end. We look
through it (see ``layers``) and send the file without iterating it. The agent's ``close()`` still
ends the response. Here is the rest of what the agent would have seen.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from .blocks import BlockReader, close_app_iter
from .layers import AGENTS, layer_of, name_of_type
from .wrapper import FileWrapper

__all__ = ["SpanIterable", "report", "span_iterable"]


def report(app_iter: Any, error: BaseException) -> None:
    """Have the agents around app_iter report this error of the file.

    It is raised where the agents would have met it, if they had read the file. They raise it
    again, and that ends here.
    """
    outer: Any = None
    inner = app_iter
    # (mypy takes types for unhashable.)
    while layer_of(type(inner)) and (name := AGENTS.get(name_of_type(type(inner)))):  # type: ignore[arg-type]
        outer, attribute, inner = inner, name, getattr(inner, name)
    failing = _Failing(inner, error)
    if type(app_iter) is SpanIterable:
        app_iter.reader = failing
    elif outer is None:
        return
    else:
        setattr(outer, attribute, failing)
    traceback = error.__traceback__
    try:
        for _ in app_iter:
            break
    except BaseException as raised:
        if raised is not error:
            raise
    finally:
        # These frames refer to app_iter, and servers may never close it.
        error.__traceback__ = traceback
        del failing.error


class _Failing:
    """Stands for what an agent iterates, or for the reader of a FileWrapper, and fails."""

    def __init__(self, app_iter: object, error: BaseException) -> None:
        self.app_iter = app_iter
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raise self.error

    def next_block(self, size: int) -> bytes:
        """As a FileWrapper asks for it."""
        raise self.error

    def close(self) -> None:
        """Close what this stands for."""
        close_app_iter(self.app_iter)


class SpanIterable:
    """OpenTelemetry's generator around a response whose bytes come from a FileWrapper.

    It ends its span, and closes the file, only if it has been iterated. So close() iterates it,
    when the FileWrapper has nothing left to read.
    """

    def __init__(self, generator: Iterable[bytes], iterable: Any, wrapper: Any) -> None:
        self._generator = generator
        #: What it iterates.
        self.iterable = iterable
        self._wrapper = wrapper

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._generator)

    def close(self) -> None:
        """End the generator."""
        self.reader = BlockReader(io.BytesIO())
        for _ in self:
            pass

    @property
    def reader(self) -> Any:
        """Where the FileWrapper gets its blocks."""
        return self._wrapper.reader

    @reader.setter
    def reader(self, reader: Any) -> None:
        self._wrapper.reader = reader


def span_iterable(generator: Any) -> Any:
    """The SpanIterable for this generator; the generator itself if it is another one."""
    name = "_end_span_after_iterating"
    if generator.gi_code.co_name != name:
        return generator
    function = getattr(sys.modules.get("opentelemetry.instrumentation.wsgi"), name, None)
    if getattr(function, "__code__", None) is not generator.gi_code:
        return generator
    iterable = inner = generator.gi_frame.f_locals["iterable"]
    while inner is not None and type(inner) is not FileWrapper:
        look = layer_of(type(inner))
        found = look(inner) if look else None
        inner = found and found.file
    return generator if inner is None else SpanIterable(generator, iterable, inner)
