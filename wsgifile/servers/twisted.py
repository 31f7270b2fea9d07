"""Twisted's WSGIResource, which keeps in memory what a client has not taken.

It iterates in a thread of its pool, and its reactor sends. Nothing makes that thread wait for
the client. So the thread is done with a file on disk after the first block, and a
:class:`Producer` gives the reactor the other blocks as the client takes them. Any other body is
read by the application's thread, which then waits for the client in :class:`WaitingResponse`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..blocks import BlockReader, FileReadError
from ..body import Body
from ..log import logger
from ..page_cache import may_block
from ..recognise import FileSlice
from ..send import Send
from ..server import Server as Base
from ..threads import pool
from ..transfer import Declined

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Server"]

#: The connection ends if a client does not take one more block in this number of seconds.
#: Twisted by itself gives a client 75 seconds for all that it holds in memory.
_PATIENCE = 300.0


class Server(Base):
    """twisted.web.wsgi. Its start_response is a method of _WSGIResponse."""

    loop: tuple[str, str] | None = ("twisted.web.wsgi", "appIterator")
    wrapped = "read"
    wrapper_reads = True

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        super().__init__(environ, start_response)
        self._response = self.start_response.__self__
        self._response.__class__ = _waiting_class(
            type(self._response)  # type: ignore[arg-type]  # mypy takes types for unhashable.
        )

    def wrap(self, send: Send, file_slice: FileSlice) -> Body | Declined:
        """A body that the reactor can go on with.

        Other threads read and close it, so it declines if close() needs the application's, for
        a database connection or a session, and if a read may take long.
        """
        if send.region.close_in_thread:
            return Declined("close() has to run in the application's thread")
        if may_block(file_slice.file.fileno()):
            return Declined("reading from this file system may block a thread")
        return ProducedBody(send, self, self._response)


class WaitingResponse:
    """A _WSGIResponse whose thread waits until the transport has sent what it was given.

    It is a producer of Twisted's meanwhile. At most half of the pool's threads wait. When these
    are taken, it goes on as Twisted does, so that there is a thread for other requests.

    The methods below write() are called in the reactor's thread.
    """

    request: Any
    reactor: Any
    threadpool: Any
    started: bool
    _requestFinished: bool  # noqa: N815
    _sendResponseHeaders: Callable[[], None]  # noqa: N815

    _paused = _waits = False
    _failure: Exception | None = None

    def write(self, data: bytes) -> None:
        """Send data. The first call does not wait: the body may be over, or left to a Producer.

        Twisted's own waits for ever if the reactor is stopped meanwhile.
        """
        first, self.started = not self.started, True
        self._done = threading.Event()
        self.reactor.callFromThread(self._write, data, first)
        until = time.monotonic() + _PATIENCE
        while not (self._requestFinished or self._done.wait(1)):
            if time.monotonic() > until:
                break
        if not self._done.is_set():
            self.reactor.callFromThread(self._give_up)
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            # Its traceback refers to this frame, and to the file, which is closed when dropped.
            del failure

    def _write(self, data: bytes, first: bool) -> None:
        self._paused = False
        try:
            if first:
                self._sendResponseHeaders()
            elif self.request.channel is not None and self.request.producer is None:
                self.request.registerProducer(self, True)
            self.request.write(data)
        except Exception as error:
            self._failure = error
        waiting = _waiting.get(self.threadpool, 0)
        if self._paused and waiting < self.threadpool.max // 2:
            _waiting[self.threadpool] = waiting + 1
            self._waits = True
        else:
            self._go_on()

    def pauseProducing(self) -> None:  # noqa: N802
        """The transport holds enough."""
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        """The transport has sent what it held."""
        self.stopProducing()

    def stopProducing(self) -> None:  # noqa: N802
        """It need not wait any longer."""
        _waiting[self.threadpool] = _waiting.get(self.threadpool, 0) - self._waits
        self._waits = False
        self._go_on()

    def _give_up(self) -> None:
        _abort(self.request)
        self.stopProducing()

    def _go_on(self) -> None:
        if self.request.producer is self and self.request.channel is not None:
            self.request.unregisterProducer()
        self._done.set()


@lru_cache
def _waiting_class(kind: type) -> type:
    # Made when it is needed, so that this file is imported where Twisted is not installed.
    return type(kind.__name__, (WaitingResponse, kind), {})


#: How many threads wait, by Twisted's pool of threads.
_waiting: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def _abort(request: Any) -> None:
    with suppress(AttributeError):  # A stream of HTTP/2. Its connection has a time limit.
        request.transport.abortConnection()


class ProducedBody(Body):
    """Gives the first block to the server's thread, and the others to the reactor.

    If a filter iterates it, it is like any other Body.
    """

    sent: int
    blocks: BlockReader  # As it is one slice.

    def __init__(self, send: Send, server: Base, response: Any) -> None:
        super().__init__(send, server)
        self._response = response
        self._direct = self._handed_over = False

    def begin(self) -> None:
        """The server itself iterates."""
        super().begin()
        self._direct = True

    def read_block(self, size: int) -> bytes:
        """Up to size more bytes. For the server's thread it ends after the first block."""
        if not (self._direct and self.sent and self.blocks.remaining):
            return super().read_block(size)
        self._direct = False
        self._handed_over = True
        # The server's thread must not end the request, which goes on.
        self._response._requestFinished = True
        self._response.reactor.callFromThread(Producer(self, self._response).start)
        return b""

    def close(self) -> None:
        """The response is over, or the server's thread has left it to the reactor."""
        if self._handed_over:
            self._handed_over = False
        else:
            super().close()


