"""Ctrl-C and SIGTERM end a command with KeyboardInterrupt, from its first moment on. Imports nothing that takes time.

Python drops an exception that is raised in a finalizer or in a callback of a weak reference, and libraries have bare
`except:` clauses. So an interruption stays requested, and is raised again until the process ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 130  # exit status of an interrupted command: 128 + SIGINT
SIGNALS = (signal.SIGINT, signal.SIGTERM)
DROPPED_SECONDS = 0.05  # until an exception that Python dropped is raised again
CAUGHT_SECONDS = 10.0  # until one is raised again that a library may have caught; longer than it takes to stop
_requested = False


def install() -> None:
    """Handles both signals until the process ends. SIGINT stays ignored where the shell ignores it, as for background
    processes. Does nothing outside the main thread, which alone receives signals."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _unraisable


def ignore() -> None:
    """Ignores both signals, while the process ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def preserved() -> Iterator[None]:
    """Restores the handlers of both signals after the block: libraries replace them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # not one of Python's
                signal.signal(number, handler)


def requested() -> bool:
    """Whether a signal has interrupted the command, although another exception may have come out of it."""
    return _requested


def check() -> None:
    """Raises KeyboardInterrupt if the command was interrupted: a library may have caught the exception."""
    if _requested:
        raise KeyboardInterrupt


@contextmanager
def delayed() -> Iterator[None]:
    """Delays interruptions to the end of the block, whether or not `install` was called."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    try:
        with preserved():
            for number in handlers:
                signal.signal(number, lambda number, frame: caught.append(number))
            yield
    finally:
        if caught:
            handlers[signal.Signals(caught[0])](caught[0], None)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True
    _again(CAUGHT_SECONDS)
    raise KeyboardInterrupt


def _unraisable(dropped: sys.UnraisableHookArgs) -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        _again(DROPPED_SECONDS)
    else:
        sys.__unraisablehook__(dropped)


def _again(seconds: float) -> None:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
