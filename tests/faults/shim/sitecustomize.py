"""Imported by every process that has this folder on its PYTHONPATH: makes it another machine, as variables say."""

import os
import sys
import time

_is_worker = any(argument.endswith("default_worker.py") for argument in sys.orig_argv)

if _is_worker and "SHIM_WORKER_CACHE" in os.environ:
    os.environ["BOTTLENECK_CACHE"] = os.environ["SHIM_WORKER_CACHE"]

_shift = float(os.environ.get("SHIM_WORKER_CLOCK_S" if _is_worker else "SHIM_CLOCK_S", 0))
if _shift:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _shift
    time.time_ns = lambda: _time_ns() + int(_shift * 1e9)
