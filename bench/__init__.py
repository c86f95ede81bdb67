"""The benchmark: Esteira, plain Celery and the bare loop side by side (see README.md)."""
