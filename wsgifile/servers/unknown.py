"""A server that we do not know, or that a filter hides.

Its wrapper gets only a whole file on disk, from its beginning to its end, with a true
Content-Length. Everything else is what servers get wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from types import FrameType

from ..body import Body, calling_frame
from ..recognise import FileSlice
from ..registry import SKIPPED_WRAPPERS
from ..send import Send
from ..server import Server as Base
from ..transfer import Declined

__all__ = ["Server"]


class Server(Base):
    """The ``wsgi.file_wrapper`` of PEP 3333, and nothing past it."""

    def wrap(self, send: Send, file_slice: FileSlice) -> Iterable[bytes] | Declined:
        """The wrapper in the environ, unless we know that reading is better."""
        wrapper = self.environ.get("wsgi.file_wrapper")
        if wrapper is None:
            return Declined("the server has none")
        module, name = getattr(wrapper, "__module__", None), getattr(wrapper, "__name__", "")
        reason = SKIPPED_WRAPPERS.get((module, name))
        if reason is not None:
            return Declined(f"reading is better here: {reason}")
        file = file_slice.file
        if file_slice.start or file_slice.stop != os.fstat(file.fileno()).st_size:
            return Declined("an unknown wrapper gets whole files only")
        # Some wrappers go by the descriptor's own position. Seeking to the end first empties
        # the reader's buffer, so that the second seek() moves the descriptor.
        file.seek(0, os.SEEK_END)
        file.seek(0)
        body = WholeFile(send, self, file_slice)
        try:
            app_iter: Iterable[bytes] = wrapper(body, send.block_size)
        except BaseException:
            body.detach()
            raise
        return app_iter

    def failed(self) -> None:
        """End the connection, if it is Django's runserver that calls us through filters.

        It would keep the connection. Nothing in the environ tells that it is runserver.
        """
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_globals.get("__name__") == "wsgiref.handlers":
                request_handler = getattr(frame.f_locals.get("self"), "request_handler", None)
                if request_handler is not None:
                    request_handler.close_connection = True
            frame = frame.f_back

    @property
    def times_writes(self) -> bool:
        """It may be so if the server encrypts. Other sockets apply a timeout to each part."""
        return self.environ.get("wsgi.url_scheme") == "https"


class WholeFile(Body):
    """The file-like object that the wrapper gets."""

    sender = "wsgi.file_wrapper"
    sent: int | None

    def __init__(self, send: Send, server: Base, file_slice: FileSlice) -> None:
        super().__init__(send, server)
        self._file = file_slice.file

    def read(self, size: int = -1) -> bytes:
        """Up to size bytes; all the rest if size is negative."""
        return b"".join(self) if size < 0 else self.next_block(size, calling_frame())

    def detach(self) -> None:
        """Leave close() to the caller of the application."""
        self._app_iter = None

    def fileno(self) -> int:
        """The descriptor, which stands at the beginning as long as nothing was read."""
        self.sent = None
        return self._file.fileno()

    def tell(self) -> int:
        """The position in the file."""
        return self._file.tell()
