"""Imports the optional package `ultralytics` without its side effects."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from compress.errors import MissingExtra


def require_ultralytics() -> None:
    """Imports `ultralytics` offline: without usage events, package installation at run time, or a thread limit.
    Raises MissingExtra if the package is not installed."""
    # Read once, at the first import: offline, Ultralytics sends no events, whatever its settings file contains.
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    threads = os.environ.get("OMP_NUM_THREADS")
    try:
        import ultralytics
        import ultralytics.nn.tasks  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra("model.family", "ultralytics", "ultralytics") from error
    finally:
        if threads is None:  # the package sets it to 1, which would slow every library loaded later
            os.environ.pop("OMP_NUM_THREADS", None)


@contextmanager
def quiet() -> Iterator[None]:
    """Limits the package's log to warnings in this context: classifiers log a summary even with verbose=False."""
    logger = logging.getLogger("ultralytics")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
