"""gunicorn in a container: its root is read-only, its log is the container's, its end is the container's grace."""

import os

from project import logging as project_logging  # `config` is a name that gunicorn would take for its own

port = 8000
metrics_port = int(os.environ.get("METRICS_PORT") or 9090)  # 0 means none
if metrics_port == port:
    raise SystemExit(
        f"METRICS_PORT={port} is the port of the pages, which would be gone: choose another, or 0."
    )
# The container's own network; what others reach is published by compose or a Service, which is never the second one.
bind = [f"0.0.0.0:{each}" for each in (port, metrics_port) if each]
worker_class = "esteira_web.server.connections.Worker"
workers = int(os.environ.get("WEB_PROCESSES") or 2)
worker_tmp_dir = "/dev/shm"  # signs of life that never wait for a disk
control_socket_disable = True
graceful_timeout = 20  # requests end; below the container's grace
keepalive = 5
logconfig_dict = project_logging.config(
    (os.environ.get("LOG_LEVEL") or "INFO").upper(), os.environ.get("LOG_FORMAT") or "text"
)
access_log_format = (
    '%(h)s "%(r)s" %(s)s %(b)s B %(M)s ms "%(a)s"'  # time and request id are in each line of ours
)
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS") or "127.0.0.1"