class Producer:
    """The rest of a body, as one of Twisted's push producers.

    The reactor calls all methods in its own thread. Only _read() runs in another.
    """

    def __init__(self, body: ProducedBody, response: Any) -> None:
        self._body = body
        self._request = response.request
        self._reactor = response.reactor
        self._paused = self._reading = self._stopped = False
        #: A block that was read and not yet written; b"": there is none.
        self._block = b""

    def start(self) -> None:
        """Go on from where the server's thread has left."""
        self._timer = self._reactor.callLater(_PATIENCE, self._check, self._body.sent)
        if self._request.channel is None:  # The client has left.
            self.stopProducing()
            return
        self._request.notifyFinish().addErrback(self.stopProducing)
        self._request.registerProducer(self, True)
        self._go_on()

    def pauseProducing(self) -> None:  # noqa: N802
        """The transport holds enough."""
        self._paused = True

    def resumeProducing(self) -> None:  # noqa: N802
        """The transport has sent what it held."""
        self._paused = False
        self._go_on()

    def stopProducing(self, reason: object = None) -> None:  # noqa: N802
        """The connection has ended."""
        self._stopped = True
        if not self._reading:
            self._end()

    def _go_on(self) -> None:
        """Write the block that was read, and have the next one read meanwhile."""
        if self._block and not self._paused:
            block, self._block = self._block, b""
            self._body.sent += len(block)
            self._request.write(block)
        if self._reading or self._block or self._stopped:
            return
        if self._body.blocks.remaining:
            self._reading = True
            if not pool("disks").submit(self._read):
                self._read()
        elif not self._paused:
            self._request.unregisterProducer()
            self._request.finish()
            self._end()

    def _read(self) -> None:
        block, failure = b"", None
        try:
            block = self._body.read_block(self._body.send.block_size)
        except Exception as error:
            failure = error
        self._reactor.callFromThread(self._was_read, block, failure)

    def _was_read(self, block: bytes, failure: Exception | None) -> None:
        self._reading, self._block = False, block
        if self._stopped:
            self._end()
        elif failure is None:
            self._go_on()
        else:
            self._body.fail(failure)
            if not isinstance(failure, FileReadError):
                logger.error("a file cannot be sent", exc_info=failure)
            self._request.unregisterProducer()
            self._request.loseConnection()
            self._end()

    def _check(self, sent: int) -> None:
        if self._body.sent == sent and not self._reading:
            _abort(self._request)
        else:
            self._timer = self._reactor.callLater(_PATIENCE, self._check, self._body.sent)

    def _end(self) -> None:
        self._stopped = True
        if self._timer.active():
            self._timer.cancel()
        # The application's close() may take a while.
        if not pool("disks").submit(self._body.close):
            self._body.close()
