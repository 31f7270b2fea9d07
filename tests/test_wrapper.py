"""FileWrapper: the iterable of PEP 3333, and the read loop."""

from __future__ import annotations

import gzip
import io
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st
from sources import ENDINGS, Scripted, ScriptedBuffer

from wsgifile import FileWrapper
from wsgifile.blocks import DEFAULT_BLOCK_SIZE, BlockReader, ShortFileError

pytestmark = pytest.mark.quick

DATA = bytes(range(256)) * 4096


class Recording:
    """Has only a read(), and remembers the sizes of the calls."""

    def __init__(self, data: bytes) -> None:
        self.inner = io.BytesIO(data)
        self.sizes: list[int] = []

    def read(self, size: int) -> bytes:
        self.sizes.append(size)
        return self.inner.read(size)


def test_iterates_in_blocks() -> None:
    """PEP 3333: file_wrapper(filelike, block_size) takes both by position, and is iterable."""
    file = Recording(DATA)
    wrapper = FileWrapper(file, 300_000)
    assert iter(wrapper) is wrapper
    assert b"".join(wrapper) == DATA
    assert set(file.sizes) == {300_000}


def test_block_size_is_a_minimum() -> None:
    """With the 4096 bytes that Django asks for, a file would cost much more CPU time."""
    file = Recording(DATA)
    assert b"".join(FileWrapper(file, 4096)) == DATA
    assert set(file.sizes) == {DEFAULT_BLOCK_SIZE}


@pytest.mark.parametrize("block_size", [0, -1])
def test_block_size_too_small(block_size: int) -> None:
    with pytest.raises(ValueError, match="block_size must be at least 1, not"):
        FileWrapper(io.BytesIO(), block_size)


@pytest.mark.parametrize("block_size", ["4096", 4096.0, None, True])
def test_block_size_no_int(block_size: Any) -> None:
    with pytest.raises(TypeError, match="block_size must be an int"):
        FileWrapper(io.BytesIO(), block_size)


@pytest.mark.parametrize("filelike", [None, [b"x"], object()])
def test_needs_read(filelike: Any) -> None:
    with pytest.raises(TypeError, match=r"must have a read\(\) method"):
        FileWrapper(filelike)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ("text", TypeError, 'returned str, not bytes: open the file with mode "rb"'),
        (None, TypeError, "returned None, not bytes: a non-blocking file"),
        (7, TypeError, "returned int, not bytes"),
    ],
)
def test_wrong_read(returned: Any, error: type[Exception], message: str) -> None:
    """If read() returns something wrong, the error names the file."""

    class Wrong:
        name = "wrong.bin"

        def read(self, size: int) -> Any:
            return returned

    with pytest.raises(error, match="wrong.bin.*" + message):
        next(FileWrapper(Wrong()))


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_bytes(kind: Callable[[bytes], Any]) -> None:
    """Servers insist on bytes, but many readers return another kind of buffer."""

    class Buffers(Recording):
        def read(self, size: int) -> Any:
            return kind(super().read(size))

    blocks = list(FileWrapper(Buffers(DATA)))
    assert {type(block) for block in blocks} == {bytes}
    assert b"".join(blocks) == DATA


class Inverted(io.BytesIO):
    """Its read() returns other bytes. Its inherited read1() does not."""

    def read(self, size: int | None = -1) -> bytes:
        return bytes(255 - byte for byte in super().read(size))


class InvertedTwice(Inverted):
    def read1(self, size: int | None = -1) -> bytes:
        return super().read(size)


@pytest.mark.parametrize("kind", [Inverted, InvertedTwice])
def test_read1_of_a_sub_class(kind: type[Inverted]) -> None:
    """It is used only if no sub-class has replaced read() alone."""
    assert b"".join(FileWrapper(kind(DATA))) == bytes(255 - byte for byte in DATA)


def test_read1_and_a_read_of_the_instance() -> None:
    file: Any = Inverted(DATA)
    file.read = lambda size: super(Inverted, file).read(size)
    assert b"".join(FileWrapper(file)) == DATA


