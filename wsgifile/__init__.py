"""WSGI middleware that sends files fast and byte-exact, and closes them.

The modules, in the order in which a response travels:

- ``middleware``: the WSGI call. It gives the application our ``wsgi.file_wrapper``, and takes
  what the application returns. ``options``: how it was configured.
- ``wrapper``: that file wrapper.
- ``recognise``: whether the response is a file, and whether its descriptor holds the same
  bytes. ``layers``: what frameworks and agents put around a file. ``sources``: what is known
  of files in object stores and archives. ``hidden``: a file in something that we do not know.
- ``plan``: the status, the header and the byte ranges to send, by what the client asked for.
- ``send``: what is to be sent, as a value.
- ``senders``: the server's own wrapper, then os.sendfile, then the read loop. ``body``: what
  they hand to the server. ``agents``: what monitoring agents have to see. ``offload``: leaving
  the file to a proxy, or to the store that has it.
- ``server``: the contract with a server. ``servers``: what we know of each one.
- ``client``: how long to wait for a slow one. ``background``: sending to it after that.
- ``sockets``, ``call_size``, ``page_cache``, ``threads``, ``read_ahead``: what the senders use.
- ``transfer``: how it ended.

The ground, which every module may use: ``blocks``, ``conditions``, ``ranges``, ``registry``,
``log``.

``paste``, the filter for PasteDeploy, and ``cli``, the command line that ``__main__`` starts,
use the modules above, which import neither. Importing ``wsgifile`` imports no server, and
needs nothing but the standard library.
"""

from .blocks import FileReadError, ShortFileError
from .middleware import FileWrapperMiddleware
from .offload import Redirect, XAccelRedirect, XSendfile
from .transfer import Transfer
from .wrapper import FileWrapper

__all__ = [
    "FileReadError",
    "FileWrapper",
    "FileWrapperMiddleware",
    "Redirect",
    "ShortFileError",
    "Transfer",
    "XAccelRedirect",
    "XSendfile",
    "__version__",
]

__version__ = "0.1.0"
