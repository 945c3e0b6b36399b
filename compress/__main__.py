"""The command line: `compress run | profile | report | devices | cache | new`. Without a command it is `run`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from compress import cache, command_line, new
from compress.devices import command as devices
from compress.devices import table
from compress.report import __main__ as report

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "report": report.main,
    "cache": cache.main,
    "devices": devices.main,
    "new": new.main,
}


def main() -> int:
    """Runs the command that the first argument names; returns the exit status."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        return COMMANDS[name](sys.argv[2:])
    if name == "run":
        del sys.argv[1]
    if name == "profile":
        words = sys.argv[2:]
        if words and words[0].partition("=")[0] == "--devices":  # without a model: the table of devices
            return table.main(words)
        if not any("=" in word for word in words if not word.startswith("-")):
            from compress.profiling import command  # imports torch, which takes seconds

            return command.main(words)
        sys.argv[1] = "recipe=profile"
    return command_line.main()


def console() -> None:
    """Entry point of the script `compress`. Like `python -m`, it finds modules in the working directory."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    leave(main())


def leave(status: int) -> None:
    """Ends the process; signals no longer interrupt it while the interpreter shuts down."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended, as in `| head`; the interpreter would flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
