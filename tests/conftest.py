"""Options of the whole suite."""

import os
import signal
import tempfile

import pytest

from compress.devices import measured


def pytest_configure(config: pytest.Config) -> None:
    """Hides the user's measurements of devices, which predictions would depend on. Gives each worker process of
    pytest-xdist a CPU of its own: the thread pools of torch and the runtimes are as large as the number of CPUs that a
    process may use, and would otherwise compete. Receives SIGINT, which shells ignore for background processes."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.TemporaryDirectory(prefix="compress-devices-")
    config.add_cleanup(folder.cleanup)
    os.environ[measured.FOLDER] = folder.name
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[int(worker.removeprefix("gw")) % len(cpus)]})
