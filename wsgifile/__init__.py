"""WSGI middleware that sends files fast, exactly, and closes them.

General layout, in the order in which a response travels:

- ``middleware``: the WSGI call. Gives the application our ``wsgi.file_wrapper``,
  and takes what it returns.
- ``wrapper``: that file wrapper, and with it the one read(size) loop.
- ``recognise``: is it a file, and do its descriptor's bytes mean the same? In
  ``layers`` what frameworks put around one.
- ``plan``: the header and the bytes that go out, by what the client asked for:
  ``conditions`` and ``ranges``.
- ``senders``: the server's own wrapper, then os.sendfile, then the read loop.
- ``servers``: what we know of each server, a small file each.
- ``offload``: leaving it to a proxy in front instead. ``transfer``: what became of it.

``paste``, the filter for PasteDeploy, and ``cli``, the command line that ``__main__`` starts,
use the modules above, which import neither. Importing ``wsgifile`` imports no server, and
needs nothing but the standard library.
"""

from .middleware import FileWrapperMiddleware
from .offload import XAccelRedirect, XSendfile
from .transfer import Transfer
from .wrapper import FileWrapper

__all__ = ["FileWrapper", "FileWrapperMiddleware", "Transfer", "XAccelRedirect", "XSendfile"]
