"""Which files a page can show, by their names."""

from __future__ import annotations

import mimetypes
import os

__all__ = ["ending", "kind_of_media"]


def kind_of_media(name: str) -> str | None:
    """``"audio"``, ``"image"`` or ``"video"``; None: a page cannot show it."""
    # guess_type() takes a URL. This is the name of a file, even if it begins with "data:".
    guessed, encoding = mimetypes.guess_type(f"./{os.path.basename(name)}")
    # Most files that end with .ts are programs. No browser plays the others.
    if guessed is None or encoding is not None or ending(name) == ".ts":
        return None
    kind = guessed.partition("/")[0]
    return kind if kind in ("audio", "image", "video") else None


def ending(name: str) -> str:
    """The end of the name, with its dot, in lower case."""
    return os.path.splitext(name)[1].lower()