def test_a_source_that_will_not_wait() -> None:
    """Its read1() returns b"", as at the end. To believe that would cut the body short."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    with open(read_end, "rb") as source, open(write_end, "wb", buffering=0) as sink:
        sink.write(b"some")
        blocks = FileWrapper(source)
        assert next(blocks) == b"some"
        with pytest.raises(TypeError, match="a non-blocking file that has no data yet"):
            next(blocks)


def test_read1_of_gzip() -> None:
    """A piece that is there comes at once, not only when a block is full."""
    read_end, write_end = os.pipe()
    # Unbuffered, because gzip asks for 128 KiB at once since Python 3.12.
    with (
        open(read_end, "rb", buffering=0) as source,
        open(write_end, "wb", buffering=0) as sink,
    ):
        sink.write(gzip.compress(random.Random(1).randbytes(200_000))[:50_000])
        with gzip.open(source) as file:
            assert next(FileWrapper(file))


def test_close_closes_the_file() -> None:
    file = io.BytesIO()
    FileWrapper(file).close()
    assert file.closed


@pytest.mark.parametrize("close", [False, None])
def test_close_that_is_no_method(close: Any) -> None:
    """Some filelikes have ``close = False``."""
    file: Any = Recording(b"")
    file.close = close
    FileWrapper(file).close()


def test_seek_and_tell_are_the_files() -> None:
    wrapper = FileWrapper(io.BytesIO(DATA))
    assert wrapper.seekable()
    wrapper.seek(len(DATA) - 3)
    assert wrapper.tell() == len(DATA) - 3
    assert b"".join(wrapper) == DATA[-3:]


@pytest.mark.parametrize("name", ["seek", "tell", "seekable", "nonsense"])
def test_no_seek_without_the_files(name: str) -> None:
    """Frameworks check with hasattr()."""
    assert not hasattr(FileWrapper(Recording(DATA)), name)


def test_pipe_trickles() -> None:
    """What is there comes at once. Nobody waits for a full block."""
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as file, open(write_end, "wb", buffering=0) as writer:
        wrapper = FileWrapper(file)
        writer.write(b"first")
        result: list[bytes] = []
        thread = threading.Thread(target=lambda: result.append(next(wrapper)), daemon=True)
        thread.start()
        thread.join(10)
        assert result == [b"first"]


def test_read_of_the_instance_is_obeyed() -> None:
    """read1() replaces read() only if the instance has no read() of its own."""
    file: Any
    with open(__file__, "rb") as file:
        file.read = io.BytesIO(DATA).read
        assert b"".join(FileWrapper(file)) == DATA


def test_range_does_not_move_the_file() -> None:
    """The file is not touched before the first block, which a HEAD never asks for."""
    file = io.BytesIO(DATA)
    file.seek(10)
    part = FileWrapper(file).app_iter_range(5, 20)
    assert part is not None
    assert file.tell() == 10
    assert b"".join(part) == DATA[15:30]
    assert not hasattr(part, "seek")


def test_range_without_seek() -> None:
    """WebOb sends the whole file then."""
    assert FileWrapper(Recording(DATA)).app_iter_range(5, 20) is None
    read_end, write_end = os.pipe()
    os.close(write_end)
    with open(read_end, "rb") as file:
        assert FileWrapper(file).app_iter_range(5, 20) is None


def test_range_of_gzip(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "x.gz", "wb") as file:
        file.write(DATA)
    with gzip.open(tmp_path / "x.gz") as file:
        part = FileWrapper(file).app_iter_range(1000, 500_000)
        assert part is not None
        assert b"".join(part) == DATA[1000:500_000]


def test_range_runs_short() -> None:
    """A range that the file does not have ends with an error."""
    part = FileWrapper(io.BytesIO(b"0123456789")).app_iter_range(5, 20)
    assert part is not None
    assert next(part) == b"56789"
    with pytest.raises(ShortFileError, match="after 5 of the 15 bytes") as caught:
        next(part)
    assert (caught.value.expected, caught.value.sent) == (15, 5)


@given(
    data=st.binary(max_size=200),
    ranges=st.lists(
        st.tuples(st.integers(0, 220), st.none() | st.integers(0, 220)), min_size=1, max_size=3
    ),
    block_size=st.integers(1, 50),
    position=st.integers(0, 30),
)
def test_ranges_of_ranges_are_slices(
    data: bytes, ranges: list[tuple[int, int | None]], block_size: int, position: int
) -> None:
    """app_iter_range() is slicing, even of what is a range already."""
    file = io.BytesIO(data)
    file.seek(position)
    expected = data[position:]
    part: Any = FileWrapper(file)
    for start, stop in ranges:
        part = part.app_iter_range(start, stop)
        expected = expected[start:stop]
    got = b""
    try:
        while block := part.reader.next_block(block_size):
            assert len(block) <= block_size
            got += block
    except ShortFileError:
        assert len(got) < part.reader.stop - part.reader.start
    assert got == expected


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    ending=st.sampled_from(sorted(ENDINGS)),
    source=st.sampled_from([Scripted, ScriptedBuffer]),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
    count=st.none() | st.integers(0, 200),
    asked=st.lists(st.none() | st.integers(1, 50), max_size=12),
)
def test_any_source(
    pieces: list[bytes],
    ending: str,
    source: type[Scripted],
    kind: type,
    count: int | None,
    asked: list[int | None],
) -> None:
    """Whatever the pieces and the sizes asked for (None: a large one): all bytes come, in order,
    up to the count. An error or a short file is never taken for the end."""
    data = b"".join(pieces)
    file = source(pieces, ending, kind)
    reader = BlockReader(file, 0, count)
    got, ended, failure = b"", False, None
    for size in asked:
        try:
            block = reader.next_block(DEFAULT_BLOCK_SIZE if size is None else size)
        except Exception as error:
            failure = error
            break
        assert type(block) is bytes
        assert size is None or len(block) <= size
        ended = not block
        if ended:
            break
        got += block
    assert data.startswith(got)
    assert count is None or len(got) <= count
    if ended:
        assert len(got) == (len(data) if count is None else count)
        assert count is not None or ENDINGS[ending][1] is None
    if failure is not None:
        assert got == data
        assert count is None or len(data) < count
        assert type(failure) is (ENDINGS[ending][1] or ShortFileError)


def test_read_that_no_class_has() -> None:
    """It forwards every attribute to the file."""

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            return getattr(file, name)

    file = io.BytesIO(DATA)
    assert b"".join(FileWrapper(Proxy())) == DATA
