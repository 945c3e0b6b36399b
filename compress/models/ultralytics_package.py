"""Import of the optional package `ultralytics`, without what it does behind the user's back."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from compress.errors import MissingExtra


def require_ultralytics() -> None:
    """Import `ultralytics` offline: no usage events, no packages installed at run time, no thread limit left behind.

    Raises:
        MissingExtra: the package is not installed.
    """
    # Read once, at the first import: without a network Ultralytics sends no events, whatever its settings file says.
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
    """While open, the package keeps to warnings: classifiers print a summary of themselves whatever they are told."""
    logger = logging.getLogger("ultralytics")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
