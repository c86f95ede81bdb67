"""The ASGI application that gunicorn serves."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

import django
from django.conf import settings

from project import logging as project_logging

project_logging.configure(settings.LOG_LEVEL, settings.LOG_FORMAT)
django.setup()

from esteira_web.server.asgi import Handler

application = Handler()
