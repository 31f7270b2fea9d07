"""Of the documentation: ``python -m sphinx -W -n -b html docs build/docs``."""

from __future__ import annotations

project = "wsgifile"
html_title = "wsgifile"
# Commands and output, as a rule. Python says so.
highlight_language = "none"
html_theme = "furo"
html_show_copyright = False
extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
# Types of the standard library and of PEP 3333, as other projects' pages are not asked: a
# build needs no internet. And two of ours that only name what may be given.
nitpick_ignore_regex = [
    ("py:class", r"(collections\.abc|os|typing)\..*"),
    ("py:class", "Callable|Iterable|Mapping|StartResponse|WSGIApplication|WSGIEnvironment"),
    ("py:class", r"(wsgifile\.\w+\.)?(FileLike|Offload)"),
]
