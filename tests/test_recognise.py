"""recognise(): a descriptor is used only if it has the bytes that read() returns."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import mmap
import os
import socket
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from regions import region_of

from wsgifile import FileWrapper
from wsgifile.blocks import BlockReader
from wsgifile.recognise import _CHANGES, FileRegion, recognise

pytestmark = pytest.mark.quick

DATA = bytes(range(256)) * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


def kernel_bytes(region: FileRegion) -> bytes:
    """The bytes that a sender would get from the descriptor."""
    assert region.kernel is not None
    assert region.end is not None
    return os.pread(region.kernel.fileno(), region.end - region.start, region.start)


@pytest.mark.parametrize("app_iter", [[b"x"], (b"x",), (x for x in [b"x"]), b"x", {}, object()])
def test_no_file(app_iter: object) -> None:
    assert recognise(app_iter) is None


@pytest.mark.parametrize("buffering", [-1, 0, 100])
@pytest.mark.parametrize("mode", ["rb", "r+b"])
@pytest.mark.parametrize("read", [0, 3, 5000])
def test_kernel_file(path: Path, buffering: int, mode: str, read: int) -> None:
    """It starts where the next read() would, even if the descriptor is further ahead."""
    with open(path, mode, buffering=buffering) as file:
        file.read(read)
        region = region_of(file)
        assert region.kernel is file
        assert (region.start, region.end) == (read, len(DATA))
        assert kernel_bytes(region) == file.read()


@pytest.mark.parametrize(
    "make",
    [
        tempfile.TemporaryFile,
        tempfile.NamedTemporaryFile,
        lambda: tempfile.SpooledTemporaryFile(max_size=1),
    ],
)
def test_temporary_files(make: Callable[..., Any]) -> None:
    """The wrappers of tempfile do not change the bytes."""
    with make() as file:
        file.write(DATA)
        file.seek(7)
        assert kernel_bytes(region_of(file)) == DATA[7:]


def test_writes_still_in_the_buffer(tmp_path: Path) -> None:
    """read() would flush these bytes first, so they belong to the file."""
    with open(tmp_path / "new", "w+b") as file:
        file.write(b"0123456789")
        file.seek(2)
        file.write(b"xx")
        region = region_of(file)
        assert (region.start, region.end) == (4, 10)
        assert kernel_bytes(region) == file.read() == b"456789"
        file.seek(0)
        part = FileWrapper(file).app_iter_range(0, 10)
        file.write(b"new")
        assert kernel_bytes(region_of(part)) == b"newx456789"


def test_position_behind_the_end(path: Path) -> None:
    with open(path, "rb") as file:
        file.seek(10**6)
        region = region_of(file)
        assert (region.start, region.end) == (10**6, 10**6)


def gz(path: Path) -> Any:
    return gzip.open(path)


def zip_member(path: Path, method: int) -> Any:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", method) as archive:
        archive.write(path, "x")
    return zipfile.ZipFile(path.with_suffix(".zip")).open("x")


def tar_member(path: Path) -> Any:
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        archive.add(path, "x")
    return tarfile.open(path.with_suffix(".tar")).extractfile("x")


class SubFile(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        return (super().read(size) or b"")[::-1]


class ClosedFile(io.FileIO):
    """As ZODB's BlobFile: what it changes is close()."""

    def close(self) -> None:
        super().close()


class StreamIterator(io.FileIO):
    """As Zope's filestream_iterator: iterating it gives blocks of the same bytes."""

    def __next__(self) -> bytes:
        return self.read(65536) or next(iter(()))

    def __len__(self) -> int:
        return 0  # It is not for us to say whether it is true or false.


class Reader(io.BufferedReader):
    pass


@pytest.mark.parametrize(
    "make",
    [
        ClosedFile,
        StreamIterator,
        lambda path: Reader(io.FileIO(path)),
        lambda path: Reader(ClosedFile(path)),
        lambda path: io.BufferedRandom(type("File", (ClosedFile,), {})(path, "r+b")),
    ],
)
def test_sub_class_that_changes_no_bytes(path: Path, make: Callable[..., Any]) -> None:
    with make(path) as file:
        file.seek(7)
        assert kernel_bytes(region_of(FileWrapper(file))) == DATA[7:]


