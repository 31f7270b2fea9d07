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

``paste`` and ``__main__`` are the two other doors: PasteDeploy and the command
line, which has ``directory`` and ``listing`` to serve, ``access_log``, and ``explain``.
Importing the package imports none of them, and no server.
"""

from .middleware import FileWrapperMiddleware
from .offload import XAccelRedirect, XSendfile
from .transfer import Transfer
from .wrapper import FileWrapper

__all__ = ["FileWrapper", "FileWrapperMiddleware", "Transfer", "XAccelRedirect", "XSendfile"]
