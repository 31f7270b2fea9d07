"""What frameworks put around a file, and how to look through it.

One table: from the type of an iterable to the file inside, and which bytes of it
are meant. A sub-class is taken for the class in the table unless it defines a method
that reads or iterates, because it may give other bytes then. The same goes for an
instance with a reading method of its own. No framework is imported: a type counts if
the module it names is loaded and has it.

Whatever is looked through is still what gets closed in the end.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import GeneratorType
from typing import Any, TypeVar

from .blocks import BlockReader, is_seekable

__all__ = [
    "AGENTS",
    "ITERATING_METHODS",
    "READING_METHODS",
    "Inner",
    "inherited",
    "layer_of",
    "name_of_type",
    "rewinds",
    "unwrap",
]

T = TypeVar("T")

#: If an instance has one of these as an attribute of its own, it may give other bytes.
READING_METHODS = frozenset(
    {
        "chunks",
        "fileno",
        "make_bytes",
        "read",
        "read1",
        "readall",
        "readinto",
        "readline",
        "seek",
        "tell",
    }
)

#: If a class defines one of these, it may give other bytes when it is iterated.
ITERATING_METHODS = frozenset(
    {
        "__getattribute__",
        "__getitem__",
        "__iter__",
        "__next__",
        "chunks",
        "iter_chunks",
        "readline",
        "readuntil",
        "stream",
        "streaming_content",
    }
)


#: What monitoring agents put around a response, and the attribute that they iterate. They pass
#: each block on as it is.
AGENTS: dict[str, str] = {
    "ddtrace._trace.trace_handlers._TracedIterable": "__wrapped__",
    "newrelic.api.wsgi_application._WSGIApplicationIterable": "generator",
    "newrelic.api.wsgi_application._WSGIApplicationMiddleware": "iterable",
    "sentry_sdk.integrations.wsgi._ScopedResponse": "_response",
}


#: Types that go back to their beginning when they are iterated, where read() would go on.
_REWOUND = {
    "django.core.files.base.File": True,
    "django.core.files.uploadedfile.InMemoryUploadedFile": True,
    "mmap.mmap": True,
    "storages.backends.s3.S3File": True,
}

#: Types that are seekable, but download the whole file if they are asked whether they are.
_LAZY = {"storages.backends.s3.S3File": True}


# Not frozen, like the other dataclasses here: frozen ones take four times as long to make.
@dataclass(slots=True)
class Inner:
    """The file inside an iterable, and which of its bytes the iterable stands for."""

    file: Any
    #: Position of the first byte; None: where the file stands.
    start: int | None = None
    #: Number of bytes to leave out from there.
    skip: int = 0
    #: Number of bytes; None: all until the end.
    count: int | None = None
    #: Whether the file is iterated, not read.
    iterated: bool = False
    #: Whether a framework iterates it, which would encode lines of text.
    encoded: bool = False
    #: Whether close() has to run in the thread that called the application.
    close_in_thread: bool = False
    #: The least number of bytes to read at once.
    block_size: int = 1
    #: Whether close() deletes the file.
    temporary: bool = False

    def through(self, deeper: Inner) -> Inner | None:
        """The same bytes, as a part of what is inside self.file; None: it is not known which."""
        if self.start is None:
            start, skip = deeper.start, deeper.skip + self.skip
        elif deeper.start is None and not deeper.skip and deeper.count is None:
            start, skip = self.start, self.skip
        else:
            return None  # A position in something that begins elsewhere.
        count = self.count
        if deeper.count is not None:
            left = max(0, deeper.count - self.skip)
            count = left if count is None else min(count, left)
        return Inner(
            deeper.file,
            start=start,
            skip=skip,
            count=count,
            # If the outer file is read, its read() reads the inner one, and does not iterate it.
            iterated=self.iterated and deeper.iterated,
            encoded=self.encoded or deeper.encoded,
            close_in_thread=self.close_in_thread or deeper.close_in_thread,
            block_size=max(self.block_size, deeper.block_size),
            temporary=self.temporary or deeper.temporary,
        )


def unwrap(app_iter: Any) -> Inner | None:
    """The innermost file in app_iter; None: nothing here can be looked through."""
    found, file = None, app_iter
    # (mypy takes types for unhashable.)
    while look := layer_of(type(file)):  # type: ignore[arg-type]
        try:
            inner = look(file)
        except Exception:
            # These are private attributes of other projects, which may have changed
            # them. Then the response is iterated, as it would be without us.
            break
        # _is_as_made() is asked last: most responses of a framework are no file.
        if inner is None or not _is_as_made(file):
            break
        iterated = found is None or (found.iterated and found.start is None)
        if iterated and _goes_back(file, inner):
            inner.start = 0
        if found is not None:
            inner = found.through(inner)
            if inner is None:
                break
        found, file = inner, inner.file
    return found


@lru_cache(256)
def layer_of(kind: type) -> Callable[[Any], Inner | None] | None:
    """What looks through an iterable of this type, if anything does."""
    if kind is GeneratorType:
        return _generator
    return inherited(kind, _LAYERS, READING_METHODS | ITERATING_METHODS)


def inherited(kind: type, table: Mapping[str, T], methods: frozenset[str]) -> T | None:
    """What the table has for this type, or for the nearest class that it is derived from.

    None if there is nothing, or if a class in between defines one of the methods.
    """
    for base in kind.__mro__[:-1]:  # Without object.
        found = table.get(name_of_type(base))
        module = sys.modules.get(base.__module__)
        if found is not None and getattr(module, base.__qualname__, None) is base:
            return found
        if not methods.isdisjoint(vars(base)):
            return None
    return None


@lru_cache(256)
def rewinds(kind: type) -> bool:
    """Whether iterating such a file begins at its beginning, if it is seekable."""
    return bool(inherited(kind, _REWOUND, ITERATING_METHODS))


def _goes_back(file: Any, inner: Inner) -> bool:
    """Whether iterating file begins at the beginning of what is inside it."""
    kind: Any = type(file)  # (mypy takes types for unhashable.)
    if not rewinds(kind):
        return False
    return inherited(type(inner.file), _LAZY, frozenset()) or is_seekable(file)


def name_of_type(kind: type) -> str:
    """The key of a type in the tables here."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_as_made(iterable: object) -> bool:
    """Whether no reading method was replaced on this instance.

    tempfile stores the methods it forwards on the instance. They are made by
    functools.wraps from the bound methods of the file, and do not count.
    """
    attributes = getattr(iterable, "__dict__", {})
    if READING_METHODS.isdisjoint(attributes):
        return True
    for name in READING_METHODS & attributes.keys():
        method = attributes[name]
        forwarded = getattr(getattr(method, "__wrapped__", None), "__self__", None)
        if forwarded is None or forwarded is not attributes.get("file"):
            return False
        if getattr(method, "__globals__", None) is not vars(tempfile):
            return False
    return True


