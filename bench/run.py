"""Measure Esteira, plain Celery and the bare loop in turns on this machine: `make bench ARGS="--rounds 5"`."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # as a script, this file's own folder stands there
runpy.run_module("bench", run_name="__main__")
