"""mod_wsgi, which runs applications in Apache or in daemons behind it.

Apache keeps the connection after an application's error, whether the body is complete or
not, and sends the next response in the place of the missing bytes. It ends the connection
after a response whose header says so, even if the application set that field.
"""

from __future__ import annotations

from . import unknown

__all__ = ["Hidden"]


class Hidden(unknown.Server):
    """mod_wsgi. Nothing past WSGI is used, so it does not matter whether a filter hides it."""

    @property
    def times_writes(self) -> bool:
        """Apache's timeout is for each part of a block."""
        return False

    def keeps_connection(self, *, sized: bool) -> bool:
        """It always does.

        But if a daemon's body has no length, the header cannot help. The client gets the last
        chunk even after an error, and takes the body for complete.
        """
        in_daemon = self.environ.get("mod_wsgi.process_group", "") != ""
        return sized or not in_daemon
