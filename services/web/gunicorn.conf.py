"""gunicorn in a container: its root is read-only, its log is the container's, its end is the container's grace."""

import os

bind = "0.0.0.0:8000"  # the container's own network; what others reach is published by compose or a Service
worker_class = "asgi"
workers = int(os.environ.get("WEB_PROCESSES") or 2)
worker_tmp_dir = "/dev/shm"  # signs of life that never wait for a disk
control_socket_disable = True
graceful_timeout = 20  # requests end; below the container's grace
keepalive = 5
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS") or "127.0.0.1"
