"""The contract with a server. Each file in ``servers`` derives from the class here."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from types import CellType, FrameType
from typing import TYPE_CHECKING, Any

from .background import Grace
from .client import Client
from .recognise import FileSlice
from .send import Send
from .sockets import can_sendfile, can_wait, is_standard, no_delay
from .transfer import Declined

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Server", "closed_over"]


class Server:
    """What senders may ask of a server, for one request. These defaults decline."""

    #: Whether a small write waits until the client has acknowledged the one before (Nagle's
    #: algorithm). Then up to 40 ms pass between the header and the end of a body.
    nagle = False
    #: Where the server iterates: the first part of the module's name, and the local variable
    #: that holds what the application returned.
    loop: tuple[str, str] | None = None
    #: The sender of a body that wrap() returns, as in :class:`~wsgifile.Transfer`.
    wrapped = "wsgi.file_wrapper"
    #: Whether that body reads the file if the kernel may not send it by itself.
    wrapper_reads = False
    #: Whether the connection has to end by a reset after an error.
    resets = False
    #: Whether the server changes the bytes, as a route of uWSGI that compresses. Then their
    #: number is not known here, and no part of them is a part of the file.
    alters_body = False

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.environ = environ
        self.start_response: Any = start_response
        #: PEP 3333's write(), for when the server iterates the body.
        self.write: Callable[[bytes], object]

    @property
    def name(self) -> str:
        """For the log."""
        software = self.environ.get("SERVER_SOFTWARE")
        return str(software or type(self).__module__.rpartition(".")[2])

    def wrap(self, send: Send, file_slice: FileSlice) -> Iterable[bytes] | Declined:
        """A body that the server sends as it would its own ``wsgi.file_wrapper``."""
        return Declined("the server has none, or os.sendfile is faster")

    def wrap_blocks(self, send: Send) -> Iterable[bytes] | Declined:
        """A body of what has to be read, which the server sends without holding the worker."""
        return Declined("the server has none")

    def keeps_connection(self, *, sized: bool) -> bool:
        """Whether the connection stays open after an error in the body.

        If so, the header has to say that the connection ends with the response.

        :param sized: whether Content-Length tells how many bytes will come.
        """
        return False

    def socket(self) -> Any:
        """The client's socket, or Declined."""
        return Declined("the socket of this server is not known, or a filter hides it")

    @property
    def times_writes(self) -> bool:
        """Whether each block has to reach the client within a timeout, however large it is.

        It is so if the socket encrypts. Other sockets apply the timeout to each part of it.
        """
        sock = self.socket()
        timeout = getattr(sock, "gettimeout", lambda: None)
        return bool(timeout()) and not can_sendfile(sock)

    def connection(self) -> Any:
        """The client's socket, whether os.sendfile may use it or not; or Declined."""
        return self.socket()

    def client(self, timeout: float) -> Client | None:
        """The client, if the thread at hand may wait for it.

        :param timeout: seconds that the client may take nothing.
        """
        sock = self.connection()
        # Windows has no poll().
        if not can_wait(sock) or not hasattr(select, "poll"):
            return None
        return Client(sock.fileno(), sock, timeout, self.alive, kept=self.expects_request())

    def expects_request(self) -> bool:
        """Whether the server keeps the connection for the next request, as far as is known."""
        return False

    def alive(self) -> None:
        """Tell the server that the worker only waits for a client."""

    def may_leave(self) -> Declined | None:
        """Whether the connection can be taken from the server; Declined if not."""
        return None if is_standard(self.connection()) else Declined("the server encrypts")

    def end_connection(self) -> None:
        """The connection was taken. The server must not expect another request on it."""

    def grace(self) -> Grace:
        """How long responses under way may take when the process ends. By default not at all."""
        return Grace(0.0)

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        """Whether the server itself, not a filter, asks body for a block from this frame."""
        if self.loop is None or frame is None:
            return False
        module, variable = self.loop
        name = frame.f_globals.get("__name__")
        return (
            isinstance(name, str)
            and name.startswith(module)
            and frame.f_locals.get(variable) is body
        )

    def count_sent(self, count: int) -> None:
        """Tell the server's access log of bytes that did not pass through the server."""

    def flush_header(self) -> None:
        """Send the header of a response without a body, if the server gets that wrong."""

    def prepare_to_send(self) -> None:
        """Called before the header and the first block, which are separate writes."""
        if self.nagle:
            no_delay(self.socket())

    def end_unsized(self) -> None:
        """End a response whose header does not tell its length."""

    def failed(self) -> None:
        """Called when the body has failed, also if a filter iterates it."""

    def abort(self, error: BaseException) -> bytes:
        """End the connection because of this error: raise it, or do what the server needs."""
        raise error


def closed_over(function: Any, name: str) -> Any:
    """The variable of this name that the nested function uses from the function around it."""
    cell: CellType = function.__closure__[function.__code__.co_freevars.index(name)]
    return cell.cell_contents
