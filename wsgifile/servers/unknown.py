"""A server that we do not know, or do not see for a filter in between.

Its wrapper gets a whole file on disk, from the beginning to the end, of which
Content-Length tells the truth: what servers get wrong is everything else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..body import Body, caller
from ..recognise import FileSlice
from ..send import Send
from ..server import Server as Base
from ..transfer import Declined

__all__ = ["DECLINED", "Server"]

#: Wrappers that lose to the read loop, by module and name. A loop of small
#: reads; a slice of a file at most, sent to the end or by the process's only
#: thread; or good ones that are offered by the file here which knows the server.
DECLINED: set[tuple[str | None, str]] = {
    ("builtins", "FileWrapper"),  # bjoern, pyruvate
    ("gunicorn.http.wsgi", "FileWrapper"),
    ("mod_wsgi", "FileWrapper"),
    (None, "uwsgi_sendfile"),
    ("waitress.buffers", "ReadOnlyFileBasedBuffer"),
    ("werkzeug.wsgi", "FileWrapper"),
    ("wsgifile.wrapper", "FileWrapper"),
    ("wsgiref.util", "FileWrapper"),
}


class Server(Base):
    """The ``wsgi.file_wrapper`` of PEP 3333, and nothing past it."""

    def wrap(self, send: Send, what: FileSlice) -> Iterable[bytes] | Declined:
        """The wrapper of the environ, if it is one that we know no harm of."""
        wrapper = self.environ.get("wsgi.file_wrapper")
        origin = getattr(wrapper, "__module__", None), getattr(wrapper, "__name__", None)
        if wrapper is None:
            return Declined("the server has none")
        if origin in DECLINED:
            return Declined("it is slower than reading, or right only next to the server")
        fd = what.file.fileno()
        if what.offset or what.count != os.fstat(fd).st_size:
            return Declined("one that is not known gets whole files only")
        # Some go by the descriptor's own position. Leaving the reader's buffer
        # is what makes its seek() one of the descriptor.
        what.file.seek(0, os.SEEK_END)
        what.file.seek(0)
        file = File(send, self, what)
        try:
            app_iter: Iterable[bytes] = wrapper(file, send.block_size)
        except BaseException:
            file.detach()
            raise
        return app_iter


class File(Body):
    """What the wrapper gets: a file, of which only one slice is to be had."""

    sender = "wsgi.file_wrapper"
    sent: int | None

    def __init__(self, send: Send, server: Base, what: FileSlice) -> None:
        super().__init__(send, server)
        self._what = what

    def read(self, size: int = -1) -> bytes:
        """Up to size bytes, all there are if it is negative."""
        return b"".join(self) if size < 0 else self.next_block(size, caller())

    def detach(self) -> None:
        """Leave close() to who has called the application."""
        self._app_iter = None

    def fileno(self) -> int:
        """The descriptor, which stands at the beginning as long as nothing is read."""
        self.sent = None
        return self._what.file.fileno()

    def tell(self) -> int:
        """The position in the file."""
        return self._what.file.tell()
