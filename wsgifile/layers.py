"""What frameworks put around a file, and how to look through it.

One table, from the type of an iterable to the file inside and which bytes of it
are meant. Exactly by type, as a sub-class may give other bytes, and only for
what was not overridden on the instance. No framework is imported here: a type
counts if the module that it says it is from is loaded and has it.

Whatever is looked through is still what gets closed in the end.
"""

from __future__ import annotations

import gc
import inspect
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import GeneratorType
from typing import Any

from .wrapper import FileWrapper

__all__ = ["READING", "Part", "innermost", "layer"]

#: An instance may be given methods of its own; with these it gives other bytes.
READING = frozenset(
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


@dataclass(slots=True)  # Not frozen, nor are the others: that costs four times as much to make.
class Part:
    """The bytes of an iterable, as bytes of what is inside it."""

    file: Any
    #: A position in the file; None: where it stands.
    start: int | None = None
    #: Bytes to leave out from there; negative: so many before it are meant, too.
    skip: int = 0
    #: Number of bytes; None: all there are.
    count: int | None = None
    #: Whether the file is iterated, not read, so that its lines may be text.
    iterated: bool = False
    #: Whether close() is for the thread that has called the application.
    threaded: bool = False
    #: The least number of bytes to read at once.
    block_size: int = 1
    #: Whether close() deletes the file.
    temporary: bool = False

    def of(self, inner: Part) -> Part | None:
        """The same bytes where file is made of inner; None: they cannot be told."""
        if self.start is None:
            start, skip = inner.start, inner.skip + self.skip
        elif inner.start is None and not inner.skip and inner.count is None:
            start, skip = self.start, self.skip
        else:
            return None  # A position in something that begins elsewhere.
        count = self.count
        if inner.count is not None:
            left = max(0, inner.count - self.skip)
            count = left if count is None else min(count, left)
        return Part(
            inner.file,
            start,
            skip,
            count,
            self.iterated or inner.iterated,
            self.threaded or inner.threaded,
            max(self.block_size, inner.block_size),
            self.temporary or inner.temporary,
        )


def innermost(app_iter: object) -> Part | None:
    """The file in app_iter, as far as it can be looked through. None: not at all."""
    whole, file = None, app_iter
    # (That types are hashable is news to mypy.)
    while (look := layer(type(file))) and _as_made(file):  # type: ignore[arg-type]
        try:
            inner = look(file)
        except Exception:
            # These are private matters of others, who may have changed them. Then
            # it is iterated, as it would be without us.
            break
        inside = inner if inner is None or whole is None else whole.of(inner)
        if inside is None:
            break
        whole, file = inside, inside.file
    return whole


@lru_cache(256)
def layer(kind: type) -> Callable[[Any], Part | None] | None:
    """What looks through an iterable of this type, if anything does."""
    if kind is GeneratorType:
        return _generator
    look = _LAYERS.get(f"{kind.__module__}.{kind.__qualname__}")
    if look is None or getattr(sys.modules.get(kind.__module__), kind.__qualname__, 0) is not kind:
        return None
    return look


def _as_made(iterable: object) -> bool:
    """Whether nobody gave this instance reading methods of his own.

    tempfile keeps the methods that it forwards in the instance, made with
    functools.wraps from the file's bound ones.
    """
    own = getattr(iterable, "__dict__", {})
    if READING.isdisjoint(own):
        return True
    for name in READING & own.keys():
        method = own[name]
        forwarded = getattr(getattr(method, "__wrapped__", None), "__self__", None)
        if forwarded is None or forwarded is not own.get("file"):
            return False
        if getattr(method, "__globals__", None) is not vars(tempfile):
            return False
    return True


def _in_thread(iterator: Any) -> Part:
    """Of a response whose close() may go by variables of the thread."""
    return Part(iterator, iterated=True, threaded=True)


def _file_wrapper(wrapper: FileWrapper) -> Part:
    return Part(
        wrapper.filelike, wrapper.start, count=wrapper.remaining, block_size=wrapper.block_size
    )


def _body(body: Any) -> Part | None:
    # From another middleware of ours, nearer to the application.
    return Part(body.blocks) if type(body.blocks) is FileWrapper else None


def _sliced_file(sliced: Any) -> Part:
    # ServeStatic's positions the file at its first read(), WhiteNoise's at once.
    start = None if getattr(sliced, "seeked", True) else sliced.start
    return Part(sliced.fileobj, start, count=sliced.remaining)


def _range_wrapper(wrapper: Any) -> Part | None:
    # Without seekable() it reads up to its first byte.
    if not wrapper.seekable or wrapper.read_length or wrapper.end_reached:
        return None
    return Part(wrapper.iterable, wrapper.start_byte, count=wrapper.byte_range, iterated=True)


def _app_iter_range(ranged: Any) -> Part | None:
    if ranged._pos:
        return None
    count = None if ranged.stop is None else ranged.stop - ranged.start
    return Part(ranged.app_iter, skip=ranged.start, count=count, iterated=True)


def _web_py(chain: Any) -> Part | None:
    """web.py's: a chain of the lines and of a generator that cleans up.

    Of the lines the first has been taken already, to see whether one can be. In
    the end its own hook and the generator clear variables of the thread, as the
    next request does again; hooks of the application are not ours to run.
    """
    lines, *_ = _chained(chain) or [None]
    if not _is_from(lines, "web.application", "build_result"):
        return None
    match _chained(lines.gi_frame.f_locals["result"]):
        case [[bytes() as first], file]:
            while _is_from(file, "web.application", "wrap"):
                its = file.gi_frame.f_locals
                own = sys.modules["web.application"].application._unload
                if getattr(its["h"], "__func__", None) is not own:
                    return None
                file = its["result"]
            return Part(file, skip=-len(first), iterated=True)
    return None


def _chained(chain: object) -> list[Any]:
    """What an itertools.chain that has not begun goes through; nothing if that cannot be told."""
    # (The type is one of them since Python 3.12.)
    match [it for it in gc.get_referents(chain) if it is not type(chain)]:
        case [iterator] if type(iterator) is type(iter(())):
            match gc.get_referents(iterator):
                case [tuple() as iterables]:
                    return list(iterables)
    return []


def _generator(generator: Any) -> Part | None:
    frame = generator.gi_frame
    if frame is None or inspect.getgeneratorstate(generator) != inspect.GEN_CREATED:
        return None
    name = frame.f_globals.get("__name__"), frame.f_code.co_name
    look = _GENERATORS.get(name)
    return look(frame.f_locals) if look is not None and _is_from(generator, *name) else None


def _is_from(generator: Any, module: str, name: str) -> bool:
    """Whether it was made by a function of that module that is so named."""
    frame, loaded = getattr(generator, "gi_frame", None), sys.modules.get(module)
    return (
        type(generator) is GeneratorType
        and frame is not None
        and loaded is not None
        and frame.f_globals is vars(loaded)
        and frame.f_code.co_name == name
    )


def _closing_iterator(closing: Any) -> Part | None:
    callbacks = closing._callbacks
    response = getattr(callbacks[-1], "__self__", None) if callbacks else None
    if type(getattr(response, "response", None)) is list:
        return None  # Most responses: no file, by the shortest way.
    iterator = closing._next.args[0]
    if type(iterator) is not GeneratorType:
        return _in_thread(iterator)
    part = _generator(iterator)
    if part is not None:
        part.threaded = True
    return part


def _django_file(its: dict[str, Any]) -> Part | None:
    # It goes back to its beginning.
    return Part(its["self"], 0, iterated=True) if its["self"].seekable() else None


#: By module and name of the type.
_LAYERS: dict[str, Callable[[Any], Part | None]] = {
    "cherrypy._cpwsgi.AppResponse": lambda it: _in_thread(it.iter_response),
    "cherrypy._cpwsgi._TrappedResponse": lambda it: _in_thread(it.iter_response),
    "cherrypy.lib.file_generator": lambda it: Part(it.input),
    "django.core.files.base.ContentFile": lambda it: Part(it.file),
    "django.core.files.base.File": lambda it: Part(it.file),
    "django.core.files.images.ImageFile": lambda it: Part(it.file),
    "django.db.models.fields.files.FieldFile": lambda it: Part(it.file),
    "django.db.models.fields.files.ImageFieldFile": lambda it: Part(it.file),
    "django.http.response.StreamingHttpResponse": lambda it: _in_thread(it._iterator),
    "falcon.routing.static._BoundedFile": lambda it: Part(it.fh, count=it.remaining),
    "itertools.chain": _web_py,
    "pyramid.response.FileIter": lambda it: Part(it.file),
    "servestatic.responders.SlicedFile": _sliced_file,
    "tempfile.SpooledTemporaryFile": lambda it: Part(it._file),
    "tempfile._TemporaryFileWrapper": (
        lambda it: Part(it.file, temporary=bool(it._closer.delete))
    ),
    "webob.response.AppIterRange": _app_iter_range,
    "werkzeug.wsgi.ClosingIterator": _closing_iterator,
    "werkzeug.wsgi.FileWrapper": lambda it: Part(it.file),
    "werkzeug.wsgi._RangeWrapper": _range_wrapper,
    "whitenoise.responders.SlicedFile": _sliced_file,
    "wsgifile.body.Body": _body,
    "wsgifile.wrapper.FileWrapper": _file_wrapper,
    "wsgiref.util.FileWrapper": lambda it: Part(it.filelike),
}

#: Generators that have not begun, by module and name of their function: from its
#: variables.
_GENERATORS: dict[tuple[object, str], Callable[[dict[str, Any]], Part | None]] = {
    ("cherrypy.lib", "file_generator_limited"): (
        lambda its: Part(its["fileobj"], count=its["count"])
    ),
    ("django.core.files.base", "__iter__"): _django_file,
    ("tempfile", "__iter__"): lambda its: Part(its["self"]),
    ("werkzeug.wrappers.response", "_iter_encoded"): (
        lambda its: Part(its["iterable"], iterated=True)
    ),
}
