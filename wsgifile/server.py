"""What senders may ask of a server. Each in ``servers`` is derived from this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CellType, FrameType
from typing import TYPE_CHECKING, Any

from .recognise import FileSlice
from .send import Send
from .sockets import no_delay
from .transfer import Declined

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Server", "closed_over"]


class Server:
    """What senders may ask of a server, for one request. These answers decline."""

    #: Whether its sockets wait with what is written for the client to acknowledge what
    #: was written before: up to 40 ms between the header and the end of a body. And then
    #: they make large packets, which is slow (see ``sockets``).
    nagle = False
    #: Where the server iterates: the beginning of the module's name, and the
    #: local variable that holds what the application returned.
    loop: tuple[str, str] | None = None

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self.environ = environ
        self.start_response: Any = start_response
        #: What start_response returned, once it was called.
        self.write: Callable[[bytes], object]

    @property
    def name(self) -> str:
        """For the log."""
        software = self.environ.get("SERVER_SOFTWARE")
        return str(software or type(self).__module__.rpartition(".")[2])

    def wrap(self, send: Send, what: FileSlice) -> Iterable[bytes] | Declined:
        """A body for what, which the server takes for its own ``wsgi.file_wrapper``."""
        return Declined("this server has none, or os.sendfile is faster")

    def socket(self) -> Any:
        """The client's socket, or Declined."""
        return Declined("the socket is not to be had: of this server, or behind a filter")

    def iterates(self, body: object, frame: FrameType | None) -> bool:
        """Whether it is the server itself that asks body for a block, from frame."""
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
        """Tell the server's access log of bytes that it has not seen."""

    def send_header(self, write: Callable[[bytes], object]) -> None:
        """Send the header of a response without a body, if the server does not do it well."""

    def send_blocks(self) -> None:
        """Get ready to send header and blocks, each of which is a write of its own."""
        if self.nagle:
            no_delay(self.socket())

    def end_unsized(self) -> None:
        """End a response of which the header does not tell where it ends."""

    def abort(self, error: BaseException) -> bytes:
        """Make error end the connection: raise it, or do what the server takes better."""
        raise error


def closed_over(function: Any, name: str) -> Any:
    """A variable of the function in which function is defined."""
    cell: CellType = function.__closure__[function.__code__.co_freevars.index(name)]
    return cell.cell_contents
