"""gunicorn's settings in a container: a read-only root, the container's log, an end within the grace period."""

import os

from project import logging as project_logging  # gunicorn has a setting with the name `config`

port = 8000
metrics_port = int(os.environ.get("METRICS_PORT") or 9090)  # 0 means none
if metrics_port == port:
    raise SystemExit(f"METRICS_PORT={port} is the port of the pages: choose another port, or 0.")
# In the container's own network; compose or a Service publishes the first port only, never the second.
bind = [f"0.0.0.0:{each}" for each in (port, metrics_port) if each]
worker_class = "esteira_web.server.connections.Worker"
workers = int(os.environ.get("WEB_PROCESSES") or 2)
worker_tmp_dir = "/dev/shm"  # heartbeat files that never wait for a disk
control_socket_disable = True
graceful_timeout = 20  # for running requests; shorter than the container's grace period
keepalive = 5
logconfig_dict = project_logging.config(
    (os.environ.get("LOG_LEVEL") or "INFO").upper(), os.environ.get("LOG_FORMAT") or "text"
)
access_log_format = (
    '%(h)s "%(r)s" %(s)s %(b)s B %(M)s ms "%(a)s"'  # each line has the time and the request id already
)
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS") or "127.0.0.1"