@pytest.mark.parametrize("name", sorted(_CHANGES))
def test_sub_class_that_may_change_bytes(path: Path, name: str) -> None:
    """By any one method, and also if it is inherited from a class that is no file."""
    defined = {name: getattr(io.BufferedReader, name, None)}
    mixin = type("Mixin", (), dict(defined))
    for kind in (
        type("Sub", (io.BufferedReader,), dict(defined)),
        type("Sub", (mixin, io.BufferedReader), {}),
    ):
        with kind(io.FileIO(path)) as file:
            region = recognise(FileWrapper(file))
            assert region is None or region.kernel is None


def test_sub_class_of_bytes_io() -> None:
    class Sub(io.BytesIO):
        pass

    class Other(io.BytesIO):
        def getbuffer(self) -> memoryview:
            return memoryview(b"other")

    assert (region_of(Sub(DATA)).end, region_of(Other(DATA)).end) == (len(DATA), None)


def test_who_says_to_be_a_file(path: Path) -> None:
    """By its name alone."""
    fake = type("FileIO", (SubFile,), {"__module__": "_io"})
    with fake(path) as file:
        assert region_of(FileWrapper(file)).kernel is None


def foreign_descriptor(path: Path) -> Any:
    class Foreign:
        def read(self, size: int = -1) -> bytes:
            return b""

        def fileno(self) -> int:
            return 0

    return Foreign()


def instance_read(path: Path) -> Any:
    file: Any = open(path, "rb")
    file.read = io.BytesIO(b"other").read
    return file


def instance_read_raw(path: Path) -> Any:
    file: Any = open(path, "rb")
    file.raw.readinto = lambda buffer: 0
    return file


def instance_read_tempfile(path: Path) -> Any:
    file: Any = tempfile.NamedTemporaryFile()
    file.read = io.BytesIO(b"other").read
    return file


@pytest.mark.parametrize(
    "make",
    [
        lambda path: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(DATA))),
        lambda path: bz2.BZ2File(io.BytesIO(bz2.compress(DATA))),
        lambda path: lzma.LZMAFile(io.BytesIO(lzma.compress(DATA))),
        lambda path: zip_member(path, zipfile.ZIP_STORED),
        lambda path: zip_member(path, zipfile.ZIP_DEFLATED),
        tar_member,
        lambda path: SubFile(path),
        lambda path: io.BufferedReader(SubFile(path)),
        lambda path: io.BufferedReader(io.BytesIO(DATA)),
        foreign_descriptor,
        instance_read,
        instance_read_raw,
        instance_read_tempfile,
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_descriptor_of_other_bytes(path: Path, make: Callable[..., Any]) -> None:
    """A fileno() proves nothing. These are read. Of those in an archive, the length is known.

    The application asks for read() by the wrapper. Some give other bytes when iterated.
    """
    file = make(path)
    region = region_of(FileWrapper(file))
    assert (region.filelike, region.kernel) == (file, None)
    in_archive = isinstance(file, (zipfile.ZipExtFile, tarfile.ExFileObject))
    assert region.end == (len(DATA) if in_archive else None)


def test_pipe_socket_and_device() -> None:
    read, write = os.pipe()
    with open(read, "rb") as file, open(write, "wb"):
        assert region_of(file).kernel is None
    a, b = socket.socketpair()
    with a, b, a.makefile("rb") as file:
        assert region_of(file).kernel is None
    with open("/dev/zero", "rb") as file:
        assert (region_of(file).kernel, region_of(file).end) == (None, None)


def test_not_readable(path: Path) -> None:
    """A file open for writing cannot be sent. Its read() raises the error."""
    with open(path, "r+b", buffering=0) as readable, io.FileIO(path, "a") as file:
        assert region_of(readable).kernel is readable
        assert region_of(file).kernel is None


def test_size_zero() -> None:
    """The file is empty, or it is in /proc, where files have bytes but no size."""
    with tempfile.TemporaryFile() as file:
        assert (region_of(file).kernel, region_of(file).end) == (None, 0)
    with open("/proc/self/status", "rb") as file:
        region = region_of(file)
        assert (region.kernel, region.end) == (None, None)
        assert file.read().startswith(b"Name:")
    with open("/proc/self/status", "rb", buffering=0) as file:
        assert region_of(file).end is None


def test_nothing_left_of_it() -> None:
    """It has bytes, but none after its position."""
    with open("/proc/self/cmdline", "rb") as file:
        size = len(file.read())
        assert size
        assert region_of(file).end == size
        assert region_of(BlockReader(file, 0, seek_first=True)).end is None


def test_size_that_is_not_true() -> None:
    """Files in /sys claim to be one page long."""
    with open("/sys/kernel/uevent_seqnum", "rb") as file:
        assert os.fstat(file.fileno()).st_size > len(file.read())
        file.seek(0)
        region = region_of(file)
        assert (region.kernel, region.end) == (None, None)


