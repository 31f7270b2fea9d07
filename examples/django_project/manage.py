#!/usr/bin/env python
"""A Django project that serves its media directory, and two files that it makes.

In the directory above:

    gunicorn --chdir django_project --bind 127.0.0.1:8080 --threads 4 project.wsgi

then open http://127.0.0.1:8080/. Needs Django and gunicorn. Django's own server works too,
because it also takes the application from ``project/wsgi.py``:

    python django_project/manage.py runserver --noreload 8080
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    execute_from_command_line(sys.argv)
