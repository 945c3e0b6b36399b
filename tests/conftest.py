"""Options of the whole suite."""

import os
import tempfile
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Hides the user's measurements of devices, and gives each worker process of pytest-xdist a CPU of its own. The
    thread pools of torch and the runtimes are as large as the number of CPUs that a process may use, and would
    otherwise compete."""
    os.environ["COMPRESS_DEVICES"] = str(Path(tempfile.gettempdir()) / "compress-no-devices")  # not the user's
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[int(worker.removeprefix("gw")) % len(cpus)]})
