"""ReadAhead: blocks are read while the client is still taking earlier ones."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsgifile import FileWrapperMiddleware, read_ahead
from wsgifile.blocks import BlockReader, FileLike, FileReadError
from wsgifile.body import Body
from wsgifile.read_ahead import FIRST, ReadAhead
from wsgifile.threads import Pool

DATA = bytes(range(256)) * 4096
BLOCK = 65536


class Source:
    """A file whose reads each wait for a permit in let, and which records its calls."""

    def __init__(self, data: bytes = DATA, error: Exception | None = None) -> None:
        self.file = io.BytesIO(data)
        self.error = error
        self.sizes: list[int] = []
        self.threads: list[threading.Thread] = []
        self.closes: list[threading.Thread] = []
        self.let = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def read(self, size: int) -> bytes:
        self.sizes.append(size)
        self.threads.append(threading.current_thread())
        self.begun.release()
        assert self.let.acquire(timeout=10)
        data = self.file.read(size)
        if not data and self.error is not None:
            raise self.error
        return data

    def close(self) -> None:
        self.closes.append(threading.current_thread())

    def open_wide(self) -> None:
        self.let.release(1000)


def ahead(source: FileLike, depth: int = 4, count: int | None = None) -> ReadAhead:
    return ReadAhead(BlockReader(source, 0, count), depth, BLOCK)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition has not come true"
        time.sleep(0.001)


def rest(blocks: ReadAhead, size: int = BLOCK) -> bytes:
    return b"".join(iter(lambda: blocks.next_block(size), b""))


def test_all_bytes_in_order() -> None:
    source = Source()
    source.open_wide()
    assert rest(ahead(source)) == DATA


def test_nothing_before_it_is_asked_for() -> None:
    source = Source()
    ahead(source)
    time.sleep(0.02)
    assert source.sizes == []


def test_first_block_is_small_and_later_ones_grow() -> None:
    """The thread that wants the first block reads it, and needs only one read for it."""
    source = Source()
    source.open_wide()
    blocks = ahead(source)
    assert blocks.next_block(BLOCK) == DATA[:FIRST]
    assert source.threads[0] is threading.current_thread()
    assert rest(blocks) == DATA[FIRST:]
    assert source.sizes[:5] == [FIRST, 2 * FIRST, BLOCK, BLOCK, BLOCK]


def test_large_blocks_grow_only_if_the_client_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow client does not take the memory of the largest."""
    monkeypatch.setattr(read_ahead, "FIRST_OF_STORE", 4 * FIRST)
    source = Source()
    source.open_wide()
    blocks = ReadAhead(BlockReader(source, 0, None), 1, 16 * FIRST)
    for _ in range(5):
        blocks.next_block(BLOCK)
        wait_until(lambda: blocks._ready)
    assert source.sizes[:6] == [FIRST, 2 * FIRST, 4 * FIRST, 4 * FIRST, 4 * FIRST, 4 * FIRST]
    source = Source()
    blocks = ReadAhead(BlockReader(source, 0, None), 1, 16 * FIRST)
    for size in (1, 2, 4, 8, 16, 16):
        ready = threading.Event()
        assert blocks.poll(ready.set) is None
        source.let.release()
        assert ready.wait(10)
        block = blocks.poll(ready.set)
        assert block is not None
        assert len(block) == size * FIRST
    source.open_wide()


def test_poll() -> None:
    """It never waits. What it is given is called once, when there is something or the end."""
    source = Source(DATA[:FIRST])
    blocks = ahead(source)
    called: list[int] = []
    assert blocks.poll(lambda: called.append(1)) is None
    assert blocks.poll(lambda: called.append(2)) is None
    source.let.release()
    wait_until(lambda: called)
    assert blocks.poll(lambda: called.append(3)) == DATA[:FIRST]
    assert blocks.poll(lambda: called.append(4)) is None
    source.open_wide()
    wait_until(lambda: len(called) == 2)
    assert blocks.poll(lambda: called.append(5)) == b""
    assert called == [2, 4]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_poll_keeps_to_the_depth(depth: int) -> None:
    """The block that the caller has counts, unless nothing would be read ahead then."""
    source = Source()
    source.open_wide()
    blocks = ahead(source, depth)
    blocks.give_whole_blocks()
    assert blocks.next_block(BLOCK)
    for reads in range(3):
        wait_until(lambda: len(blocks._ready) == max(1, depth - 1) and blocks._reading is None)
        assert len(source.sizes) == reads + 1 + max(1, depth - 1)
        assert blocks.poll(lambda: None)


def test_poll_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "submit", lambda self, job: False)
    source = Source()
    source.open_wide()
    blocks = ahead(source)
    assert b"".join(iter(lambda: blocks.poll(lambda: None) or b"", b"")) == DATA
    assert set(source.threads) == {threading.current_thread()}


