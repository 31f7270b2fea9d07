"""The command line: ``wsgifile``, or ``python -m wsgifile``.

It uses the core, and the core does not know of it. Its packages, waitress and WebOb, come
with the extra ``serve``.

- ``main``: running the command. ``arguments``: what it takes. ``announce``: what it says at the
  start. ``serving``: the servers.
- ``load``: the application that the targets mean.
- ``directory``: the application for a directory or a file. ``several``: for several of them.
  ``site``: what of a directory is served. ``listing``: the page that lists it. ``download`` and
  ``archive``: it as a zip archive. ``content`` and ``media``: what a file is. ``answers``: other
  responses. Only these need WebOb.
- ``access``: a password, and pages of other sites.
- ``access_log``: a line on stderr for each response. ``progress``: a row for those under way.
- ``explain``: ``--explain``.
"""
