"""The code and commands in the pages of the documentation, for tests that run them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

__all__ = ["DOCS", "ROOT", "blocks", "commands", "sections"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: A block of code. Its caption, if it has one, is the name of the file to save it in.
BLOCK = re.compile(
    r"^( *)\.\. code-block:: (\w+)\n(?:\1   :caption: (.+)\n)?\n((?:\1   .*\n|\n)+)", re.MULTILINE
)


def blocks(text: str, language: str = "python") -> Iterator[tuple[str, str]]:
    """The blocks in this language: each one's file name, or "", and its code."""
    for _, found, caption, code in BLOCK.findall(text):
        if found == language:
            yield caption, textwrap.dedent(code).rstrip() + "\n"


def commands(text: str) -> Iterator[list[str]]:
    """The lines of the blocks of commands, split as a shell does."""
    for block in re.findall(r"^::\n\n((?:    .+\n)+)", text, re.MULTILINE):
        for line in block.replace("\\\n", "").splitlines():
            yield shlex.split(line)


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    _, *rest = re.split(r"^(.+)\n-{3,}\n", text, flags=re.MULTILINE)
    return dict(zip(rest[::2], rest[1::2], strict=True))