def test_no_further_ahead_than_asked_for() -> None:
    """No more than depth blocks are read ahead, so a slow client takes no more memory."""
    source = Source()
    source.open_wide()
    blocks = ahead(source, depth=3)
    blocks.next_block(BLOCK)
    wait_until(lambda: len(source.sizes) == 4)
    time.sleep(0.05)
    assert len(source.sizes) == 4
    assert blocks.next_block(BLOCK) == DATA[FIRST : 3 * FIRST]
    wait_until(lambda: len(source.sizes) == 5)


def test_smaller_pieces() -> None:
    """A caller, such as uWSGI, may ask for fewer bytes than a block has."""
    source = Source()
    source.open_wide()
    assert rest(ahead(source), 1000) == DATA


def test_a_block_as_soon_as_it_is_there() -> None:
    """A block is returned as soon as it is there, not only when the next one is."""
    source = Source()
    source.let.release(2)
    blocks = ahead(source)
    assert len(blocks.next_block(BLOCK)) == FIRST
    assert len(blocks.next_block(BLOCK)) == 2 * FIRST
    wait_until(lambda: len(source.sizes) == 3)
    source.open_wide()
    rest(blocks)


@pytest.mark.parametrize("error", [ValueError("the source has gone"), OSError("unplugged")])
def test_an_error_comes_behind_the_bytes_before_it(error: Exception) -> None:
    source = Source(DATA[:100_000], error)
    source.open_wide()
    blocks = ahead(source)
    got = b""
    expected = FileReadError if isinstance(error, OSError) else ValueError
    while len(got) < 100_000:
        got += blocks.next_block(BLOCK)
    assert got == DATA[:100_000]
    with pytest.raises(expected, match=str(error)):
        blocks.next_block(BLOCK)
    assert blocks.next_block(BLOCK) == b""


def test_an_error_that_is_false() -> None:
    """An error whose truth value is false is not taken for the end of the file."""

    class EmptyError(Exception):
        def __len__(self) -> int:
            return 0

    source = Source(b"x", EmptyError("nothing"))
    source.open_wide()
    blocks = ahead(source)
    assert blocks.next_block(BLOCK) == b"x"
    with pytest.raises(EmptyError):
        blocks.next_block(BLOCK)


def test_an_error_keeps_nothing_alive() -> None:
    """An error leaves no cycle, so that a server which only drops the body closes the file."""

    class Gone:
        def read(self, size: int) -> bytes:
            raise ValueError("the source has gone")

    blocks = ahead(Gone())
    gone = weakref.ref(blocks)
    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            blocks.next_block(BLOCK)
        del blocks
        assert gone() is None
    finally:
        gc.enable()


def test_nothing_is_read_behind_the_end() -> None:
    source = Source()
    source.open_wide()
    blocks = ahead(source, count=FIRST + 10)
    assert rest(blocks) == DATA[: FIRST + 10]
    assert source.sizes == [FIRST, 10]


def test_close_while_nothing_is_read() -> None:
    source = Source()
    blocks = ahead(source)
    blocks.close(source.close)
    blocks.close(source.close)
    assert source.closes == [threading.current_thread()]
    assert blocks.next_block(BLOCK) == b""


def test_close_while_it_is_read() -> None:
    """The thread that is reading calls close() after the read, and nobody waits for that."""
    source = Source()
    source.let.release()
    blocks = ahead(source)
    blocks.next_block(BLOCK)
    wait_until(lambda: len(source.sizes) == 2)
    blocks.close(source.close)
    blocks.close(source.close)
    assert source.closes == []
    source.open_wide()
    wait_until(lambda: source.closes)
    time.sleep(0.02)
    assert source.closes == [source.threads[1]] != [threading.current_thread()]
    assert len(source.sizes) == 2
    assert blocks.next_block(BLOCK) == b""


def test_close_by_this_thread() -> None:
    """A close() that depends on the thread waits for the read, and runs in this thread."""
    source = Source()
    source.let.release()
    blocks = ahead(source)
    blocks.next_block(BLOCK)
    wait_until(lambda: len(source.sizes) == 2)
    threading.Timer(0.05, source.open_wide).start()
    blocks.close(source.close, here=True)
    assert source.closes == [threading.current_thread()]


def test_close_by_the_thread_that_reads() -> None:
    """The thread that reads does not wait for itself, if the garbage collector closes there."""

    class Closes(Source):
        def read(self, size: int) -> bytes:
            data = super().read(size)
            if len(self.sizes) == 2:
                blocks.close(self.close, here=True)
            return data

    source = Closes()
    source.open_wide()
    blocks = ahead(source)
    blocks.next_block(BLOCK)
    wait_until(lambda: source.closes)
    assert source.closes == [source.threads[1]]


