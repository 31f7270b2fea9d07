"""Replaces tests/conftest.py and the settings, which the sdist of WhiteNoise lacks."""

from __future__ import annotations

import django
from django.conf import settings
from tests.utils import AppServer

settings.configure(
    ALLOWED_HOSTS=["*"],
    FORCE_SCRIPT_NAME=f"/{AppServer.PREFIX}",
    INSTALLED_APPS=["whitenoise.runserver_nostatic", "django.contrib.staticfiles"],
    MIDDLEWARE=["whitenoise.middleware.WhiteNoiseMiddleware"],
    ROOT_URLCONF=(),
    STATIC_URL="static/",
    STORAGES={
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"}
    },
)
django.setup()
