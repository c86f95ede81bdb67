"""Give a process a wrong clock: Python imports this first if its folder is on PYTHONPATH."""

import os
import time

_right = time.time
_right_ns = time.time_ns
_skew = float(os.environ.get("SKEW_SECONDS", "0"))

time.time = lambda: _right() + _skew
time.time_ns = lambda: _right_ns() + int(_skew * 1e9)