def _in_thread(iterator: Any) -> Inner:
    """The inside of a response whose close() may use thread-local variables."""
    return Inner(iterator, iterated=True, encoded=True, close_in_thread=True)


def _block_reader(reader: BlockReader) -> Inner | None:
    if reader.has_rest:
        return None  # The file is ahead of it.
    return Inner(
        reader.filelike,
        start=reader.position if reader.seek_first else None,
        count=reader.remaining,
        block_size=max(1, reader.read_size),
    )


def _file_wrapper(wrapper: Any) -> Inner | None:
    inner = _block_reader(wrapper.reader)
    if inner is not None:
        inner.block_size = wrapper.block_size
        # Django puts its response's close() on the file. Elastic ends its transaction in there,
        # and finds it only in the thread that began it.
        if "elasticapm" in sys.modules and "close" in getattr(wrapper.filelike, "__dict__", ()):
            inner.close_in_thread = True
    return inner


def _body(body: Any) -> Inner | None:
    # From another middleware of ours, nearer to the application.
    blocks, region = body.described(), body.send.region
    if type(blocks) is not BlockReader:
        return None
    return Inner(
        blocks,
        close_in_thread=region.close_in_thread,
        block_size=region.block_size,
        temporary=region.temporary,
    )


def _sliced_file(sliced: Any) -> Inner:
    # ServeStatic's class seeks at its first read(), WhiteNoise's in its constructor.
    start = None if getattr(sliced, "seeked", True) else sliced.start
    return Inner(sliced.fileobj, start=start, count=sliced.remaining)


def _range_wrapper(wrapper: Any) -> Inner | None:
    # If the file is not seekable, it reads and drops what is before its first byte.
    if not wrapper.seekable or wrapper.read_length or wrapper.end_reached:
        return None
    return Inner(
        wrapper.iterable, start=wrapper.start_byte, count=wrapper.byte_range, iterated=True
    )


def _app_iter_range(ranged: Any) -> Inner | None:
    if ranged._pos:
        return None
    count = None if ranged.stop is None else ranged.stop - ranged.start
    return Inner(ranged.app_iter, skip=ranged.start, count=count, iterated=True)


def _generator(generator: Any) -> Inner | None:
    """From a generator that has not begun: from the variables of its function."""
    frame = generator.gi_frame
    if frame is None or inspect.getgeneratorstate(generator) != inspect.GEN_CREATED:
        return None
    module, name = frame.f_globals.get("__name__"), frame.f_code.co_name
    look = _GENERATORS.get((module, name))
    # Any function may have these names: it has to be in that module's own dictionary.
    if look is None or frame.f_globals is not getattr(sys.modules.get(module), "__dict__", None):
        return None
    return look(frame.f_locals)


def _closing_iterator(closing: Any) -> Inner | None:
    callbacks = closing._callbacks
    response = getattr(callbacks[-1], "__self__", None) if callbacks else None
    if type(getattr(response, "response", None)) is list:
        return None  # Most responses. They are no file, and this is the fastest way to tell.
    iterator = closing._next.args[0]
    if type(iterator) is not GeneratorType:
        return _in_thread(iterator)
    inner = _generator(iterator)
    if inner is not None:
        inner.close_in_thread = True
    return inner


