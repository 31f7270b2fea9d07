"""Files that are no file of the kernel: their length, and which parts of them can be had."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import mmap
import random
import tarfile
import zipfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from wsgifile import FileReadError, FileWrapper, FileWrapperMiddleware, sources
from wsgifile.recognise import recognise

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DATA = random.Random(5).randbytes(400_000)
SIZE = len(DATA)


def answer(file: Any, *fields: tuple[str, str], wanted: str = "") -> tuple[str, Any, bytes]:
    """The status, the header and the body."""
    told: list[Any] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response("200 OK", [("Content-Type", "video/mp4"), *fields])
        return FileWrapper(file)

    environ = {"REQUEST_METHOD": "GET"}
    if wanted:
        environ["HTTP_RANGE"] = wanted

    def start_response(*args: Any) -> Any:
        told.extend(args)
        return lambda data: None

    body: Any = FileWrapperMiddleware(app)(environ, start_response)
    try:
        return told[0], dict(told[1]), b"".join(body)
    finally:
        body.close()


SIZED = ("Content-Length", str(SIZE))


def gzip_file() -> Any:
    return gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(DATA, 1, mtime=0)))


def bz2_file() -> Any:
    return bz2.BZ2File(io.BytesIO(bz2.compress(DATA)))


def lzma_file() -> Any:
    return lzma.LZMAFile(io.BytesIO(lzma.compress(DATA, preset=0)))


class Own:
    """Somebody's own file."""

    def __init__(self, data: bytes = DATA) -> None:
        self.file = io.BytesIO(data)
        self.sought: list[int] = []

    def read(self, size: int) -> bytes:
        return self.file.read(size)

    def seek(self, position: int) -> int:
        self.sought.append(position)
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


