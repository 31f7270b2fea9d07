"""The application for the server: Django's, with wsgifile around it."""

import os

from django.core.wsgi import get_wsgi_application

from wsgifile import FileWrapperMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = FileWrapperMiddleware(get_wsgi_application())
