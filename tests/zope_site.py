"""What is in the database of a Zope. Run as a script, it puts that there."""

from __future__ import annotations

import os
import sys
from typing import Any

import transaction
import Zope2
from OFS.SimpleItem import SimpleItem
from ZODB.blob import Blob
from Zope2.Startup.run import make_wsgi_app
from ZPublisher.Iterators import filestream_iterator


class Download(SimpleItem):
    """Gives a file on disk. Zope publishes methods that have a docstring."""

    # To everybody.
    index_html__roles__ = HEAD__roles__ = None

    def __init__(self, how: str, data: bytes) -> None:
        self.id, self.how, self.blob, self.size = how, how, Blob(data), len(data)

    def index_html(self, REQUEST: Any, RESPONSE: Any) -> Any:  # noqa: N803
        """GET"""
        RESPONSE.setHeader("Content-Type", "application/octet-stream")
        RESPONSE.setHeader("Content-Length", str(self.size))
        if self.how == "path":
            return filestream_iterator(os.environ["WSGIFILE_TEST_DATA"], "rb")
        if self.how == "committed":  # As plone.namedfile does it.
            return filestream_iterator(self.blob.committed(), "rb")
        return self.blob.open("r")

    def HEAD(self, REQUEST: Any, RESPONSE: Any) -> Any:  # noqa: N802, N803
        """HEAD"""
        return self.index_html(REQUEST, RESPONSE)


def fill(configuration: str, path: str) -> None:
    make_wsgi_app({}, configuration)
    with open(path, "rb") as file:
        data = file.read()
    root = Zope2.app()
    root.manage_addProduct["OFSP"].manage_addFile("file", data)
    root.manage_addProduct["OFSP"].manage_addImage("image", b"GIF89a" + data[:1000])
    for how in ("path", "committed", "opened"):
        root._setObject(how, Download(how, data))
    transaction.commit()
    root._p_jar.close()


if __name__ == "__main__":
    # By its name, as the server will import it.
    from zope_site import fill as fill_by_name

    fill_by_name(*sys.argv[1:])
