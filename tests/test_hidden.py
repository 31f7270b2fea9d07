"""Files that something hides: found, and logged once for each type."""

from __future__ import annotations

import io
import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wsgifile import FileWrapper, FileWrapperMiddleware, hidden


class Opaque:
    """As an agent or a middleware has it."""

    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.inside)


def generator(inside: Any) -> Iterator[bytes]:
    yield from inside


def closure(inside: Any) -> Any:
    return Opaque(lambda: inside)


@pytest.mark.parametrize(
    "hide",
    [
        Opaque,
        generator,
        closure,
        lambda inside: Opaque(Opaque(inside)),
        lambda inside: map(bytes.upper, inside),
        lambda inside: itertools.chain([b"first"], inside),
    ],
)
def test_found(hide: Callable[[Any], Any]) -> None:
    assert hidden.hides_file(hide(FileWrapper(io.BytesIO(b"data"))))


@pytest.mark.parametrize(
    "app_iter",
    [
        Opaque([b"text"]),
        generator([b"text"]),
        itertools.chain([b"first"], io.BytesIO(b"no FileWrapper")),
        # A module has one among its variables, but this is no part of the response.
        Opaque(closure),
        Opaque(FileWrapper),
    ],
)
def test_not_found(app_iter: Any) -> None:
    assert not hidden.hides_file(app_iter)


def test_nothing_is_evaluated() -> None:
    """A lazy object may ask a database for what it stands for, and fail."""

    def evaluate(self: object) -> Any:
        raise RuntimeError("the database is down")

    lazy: Any = type("Lazy", (), {"__class__": property(evaluate)})
    assert not hidden.hides_file(Opaque(lazy()))
    assert hidden.hides_file(Opaque([lazy(), Opaque(FileWrapper(io.BytesIO(b"data")))]))


@pytest.mark.parametrize(
    "make", [list, tuple, deque, lambda things: Counter(dict(enumerate(things)))]
)
def test_not_among_an_applications_data(make: Callable[[Any], Any]) -> None:
    """Looking through a large cache would take seconds, while no other thread runs."""

    def look(count: int) -> bool:
        things: list[Any] = [[number] for number in range(count - 1)]
        return hidden.hides_file(Opaque(make([*things, FileWrapper(io.BytesIO(b"data"))])))

    assert look(100)
    assert not look(101)


NOT_OURS = FileWrapper(io.BytesIO(b"a variable of this module"))


def get(app: Any, environ: Any = None) -> bytes:
    app_iter = app({"REQUEST_METHOD": "GET", **(environ or {})}, lambda *args: lambda data: None)
    return b"".join(app_iter)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "wsgifile"]


@pytest.fixture(autouse=True)
def nothing_seen(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "wsgifile")
    monkeypatch.setattr(hidden, "_looks", Counter())


def app_with(hide: Callable[[Any], Any]) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return hide(environ["wsgi.file_wrapper"](io.BytesIO(b"data")))

    return FileWrapperMiddleware(app)


def test_logged_once_for_each_type(caplog: pytest.LogCaptureFixture) -> None:
    for hide in (Opaque, Opaque, generator, generator):
        assert get(app_with(hide)) == b"data"
    first, second = messages(caplog)
    assert first.startswith("a response of type test_hidden.Opaque hides a file, so ")
    assert second.startswith("a response of type generator (generator of ")
    assert "test_hidden.py) hides a file, so " in second


def test_not_logged_if_sent(caplog: pytest.LogCaptureFixture) -> None:
    """Nor if another FileWrapperMiddleware, nearer to the application, sends it."""
    app = app_with(lambda wrapper: wrapper)
    assert get(app) == get(FileWrapperMiddleware(lambda *args: Opaque(app(*args)))) == b"data"
    assert get(app_with(list)) == b"data"  # It has been read. It is not hidden.
    assert not any("hides" in message for message in messages(caplog))


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("GET", "204 No Content")],
)
def test_not_logged_without_a_body(
    caplog: pytest.LogCaptureFixture, method: str, status: str
) -> None:
    """Frameworks put nothing in the file's place then, and keep the file to close it."""

    class Nothing(Opaque):
        def __iter__(self) -> Iterator[bytes]:
            return iter(())

    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [])
        return Nothing(environ["wsgi.file_wrapper"](io.BytesIO(b"data")))

    assert get(FileWrapperMiddleware(app), {"REQUEST_METHOD": method}) == b""
    assert not messages(caplog)


def test_type_in_which_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not looked at for ever: while other threads make FileWrappers this costs time."""
    looks = []

    def hides_file(app_iter: Any) -> bool:
        looks.append(app_iter)
        return False

    monkeypatch.setattr(hidden, "hides_file", hides_file)
    for _ in range(20):
        get(app_with(lambda wrapper: Opaque([b"something else"])))
    assert len(looks) == 10


def test_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a request that makes no FileWrapper: these must cost nothing."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return Opaque([b"data"])

    def fail(app_iter: Any) -> bool:
        raise AssertionError(app_iter)

    monkeypatch.setattr(hidden, "hides_file", fail)
    assert get(FileWrapperMiddleware(app)) == b"data"
