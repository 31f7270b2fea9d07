"""A configuration of gunicorn: threads, and a log that tells who sent each file.

In this directory, with a film of yours:

    FILM=film.mp4 gunicorn --config gunicorn_conf.py video:application

then look at http://127.0.0.1:8080/, and at the log. Needs gunicorn, which finds a
gunicorn.conf.py of the current directory by itself.
"""

bind = "127.0.0.1:8080"
worker_class = "gthread"
workers = 2
threads = 16  # A download holds one until the client has it.
accesslog = "-"
logconfig_dict = {"loggers": {"wsgifile": {"level": "DEBUG"}}}  # A line for each file.