def _newrelic_iterable(iterable: Any) -> Inner:
    # Its transaction belongs to the thread in which it began.
    return Inner(iterable.generator, close_in_thread=True)


def _newrelic_middleware(middleware: Any) -> Inner | None:
    # Otherwise it puts a script into HTML.
    return Inner(middleware.iterable) if middleware.pass_through else None


def _traced_iterable(traced: Any) -> Inner | None:
    # The other kind does not iterate what it wraps, but an iterator made from it.
    if traced._self_wrapped_is_iterator:
        return None
    return Inner(traced.__wrapped__, close_in_thread=True)


def _storages_file(file: Any) -> Inner | None:
    # Its property "file" would download it.
    return None if file._file is None else Inner(file._file, iterated=True)


def _ranged_file(variables: dict[str, Any]) -> Inner:
    # Its iterator seeks, and reads up to a stop that may be infinite.
    ranged = variables["self"]
    count = None if ranged.stop == float("inf") else max(0, ranged.stop - ranged.start)
    return Inner(ranged.f, start=ranged.start, count=count)


#: By module and name of the type.
_LAYERS: dict[str, Callable[[Any], Inner | None]] = {
    # In the order of their names.
    "cherrypy._cpwsgi.AppResponse": lambda it: _in_thread(it.iter_response),
    "cherrypy._cpwsgi._TrappedResponse": lambda it: _in_thread(it.iter_response),
    "cherrypy.lib.file_generator": lambda it: Inner(it.input),
    "ddtrace._trace.trace_handlers._TracedIterable": _traced_iterable,
    "django.core.files.base.File": lambda it: Inner(it.file, iterated=True),
    "django.core.files.uploadedfile.InMemoryUploadedFile": (
        lambda it: Inner(it.file, iterated=True)
    ),
    "django.db.models.fields.files.FieldFile": lambda it: Inner(it.file, iterated=True),
    "django.http.response.StreamingHttpResponse": lambda it: _in_thread(it._iterator),
    "fsspec.implementations.local.LocalFileOpener": lambda it: Inner(it.f, iterated=True),
    "falcon.routing.static._BoundedFile": lambda it: Inner(it.fh, count=it.remaining),
    "newrelic.api.wsgi_application._WSGIApplicationIterable": _newrelic_iterable,
    "newrelic.api.wsgi_application._WSGIApplicationMiddleware": _newrelic_middleware,
    "pyramid.response.FileIter": lambda it: Inner(it.file),
    # Its close() works in any thread.
    "sentry_sdk.integrations.wsgi._ScopedResponse": lambda it: Inner(it._response),
    "servestatic.responders.SlicedFile": _sliced_file,
    "smart_open.utils.FileLikeProxy": lambda it: Inner(it.__wrapped__, iterated=True),
    "storages.backends.s3.S3File": _storages_file,
    "tempfile.SpooledTemporaryFile": lambda it: Inner(it._file, iterated=True),
    "tempfile._TemporaryFileWrapper": (
        lambda it: Inner(it.file, iterated=True, temporary=bool(it._closer.delete))
    ),
    "webob.response.AppIterRange": _app_iter_range,
    "werkzeug.datastructures.file_storage.FileStorage": (
        lambda it: Inner(it.stream, iterated=True)
    ),
    "werkzeug.wsgi.ClosingIterator": _closing_iterator,
    "werkzeug.wsgi.FileWrapper": lambda it: Inner(it.file),
    "werkzeug.wsgi._RangeWrapper": _range_wrapper,
    "whitenoise.responders.SlicedFile": _sliced_file,
    "wsgifile.agents.SpanIterable": lambda it: Inner(it.iterable, close_in_thread=True),
    "wsgifile.blocks.BlockReader": _block_reader,
    "wsgifile.body.Body": _body,
    "wsgifile.body.OneBlock": _body,
    "wsgifile.wrapper.FileWrapper": _file_wrapper,
    "wsgifile.wrapper.SizedFileWrapper": _file_wrapper,
    "wsgiref.util.FileWrapper": lambda it: Inner(it.filelike),
}

#: By module and name of the generator's function: from its variables.
_GENERATORS: dict[tuple[object, str], Callable[[dict[str, Any]], Inner | None]] = {
    ("cherrypy.lib", "file_generator_limited"): (
        lambda variables: Inner(variables["fileobj"], count=variables["count"])
    ),
    ("django.core.files.base", "__iter__"): lambda variables: Inner(
        variables["self"], iterated=True
    ),
    ("ranged_fileresponse", "__iter__"): _ranged_file,
    ("tempfile", "__iter__"): lambda variables: Inner(variables["self"], iterated=True),
    ("werkzeug.wrappers.response", "_iter_encoded"): (
        lambda variables: Inner(variables["iterable"], iterated=True, encoded=True)
    ),
}
