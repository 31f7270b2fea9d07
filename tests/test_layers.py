"""unwrap(): through what frameworks made, and through nothing that only looks like it.

tests/servers/test_frameworks.py checks that these are what frameworks really return.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from wsgiref.util import FileWrapper as WsgirefFileWrapper

import pytest

pytest.importorskip("falcon")
pytest.importorskip("pyramid")
pytest.importorskip("servestatic")
pytest.importorskip("webob")
pytest.importorskip("werkzeug")
pytest.importorskip("whitenoise")

from falcon.routing.static import _BoundedFile
from pyramid.response import FileIter
from regions import region_of
from servestatic.responders import SlicedFile as ServeStaticSlicedFile
from webob.response import AppIterRange
from werkzeug.wrappers import Response
from werkzeug.wsgi import ClosingIterator, _RangeWrapper
from werkzeug.wsgi import FileWrapper as WerkzeugFileWrapper
from whitenoise.responders import SlicedFile

from wsgifile import FileWrapper
from wsgifile.blocks import BlockReader
from wsgifile.layers import unwrap
from wsgifile.recognise import FileRegion, recognise

pytestmark = pytest.mark.quick

DATA = bytes(range(256)) * 1000


@pytest.fixture
def file(tmp_path: Path) -> Iterator[BinaryIO]:
    (tmp_path / "data").write_bytes(DATA)
    with open(tmp_path / "data", "rb") as file:
        yield file


def at(file: BinaryIO, position: int) -> BinaryIO:
    file.seek(position)
    return file


def bytes_of(region: FileRegion) -> bytes:
    assert region.stop is not None
    return DATA[region.start : region.stop]


@pytest.mark.parametrize(
    "make",
    [
        lambda file: WsgirefFileWrapper(at(file, 5)),
        lambda file: WerkzeugFileWrapper(at(file, 5)),
        lambda file: FileIter(at(file, 5)),
        lambda file: FileWrapper(at(file, 5), 4096),
        lambda file: ClosingIterator(iter(at(file, 5))),
        lambda file: Response(at(file, 5)).get_app_iter({"REQUEST_METHOD": "GET"}),
        lambda file: Response(FileWrapper(at(file, 5))).get_app_iter({"REQUEST_METHOD": "GET"}),
        lambda file: SlicedFile(file, 5, 1000),
        lambda file: ServeStaticSlicedFile(file, 5, 1000),
        lambda file: _RangeWrapper(FileWrapper(file), 5, 1000),
        lambda file: _RangeWrapper(WerkzeugFileWrapper(at(file, 7)), 5, 1000),
        lambda file: _RangeWrapper(file, 5),
        lambda file: AppIterRange(at(file, 5), 10, 1000),
        lambda file: AppIterRange(at(file, 5), 10, None),
        lambda file: AppIterRange(FileIter(at(file, 5)), 10, 1000),
        # A part of a part of a file.
        lambda file: AppIterRange(WsgirefFileWrapper(SlicedFile(file, 5, 1000)), 10, 20),
        lambda file: AppIterRange(WsgirefFileWrapper(SlicedFile(file, 5, 1000)), 10, 5000),
        lambda file: FileWrapper(_BoundedFile(at(file, 5), 1000), 4096),
        lambda file: FileWrapper(ServeStaticSlicedFile(file, 5, 1000)),
    ],
)
def test_looked_through(file: BinaryIO, make: Callable[[BinaryIO], Any]) -> None:
    """The descriptor gives the same bytes as iterating."""
    made = make(file)
    region = region_of(made)
    assert region.kernel is file
    assert bytes_of(region) == b"".join(made) != b""


@pytest.mark.parametrize("kind", [SlicedFile, ServeStaticSlicedFile])
def test_sliced_file_that_was_read_in_part(file: BinaryIO, kind: type[Any]) -> None:
    sliced = kind(file, 5, 1000)
    sliced.read(10)
    assert bytes_of(region_of(sliced)) == DATA[15:1001]


def begun(iterable: Any) -> Any:
    next(iter(iterable))
    return iterable


class SubResponse(Response):
    def iter_encoded(self) -> Iterator[Any]:
        return (line.upper() for line in self.response)


class Loud(io.BytesIO):
    def __next__(self) -> bytes:
        return super().__next__().upper()


class SubWrapper(WsgirefFileWrapper):
    def __next__(self) -> bytes:
        return super().__next__().upper()


def fake(name: str, module: str = "wsgiref.util") -> Any:
    kind = type(name, (), {"__module__": module, "__iter__": lambda self: iter([b"x"])})
    made = kind()
    made.filelike = io.BytesIO(DATA)
    return made


def changed(iterator: Any) -> Any:
    """As if Werkzeug used other private attributes."""
    iterator._next = iterator._next.args[0].__next__
    return iterator


def with_a_read_of_its_own(file: BinaryIO) -> Any:
    sliced = SlicedFile(file, 5, 1000)
    sliced.read = lambda size=-1: b""
    return sliced


def part_of(file: BinaryIO) -> FileWrapper:
    part = FileWrapper(file).app_iter_range(5, 1005)
    assert part is not None
    return part


@pytest.mark.parametrize(
    "make",
    [
        lambda file: Response(["a", "b"]).get_app_iter({"REQUEST_METHOD": "GET"}),
        lambda file: Response(file).get_app_iter({"REQUEST_METHOD": "HEAD"}),
        lambda file: begun(Response(file).get_app_iter({"REQUEST_METHOD": "GET"})),
        lambda file: SubResponse(file).get_app_iter({"REQUEST_METHOD": "GET"}),
        lambda file: ClosingIterator(line for line in file),
        lambda file: ClosingIterator(Loud(DATA)),
        lambda file: ClosingIterator(with_a_read_of_its_own(file)),
        lambda file: changed(ClosingIterator(file)),
        lambda file: begun(AppIterRange(file, 10, 1000)),
        lambda file: begun(_RangeWrapper(file, 5, 1000)),
        lambda file: _RangeWrapper(iter([b"x"]), 5, 1000),
        # A position in a filelike that is itself a part of a file.
        lambda file: _RangeWrapper(part_of(file), 5, 1000),
        lambda file: SubWrapper(file),
        lambda file: fake("FileWrapper"),
        lambda file: fake("FileWrapper", "not.loaded"),
        lambda file: fake("other"),
        lambda file: itertools.chain([b"x"], file),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_not_looked_through(file: BinaryIO, make: Callable[[BinaryIO], Any]) -> None:
    assert recognise(make(file)) is None


def test_with_a_read_of_its_own(file: BinaryIO) -> None:
    """An object with a read() of its own is sent by that, not by the file inside."""
    sliced = with_a_read_of_its_own(file)
    region = region_of(sliced)
    assert (region.filelike, region.kernel) == (sliced, None)


def test_lines_of_text(tmp_path: Path) -> None:
    """Frameworks encode the lines. Without a framework, a text file is an error."""
    (tmp_path / "data").write_bytes(DATA)
    file: Any
    for file in (open(tmp_path / "data", encoding="latin-1"), io.StringIO("text")):
        with file:
            assert recognise(Response(file).get_app_iter({"REQUEST_METHOD": "GET"})) is None
            with pytest.raises(TypeError, match="text mode"):
                recognise(WsgirefFileWrapper(file))


def test_what_cannot_seek() -> None:
    """Bytes of a pipe can only be skipped by reading, so such a layer is not looked through."""
    read, write = os.pipe()
    with open(read, "rb") as file, open(write, "wb"):
        assert recognise(AppIterRange(file, 10, 1000)) is None
        assert region_of(AppIterRange(file, 0, 1000)).limit == 1000


def test_iterated_temporary_file() -> None:
    """Its iterator is a generator of a function in tempfile."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(DATA)
        file.seek(3)
        region = region_of(ClosingIterator(file))
        assert (region.start, region.stop) == (3, len(DATA))


