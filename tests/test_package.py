"""The package as a whole: what it exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import wsgifile


def test_exports() -> None:
    assert wsgifile.__all__ == [
        "FileWrapper",
        "FileWrapperMiddleware",
        "Transfer",
        "XAccelRedirect",
        "XSendfile",
    ]


def test_import_is_light() -> None:
    """Importing brings no server, no framework, no HTTP library, and no command line."""
    code = (
        "import sys; before = set(sys.modules); import wsgifile\n"
        "tops = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "heavy = {'waitress', 'gunicorn', 'werkzeug', 'webob', 'wsgiref', 'paste', 'argparse'}\n"
        "heavy |= {'asyncio'}\n"
        "assert 'wsgifile' in tops and not tops & heavy, tops & heavy\n"
        "assert 'wsgifile.cli' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