def test_close_fails_in_the_thread_that_reads(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    source.let.release()
    blocks = ahead(source)
    blocks.next_block(BLOCK)
    wait_until(lambda: len(source.sizes) == 2)

    def close() -> None:
        raise KeyError("the lock")

    blocks.close(close)
    source.open_wide()
    wait_until(lambda: "a job of the pool failed" in caplog.text)
    assert "the lock" in caplog.text


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    pool = Pool(2)
    monkeypatch.setattr(read_ahead, "pool", lambda purpose: pool)
    return pool


def test_sources_that_hang_stop_no_others(small_pool: Pool) -> None:
    """If all threads of the pool hang, the thread that needs a block reads it itself."""
    hanging = [Source() for _ in range(3)]
    for source in hanging:
        source.let.release()
        ahead_of_it = ahead(source)
        ahead_of_it.next_block(BLOCK)
    wait_until(lambda: sum(len(source.sizes) for source in hanging) == 5)
    source = Source()
    source.open_wide()
    assert rest(ahead(source)) == DATA
    assert set(source.threads) == {threading.current_thread()}
    for source in hanging:
        source.open_wide()


def test_jobs_do_not_pile_up(small_pool: Pool) -> None:
    """A job that no thread has taken stays in the queue, and no second one is added."""
    let = threading.Event()
    for _ in range(2):
        small_pool.submit(lambda: let.wait(10))
    source = Source()
    source.open_wide()
    blocks = ahead(source)
    assert rest(blocks, 1000) == DATA
    # Only this source's jobs count: sources of earlier tests may still use the pool.
    assert list(small_pool._jobs).count(blocks._work) <= 1
    let.set()


def test_many_downloads_in_few_threads(small_pool: Pool) -> None:
    sources = [Source() for _ in range(30)]
    for source in sources:
        source.open_wide()
    got = [b""] * len(sources)

    def download(number: int) -> None:
        got[number] = rest(ahead(sources[number]))

    clients = [threading.Thread(target=download, args=[n]) for n in range(len(sources))]
    for client in clients:
        client.start()
    for client in clients:
        client.join(20)
    assert all(data == DATA for data in got)
    readers = {thread for source in sources for thread in source.threads} - set(clients)
    assert len(readers) <= 2


def respond(app_iter: Any, **environ: str) -> Any:
    app = FileWrapperMiddleware(
        lambda environ, start_response: (start_response("200 OK", []), app_iter)[1],
        block_size=BLOCK,
        read_ahead=2,
    )
    return app(
        {"REQUEST_METHOD": "GET", "wsgi.errors": io.StringIO(), **environ}, lambda *args: print
    )


def test_of_a_response() -> None:
    source = Source()
    source.open_wide()
    body = respond(source)
    assert isinstance(body.blocks, ReadAhead)
    assert b"".join(body) == DATA
    body.close()
    assert len(source.closes) == 1


def test_a_response_that_the_server_drops() -> None:
    """If the server drops the body during a read, the reading thread closes the file."""
    source = Source()
    source.let.release()
    body = respond(source)
    next(body)
    wait_until(lambda: len(source.sizes) == 2)
    del body
    assert source.closes == []
    source.open_wide()
    wait_until(lambda: source.closes)


@pytest.mark.parametrize("kind", ["disk", "memory", "head"])
def test_not_for_these(tmp_path: Path, kind: str) -> None:
    """Nothing is read ahead of files on disk or in memory, or for HEAD."""
    (tmp_path / "file").write_bytes(DATA)
    method = "HEAD" if kind == "head" else "GET"
    kinds: dict[str, Callable[[], Any]] = {
        "disk": lambda: open(tmp_path / "file", "rb"),
        "memory": lambda: io.BytesIO(DATA),
        "head": Source,
    }
    body = respond(kinds[kind](), REQUEST_METHOD=method)
    assert isinstance(body, Body)
    assert not isinstance(body.blocks, ReadAhead)
    body.close()


@pytest.mark.parametrize("read_ahead", [0, 2])
def test_a_pipe_trickles(read_ahead: int) -> None:
    """What a pipe has is sent at once; nobody waits until a block is full."""
    read_end, write_end = os.pipe()
    app = FileWrapperMiddleware(
        lambda environ, start_response: (start_response("200 OK", []), open(read_end, "rb"))[1],
        read_ahead=read_ahead,
    )
    body: Any = app({"REQUEST_METHOD": "GET"}, lambda *args: print)
    blocks = iter(body)
    for data in (b"one", b"two"):
        os.write(write_end, data)
        assert next(blocks) == data
    os.close(write_end)
    assert list(blocks) == []
    body.close()


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (True, TypeError), ("4", TypeError)]
)
def test_option(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="read_ahead must be"):
        FileWrapperMiddleware(lambda environ, start_response: [], read_ahead=value)
