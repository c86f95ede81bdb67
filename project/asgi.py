"""The ASGI application that gunicorn serves."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

from project import logging as project_logging

project_logging.configure(settings.LOG_LEVEL, settings.LOG_FORMAT)
application = get_asgi_application()
