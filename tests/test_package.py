"""The package as a whole: its exports, what importing it costs, which modules import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from importlib.util import resolve_name
from pathlib import Path

import pytest

import wsgifile

PACKAGE = Path(wsgifile.__file__).parent

#: The modules of the command line, which the rest of the package never imports.
COMMAND_LINE = {"__main__", "cli"}


@pytest.mark.quick
def test_exports() -> None:
    assert wsgifile.__all__ == [
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
    assert all(hasattr(wsgifile, name) for name in wsgifile.__all__)
    assert wsgifile.__version__ == metadata.version("wsgifile")


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


@pytest.mark.quick
def test_no_import_circle() -> None:
    """No module imports itself through others, not even in a function or for type checking."""
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        circle = reversed(error.args[1])
        pytest.fail("an import circle: " + " imports ".join(circle), pytrace=False)


@pytest.mark.quick
def test_core_imports_no_command_line() -> None:
    """Nor do the modules that are only imported for a server or for PasteDeploy."""
    wrong = {
        (module, imported)
        for module, all_imported in imports().items()
        for imported in all_imported
        if not of_the_command_line(module) and of_the_command_line(imported)
    }
    assert not wrong


@pytest.mark.quick
def test_core_needs_the_standard_library_alone() -> None:
    """The core is every module that ``wsgifile`` reaches by import statements."""
    graph = imports()
    core, to_follow = set(), {"wsgifile"}
    while to_follow:
        module = to_follow.pop()
        core.add(module)
        to_follow |= (graph[module] & set(graph)) - core
    assert {"wsgifile.middleware", "wsgifile.recognise", "wsgifile.servers"} < core
    # The module _typeshed exists for type checkers only.
    allowed = {"wsgifile", "_typeshed", *sys.stdlib_module_names}
    wrong = {
        (module, imported)
        for module in core
        for imported in graph[module]
        if imported.partition(".")[0] not in allowed
    }
    assert not wrong


def imports() -> dict[str, set[str]]:
    """For each module of the package, the modules that its import statements name.

    Statements in functions count, too. ``from module import name`` counts as the module, unless
    the name is a module itself. Python also imports the parent package. That does not count.
    """
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts).removesuffix(".__init__")] = path
    graph: dict[str, set[str]] = {module: set() for module in paths}
    for module, path in paths.items():
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                graph[module] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                source = resolve_name("." * node.level + (node.module or ""), package)
                names = {f"{source}.{alias.name}" for alias in node.names}
                graph[module] |= {name if name in paths else source for name in names}
    return graph


def of_the_command_line(module: str) -> bool:
    top, _, rest = module.partition(".")
    return top == "wsgifile" and rest.partition(".")[0] in COMMAND_LINE
