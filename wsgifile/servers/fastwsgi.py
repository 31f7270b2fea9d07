"""fastwsgi, which crashes some time after it has iterated into an error.

It leaves the error set in the interpreter, for whatever comes next to fall
over. An item that is no bytes is an error to it as well, and ends the
connection without that.
"""

from __future__ import annotations

import traceback
from types import FrameType
from typing import Any

from . import unknown

__all__ = ["Server"]


class Server(unknown.Server):
    """fastwsgi: start_response is of a type in C that is not made to be looked at."""

    def iterates(self, body: object, frame: FrameType | None) -> bool:
        """It is in C, below a function of its own in Python."""
        return frame is not None and frame.f_globals.get("__name__") == "fastwsgi"

    def abort(self, error: BaseException) -> Any:
        """None, which ends the connection."""
        traceback.print_exception(error, file=self.environ["wsgi.errors"])
