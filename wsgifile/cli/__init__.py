"""The command line: ``wsgifile``, or ``python -m wsgifile``.

It uses the core, and the core does not know of it. Its packages, waitress and WebOb, come
with the extra ``serve``.

- ``main``: running the server. ``arguments``: what the command takes. ``announce``: what it
  says at the start.
- ``load``: the application that the targets mean.
- ``directory``: the application for a directory or a file. ``several``: for several of them.
  ``listing``: the page that lists a directory. Only these need WebOb.
- ``access_log``: a line on stderr for each response.
- ``explain``: ``--explain``.
"""
