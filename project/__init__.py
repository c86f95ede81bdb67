"""The wiring: settings, the Celery app, addresses, and the stack without containers.

Nothing is imported here: the embedded servers start before there are any settings.
"""