@pytest.mark.parametrize("make", [gzip_file, bz2_file, lzma_file, Own])
def test_length_of_the_application(make: Callable[[], Any]) -> None:
    """With its Content-Length there are ranges, of anything that can be moved forwards."""
    status, header, body = answer(make(), SIZED)
    assert (status, body) == ("200 OK", DATA)
    assert header["Accept-Ranges"] == "bytes"
    for wanted, start, stop in [
        ("bytes=0-9", 0, 10),
        ("bytes=300000-300009", 300_000, 300_010),
        ("bytes=-10", SIZE - 10, SIZE),
    ]:
        status, header, body = answer(make(), SIZED, wanted=wanted)
        assert (status, body) == ("206 Partial Content", DATA[start:stop])
        assert header["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"


@pytest.mark.parametrize("make", [gzip_file, bz2_file, lzma_file, Own])
def test_no_length(make: Callable[[], Any]) -> None:
    """Nobody seeks to the end to find out."""
    file = make()
    status, header, body = answer(file, wanted="bytes=0-9")
    assert (status, body) == ("200 OK", DATA)
    assert not {"Accept-Ranges", "Content-Length"} & header.keys()


@pytest.mark.parametrize("make", [gzip_file, Own])
def test_forwards_only(make: Callable[[], Any]) -> None:
    """Several ranges, if they do not go back: each time, a decompressor would begin again."""
    status, _, body = answer(make(), SIZED, wanted="bytes=10-19,200000-200009")
    assert status == "206 Partial Content"
    assert body.count(DATA[200_000:200_010]) == body.count(DATA[10:20]) == 1
    status, _, body = answer(make(), SIZED, wanted="bytes=200000-200009,10-19")
    assert (status, body) == ("200 OK", DATA)


def test_nothing_behind_a_range_is_decompressed() -> None:
    file = gzip_file()
    told: list[int] = []
    file.close = lambda: told.append(file.tell())
    assert answer(file, SIZED, wanted="bytes=100-199")[2] == DATA[100:200]
    assert told == [200]


def test_begun() -> None:
    """Where it stands is where the response begins."""
    file = Own(b"head" + DATA)
    assert file.read(4) == b"head"
    assert answer(file, SIZED, wanted="bytes=1000-1999")[2] == DATA[1000:2000]
    assert file.sought == [1004]


class OverRead(Own):
    """Its read() gives more than it was asked for."""

    def read(self, size: int) -> bytes:
        return self.file.read(size + 1000)


def test_read_that_gives_more() -> None:
    _, _, body = answer(OverRead(), SIZED, wanted="bytes=10-19,200-209")
    assert body.count(DATA[200:210]) == body.count(DATA[10:20]) == 1


def test_shorter_than_the_application_says() -> None:
    """The client can tell, as without ranges."""
    with pytest.raises(Exception, match="ended after 0 of the 10 bytes"):
        answer(Own(b"short"), SIZED, wanted="bytes=1000-1009")


class NoSeek(Own):
    """Its seek() is there for something that asks whether there is one."""

    def seek(self, position: int) -> int:
        raise io.UnsupportedOperation("seek")


class IdleSeek(Own):
    """The same."""

    def seek(self, position: int) -> int:
        return 0


class NoPosition(Own):
    """The same, and so is its tell()."""

    seek = IdleSeek.seek

    def tell(self) -> Any:
        return None


class FirstPosition(Own):
    """The same."""

    seek = IdleSeek.seek

    def tell(self) -> int:
        return 0


@pytest.mark.parametrize("make", [NoSeek, IdleSeek, NoPosition, FirstPosition])
def test_seek_that_does_not_work(make: Callable[[], Any]) -> None:
    """Then it is read up to the range, as the whole file is without us."""
    _, header, body = answer(make(), SIZED, wanted="bytes=300000-300009")
    assert body == DATA[300_000:300_010]
    assert header["Content-Range"] == f"bytes 300000-300009/{SIZE}"


class HalfSeek(Own):
    """Goes elsewhere."""

    def seek(self, position: int) -> int:
        return self.file.seek(position // 2)


class FailingSeek(HalfSeek):
    """The same, and then it fails."""

    def seek(self, position: int) -> int:
        super().seek(position)
        raise OSError("seek")


@pytest.mark.parametrize("make", [HalfSeek, FailingSeek])
def test_seek_that_goes_elsewhere(make: Callable[[], Any]) -> None:
    with pytest.raises(FileReadError, match="seek"):
        answer(make(), SIZED, wanted="bytes=300000-300009")


class Passes:
    """Decrypts, and passes everything else on to what it reads."""

    def __init__(self) -> None:
        self.inner = io.BytesIO(b"salt" + DATA)
        self.inner.read(4)

    def read(self, size: int) -> bytes:
        return self.inner.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Derived(io.BytesIO):
    """The same, as a sub-class."""

    def __init__(self) -> None:
        super().__init__(DATA[::-1])

    def read(self, size: int | None = -1) -> bytes:
        return DATA[: size or 0] if super().read(size) else b""


class Counting(io.BytesIO):
    """Decrypts, and counts what it has given."""

    def __init__(self) -> None:
        super().__init__(b"salt" + DATA)
        super().read(4)
        self.given = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.given += len(data)
        return data

    def tell(self) -> int:
        return self.given


class Unseekable(Own):
    def seekable(self) -> bool:
        return False


class Fails(Own):
    def seekable(self) -> bool:
        raise ValueError("closed")


class PassesAll:
    """Passes everything on."""

    def __init__(self) -> None:
        self._inner = io.BytesIO(DATA)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Nothing:
    """Can do nothing else."""

    read = Own.read
    file = io.BytesIO()


def patched() -> Any:
    file: Any = Own()
    file.read = file.file.read
    return file


@pytest.mark.parametrize(
    "make", [Passes, PassesAll, Derived, Counting, Unseekable, Fails, Nothing, patched]
)
def test_positions_that_may_be_of_other_bytes(make: Callable[[], Any]) -> None:
    file = make()
    Nothing.file.seek(0)
    Nothing.file.write(DATA)
    Nothing.file.seek(0)
    status, header, body = answer(file, SIZED, wanted="bytes=0-9")
    assert status == "200 OK"
    assert "Accept-Ranges" not in header
    assert len(body) == SIZE or make is Derived


def test_end_of_what_is_moved() -> None:
    """As any file, it has no bytes behind its end."""
    fetched = sources.Fetched(None, SIZE, lambda start, stop: DATA[start:stop])
    fetched.seek(SIZE - 5)
    assert (fetched.read(10), fetched.read(10)) == (DATA[-5:], b"")
    for file in (Own(DATA), Unseekable(DATA)):
        forwards = sources.Forwards(file)
        forwards.seek(SIZE - 5)
        assert (forwards.read(10), forwards.read(10)) == (DATA[-5:], b"")
        forwards.seek(2 * SIZE)
        assert forwards.read(10) == b""


def zip_member(name: str) -> Any:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("stored", DATA)
        members.writestr("packed", DATA, zipfile.ZIP_DEFLATED)
    return zipfile.ZipFile(file).open(name)


def tar_member(mode: Any = "r") -> Any:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as members:
        info = tarfile.TarInfo("member")
        info.size = SIZE
        members.addfile(info, io.BytesIO(DATA))
    file.seek(0)
    archive = tarfile.open(fileobj=file, mode=mode)
    return archive.extractfile(next(iter(archive)))


def mapped() -> Any:
    memory = mmap.mmap(-1, SIZE)
    memory.write(DATA)
    memory.seek(0)
    return memory


@pytest.mark.parametrize(
    "make",
    [
        lambda: zip_member("stored"),
        lambda: zip_member("packed"),
        tar_member,
        lambda: tar_member("r|"),
        mapped,
    ],
    ids=["stored", "packed", "tar", "tar stream", "mmap"],
)
def test_archives_and_memory(make: Callable[[], Any]) -> None:
    """They know their length."""
    status, header, body = answer(make())
    assert (status, body) == ("200 OK", DATA)
    assert header["Content-Length"] == str(SIZE)
    assert answer(make(), wanted="bytes=-1000")[2] == DATA[-1000:]
    begun = make()
    begun.read(1000)
    _, header, body = answer(begun, wanted="bytes=0-999")
    assert body == DATA[1000:2000]
    assert header["Content-Range"] == f"bytes 0-999/{SIZE - 1000}"


def test_member_goes_forwards_only() -> None:
    assert answer(zip_member("packed"), wanted="bytes=1000-1009,0-9")[0] == "200 OK"
    assert answer(mapped(), wanted="bytes=1000-1009,0-9")[0] == "206 Partial Content"


def test_empty_member_is_read() -> None:
    """An archive may say so of a member that is not empty. Reading it tells."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("empty", b"")
        members.writestr("stored", DATA)
    archive = zipfile.ZipFile(file)
    assert answer(archive.open("empty"))[2] == b""
    archive.getinfo("stored").file_size = 0
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        answer(archive.open("stored"))


def rot(data: bytes) -> bytes:
    """Stands for a cipher."""
    return data.translate(bytes((byte + 1) % 256 for byte in range(256)))


def derived(base: type, method: str) -> type:
    """A sub-class that encrypts what it gives when it is iterated, by this method."""

    def items(self: Any, *args: Any, **options: Any) -> Any:
        given = getattr(super(kind, self), method)(*args, **options)
        if isinstance(given, int):  # Of mmap.
            given = bytes([given])
        return rot(given) if isinstance(given, bytes) else map(rot, given)

    kind = type("Encrypts", (base,), {method: items})
    return kind


def body_of_boto3(method: str) -> Any:
    response = pytest.importorskip("botocore.response")
    return derived(response.StreamingBody, method)(io.BytesIO(DATA), str(SIZE))


def response_of_urllib3(method: str) -> Any:
    urllib3 = pytest.importorskip("urllib3")
    headers = {"Content-Length": str(SIZE)}
    kind = derived(urllib3.HTTPResponse, method)
    return kind(io.BytesIO(DATA), headers=headers, preload_content=False)


def file_of_fsspec(method: str) -> Any:
    spec = pytest.importorskip("fsspec.spec")
    kind = derived(spec.AbstractBufferedFile, method)
    kind._fetch_range = lambda self, start, end: DATA[start:end]  # type: ignore[attr-defined]
    files = SimpleNamespace(protocol="ftp", invalidate_cache=lambda path: None, _parent=str)
    return kind(files, "path", size=SIZE)


def member_of_tar(method: str) -> Any:
    member = tar_member()
    member.__class__ = derived(tarfile.ExFileObject, method)
    return member


def member_of_zip(method: str) -> Any:
    member = zip_member("stored")
    member.__class__ = derived(zipfile.ZipExtFile, method)
    return member


def mapped_items(method: str) -> Any:
    memory = derived(mmap.mmap, method)(-1, SIZE)
    memory.write(DATA)
    return memory


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (body_of_boto3, "__iter__"),
        (body_of_boto3, "iter_chunks"),
        (response_of_urllib3, "__iter__"),
        (response_of_urllib3, "stream"),
        (file_of_fsspec, "__next__"),
        (file_of_fsspec, "readuntil"),
        (member_of_tar, "__next__"),
        (member_of_zip, "__next__"),
        (mapped_items, "__getitem__"),
    ],
)
def test_sub_class_that_is_iterated_and_not_read(make: Callable[[str], Any], method: str) -> None:
    """Its read() gives other bytes than the application means."""
    file = make(method)
    assert recognise(file) is None
    assert b"".join(file) == rot(DATA)


def test_instance_that_is_iterated_and_not_read() -> None:
    """The same for a method that was replaced on it."""
    body = pytest.importorskip("botocore.response").StreamingBody(io.BytesIO(DATA), SIZE)
    chunks = body.iter_chunks
    body.iter_chunks = lambda size: map(rot, chunks(size))
    assert recognise(body) is None
    assert b"".join(body) == rot(DATA)


def test_what_cannot_be_described() -> None:
    """It is read as it stands, and its error is its own."""
    memory = mapped()
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        answer(memory)
    member = zip_member("stored")
    member.tell = lambda: 5
    assert recognise(FileWrapper(member)).end is None  # type: ignore[union-attr]


def test_unseekable_part_of_a_body_from_a_store() -> None:
    """WebOb's range of a body that cannot tell its position, and other bodies."""
    response = pytest.importorskip("botocore.response")
    webob = pytest.importorskip("webob.response")
    body = response.StreamingBody(io.BytesIO(DATA), str(SIZE))
    ranged = webob.AppIterRange(FileWrapper(body), 10, 20)
    assert recognise(ranged) is None
    unknown = response.StreamingBody(io.BytesIO(DATA), None)
    assert answer(unknown)[2] == DATA
    negative = recognise(FileWrapper(response.StreamingBody(io.BytesIO(DATA), -1)))
    assert negative is not None
    assert negative.end is None
    with pytest.raises(FileReadError, match="is longer than it says"):
        answer(response.StreamingBody(io.BytesIO(DATA), SIZE - 1))
    part = response.StreamingBody(RawWithHeader({"Content-Range": "bytes 0-9/10"}), "10")
    assert "ETag" not in answer(part)[1]


class RawWithHeader(io.BytesIO):
    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__(DATA[:10])
        self.headers = {"ETag": '"x"', **headers}


def test_urllib3() -> None:
    """It may be read by any thread."""
    urllib3 = pytest.importorskip("urllib3")
    file = urllib3.HTTPResponse(io.BytesIO(DATA), preload_content=False)
    region = recognise(FileWrapper(file))
    assert region is not None
    assert region.source is not None
    assert region.source.read_ahead
    assert region.end is None
    assert answer(file)[2] == DATA
    assert recognise(urllib3.HTTPResponse(io.BytesIO(DATA), preload_content=False)) is None


def test_length_of_urllib3() -> None:
    """It is what the server says, unless it is of compressed bytes, or some have been read."""
    urllib3 = pytest.importorskip("urllib3")

    def response(data: bytes = DATA, **fields: str) -> Any:
        headers = {"Content-Length": str(len(data)), **fields}
        return urllib3.HTTPResponse(io.BytesIO(data), headers=headers, preload_content=False)

    assert answer(response())[1]["Content-Length"] == str(SIZE)
    status, headers, body = answer(response(), wanted="bytes=100-199")
    assert (status, headers["Content-Range"]) == (
        "206 Partial Content",
        f"bytes 100-199/{SIZE}",
    )
    assert body == DATA[100:200]
    iterated = recognise(response())
    assert iterated is not None
    assert iterated.end == SIZE
    packed = gzip.compress(DATA, 1, mtime=0)
    status, headers, body = answer(response(packed, **{"Content-Encoding": "gzip"}))
    assert ("Content-Length" in headers, body) == (False, DATA)
    begun = response()
    assert begun.read(10) == DATA[:10]
    assert answer(begun)[2] == DATA[10:]


@pytest.mark.parametrize(
    ("value", "etag"),
    [
        ('"quoted"', '"quoted"'),
        ('W/"weak"', 'W/"weak"'),
        ("CKih16GjycICEAE=", '"CKih16GjycICEAE="'),
        ('odd"one', None),
        ("", None),
        (None, None),
        (b"bytes", None),
    ],
)
def test_etags(value: Any, etag: str | None) -> None:
    """Of S3, Azure and Google, and what cannot stand in a header."""
    assert sources._etag(value) == etag


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (datetime(2026, 1, 2, tzinfo=timezone.utc), 1_767_312_000),
        ("Fri, 02 Jan 2026 00:00:00 GMT", 1_767_312_000),
        (datetime(2026, 1, 2), None),
        ("yesterday", None),
        (None, None),
    ],
)
def test_dates(value: Any, seconds: int | None) -> None:
    expected = None if seconds is None else seconds * 10**9
    assert sources._nanoseconds(value) == expected