def test_forwarded_method_of_another(tmp_path: Path) -> None:
    """It looks like the way in which tempfile forwards to its file, but it is not."""
    file: Any
    with tempfile.NamedTemporaryFile() as file:
        file.write(DATA)
        file.seek(0)
        file.read = functools.wraps(file.file.read)(lambda size=-1: b"other")
        region = region_of(file)
        assert (region.filelike, region.kernel) == (file, None)


def test_threads() -> None:
    """Responses of frameworks must be closed in their thread. Wrappers of files need not."""
    assert region_of(ClosingIterator(io.BytesIO(DATA))).close_in_thread
    assert not region_of(WsgirefFileWrapper(io.BytesIO(DATA))).close_in_thread


def test_no_framework_is_imported() -> None:
    """Not even for an object that claims to be from its module."""
    made = fake("file_generator", "cherrypy.lib")
    assert unwrap(made) is None
    assert "cherrypy" not in sys.modules


def test_module_that_imports_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a module is not asked for names that it may not have."""

    def fail(name: str) -> Any:
        raise ImportError(name)

    late = types.ModuleType("late")
    late.__getattr__ = fail  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "late", late)
    assert unwrap(fake("Body", "late")) is None


def test_position_in_a_part(file: BinaryIO) -> None:
    """A position in a part of a file is for that part to interpret."""
    inner = BlockReader(file, 100, 150, seek_first=True)
    part = unwrap(ServeStaticSlicedFile(inner, 5, 10))
    assert part is not None
    assert (part.file, part.start, part.count) == (inner, 5, 6)