def test_all_holes(tmp_path: Path) -> None:
    """A sparse file has no blocks either, but its size is true."""
    with open(tmp_path / "sparse", "w+b") as file:
        file.truncate(5 * 2**30)
        region = region_of(file)
        assert (region.kernel, region.end) == (file, 5 * 2**30)


def test_bytes_io() -> None:
    file = io.BytesIO(DATA)
    file.seek(10)
    region = region_of(file)
    assert (region.kernel, region.start, region.end) == (None, 10, len(DATA))
    file.write(b"x")  # fails if a buffer is still exported
    file.seek(10**6)
    assert region_of(file).end == 10**6


def test_bytes_io_is_not_copied() -> None:
    """It has the same bytes object as the application, as long as nobody writes to it."""
    data = bytes(10_000_000)
    file = io.BytesIO(data)
    file.seek(1000)
    tracemalloc.start()
    try:
        region = region_of(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (region.start, region.end, file.tell()) == (1000, 10_000_000, 1000)
    assert peak < 1_000_000


def test_mmap(path: Path) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert region_of(mapped).filelike is mapped


def test_wrapper_and_range(path: Path) -> None:
    """Our wrapper knows which bytes it has. It also passes on the block size."""
    with open(path, "rb") as file:
        file.seek(100)
        region = region_of(FileWrapper(file, 4096))
        assert (region.kernel, region.start, region.block_size) == (file, 100, 4096)
        region = region_of(FileWrapper(file).app_iter_range(10, 50))
        assert (region.start, region.stop) == (110, 150)
        region = region_of(FileWrapper(file).app_iter_range(10, 10**9))
        assert (region.start, region.stop) == (110, len(DATA))


def test_a_close_of_its_own(tmp_path: Path) -> None:
    """It may need the thread of the application, unless a server's wrapper may call it."""

    class Sub(io.BytesIO):
        def close(self) -> None:
            super().close()

    class Same(io.BytesIO):
        pass

    (tmp_path / "data").write_bytes(DATA)
    with open(tmp_path / "data", "rb") as on_disk:
        for file in (io.BytesIO(DATA), Same(DATA), on_disk):
            assert not region_of(file).close_in_thread
    assert region_of(Sub(DATA)).close_in_thread
    assert not region_of(FileWrapper(Sub(DATA))).close_in_thread


def test_subclass_of_the_wrapper() -> None:
    """It is looked through, unless it may return other bytes. Then it is iterated."""

    class Sub(FileWrapper):
        pass

    class Upper(FileWrapper):
        def __next__(self) -> bytes:
            return super().__next__().upper()

    assert region_of(Sub(io.BytesIO(DATA))).end == len(DATA)
    assert recognise(Upper(io.BytesIO(DATA))) is None


class ZipStream(zipfile.ZipFile):
    """Like that of python-zipstream: iterating it gives the archive."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"archive"


def test_read_that_takes_no_number_of_bytes(path: Path) -> None:
    """Such an object is iterated, as without wsgifile."""
    with codecs.EncodedFile(open(path, "rb"), "utf-8", "latin-1") as recoder:
        assert len(recoder.read(200)) > 200
        assert recognise(recoder) is None
    with ZipStream(io.BytesIO(), "w") as archive:
        assert recognise(archive) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda path: open(path, encoding="latin-1"),
        lambda path: io.StringIO("text"),
        lambda path: tempfile.NamedTemporaryFile("w+"),
        lambda path: tempfile.SpooledTemporaryFile(mode="w+"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda file: file, FileWrapper])
def test_text_mode(path: Path, make: Callable[..., Any], wrap: Callable[[Any], object]) -> None:
    with make(path) as file, pytest.raises(TypeError, match='open in text mode.*"rb"'):
        recognise(wrap(file))


def test_text_mode_names_the_file(path: Path) -> None:
    with open(path, encoding="latin-1") as file, pytest.raises(TypeError, match="data.bin"):
        recognise(file)


class Proxy:
    """It says that its class is the file's, as proxies of wrapt and Django do."""

    def __init__(self, file: Any) -> None:
        self._file = file

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._file)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)


def test_text_mode_behind_a_proxy(path: Path) -> None:
    """It is found by the instance. Its type alone is no file."""
    with open(path, encoding="latin-1") as file, pytest.raises(TypeError, match="text mode"):
        recognise(Proxy(file))
    assert recognise(Proxy([b"x"])) is None
