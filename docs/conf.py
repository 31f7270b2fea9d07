"""Build the documentation with ``python -m sphinx -W -n -b html docs build/docs``."""

from __future__ import annotations

project = "wsgifile"
html_title = "wsgifile"
# Most blocks are commands and output. Python blocks name their language.
highlight_language = "none"
html_theme = "furo"
html_show_copyright = False
extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
# Types of the standard library and of PEP 3333: the build does not look them up, so it needs no
# internet. FileLike and Offload are not documented, because they only describe arguments.
nitpick_ignore_regex = [
    ("py:class", r"(collections\.abc|os|typing)\..*"),
    ("py:class", "Callable|Iterable|Mapping|StartResponse|WSGIApplication|WSGIEnvironment"),
    ("py:class", r"(wsgifile\.\w+\.)?(FileLike|Offload)"),
]
