"""fastwsgi, which crashes some time after the body it iterates has raised an error.

It leaves the error set in the interpreter, and whatever runs next fails. A block that is
not bytes is an error to it as well, and ends the connection without a crash.
"""

from __future__ import annotations

import traceback
from types import FrameType
from typing import Any

from . import unknown

__all__ = ["Server"]


class Server(unknown.Server):
    """fastwsgi. Its start_response is of a type in C that crashes when it is looked at."""

    def is_iterating(self, body: object, frame: FrameType | None) -> bool:
        """It iterates in C, called by a Python function of its own."""
        return frame is not None and frame.f_globals.get("__name__") == "fastwsgi"

    def abort(self, error: BaseException) -> Any:
        """Return None, which ends the connection."""
        traceback.print_exception(error, file=self.environ["wsgi.errors"])
