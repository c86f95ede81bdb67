"""The project around the apps: settings, the Celery app, URLs, and the stack without containers.

This module imports nothing, because the embedded servers start before there are settings.
"""
