"""A configuration for gunicorn: threads, and a log of how each file was sent.

In this directory, with a film of your own:

    FILM=film.mp4 gunicorn --config gunicorn_conf.py video:application

then open http://127.0.0.1:8080/, and look at the log. Needs gunicorn. gunicorn finds a file
named gunicorn.conf.py in the current directory without ``--config``.
"""

bind = "127.0.0.1:8080"
worker_class = "gthread"
workers = 2
threads = 16  # A slow download leaves its thread. Other slow responses hold theirs.
accesslog = "-"
logconfig_dict = {"loggers": {"wsgifile": {"level": "DEBUG"}}}  # One line per file.
