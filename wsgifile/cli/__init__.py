"""The command line: ``wsgifile``, or ``python -m wsgifile``.

It uses the core, and the core does not know of it. Its packages, waitress and WebOb, come
with the extra ``serve``.

- ``main``: the arguments, and running the server.
- ``load``: the application that TARGET means.
- ``directory``: the application for a directory or a file. ``listing``: the page that lists
  a directory. Only these need WebOb.
- ``access_log``: a line on stderr for each response.
- ``explain``: ``--explain``.
"""
