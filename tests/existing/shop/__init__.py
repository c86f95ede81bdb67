"""A small shop: the project of a team that has Django and Celery, and has never heard of Esteira."""

from .celery import app as celery_app

__all__ = ["celery_app"]