def test_fsspec_of_one_connection() -> None:
    """A file system that does not ask in a thread of its own is not read by others."""
    spec = pytest.importorskip("fsspec.spec")
    kind = type(
        "File",
        (spec.AbstractBufferedFile,),
        {"_fetch_range": lambda self, start, end: DATA[start:end]},
    )
    files = SimpleNamespace(
        protocol="ftp", async_impl=False, invalidate_cache=lambda path: None, _parent=str
    )
    file = kind(files, "path", size=SIZE)
    region = recognise(file)
    assert region is not None
    assert region.source is not None
    assert region.source.read_ahead == 0
    assert answer(file, wanted="bytes=-10")[2] == DATA[-10:]
    for size in (None, -1, True, 1.5):
        file.size = size
        assert recognise(file).end is None  # type: ignore[union-attr]
    written = kind(files, "path", mode="wb")
    assert recognise(written).end is None  # type: ignore[union-attr]
    written.closed = True


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc")
def test_file_of_the_kernel_without_a_length() -> None:
    """What the kernel makes up at each read has no parts."""
    size = len(Path("/proc/version").read_bytes())
    with open("/proc/version", "rb") as file:
        status, header, body = answer(file, ("Content-Length", str(size)), wanted="bytes=0-9")
    assert (status, len(body)) == ("200 OK", size)
    assert "Accept-Ranges" not in header
