"""The command line: `compress run | profile | report | devices | cache | new`. Without a command it is `run`.

A command is imported when it is called, so that signals are handled while imports take their seconds."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

from compress import interruption

COMMANDS = {  # each module has a function `main(arguments)`, which returns the exit status
    "report": "compress.report.__main__",
    "cache": "compress.cache",
    "devices": "compress.devices.command",
    "new": "compress.new",
}


def main() -> int:
    """Runs the command that the first argument names; returns the exit status."""
    try:
        return _command()
    except BaseException:
        if not interruption.requested():
            raise
        print("compress: interrupted", file=sys.stderr)
        return interruption.STATUS


def _command() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        status: int = importlib.import_module(COMMANDS[name]).main(sys.argv[2:])
        return status
    if name == "run":
        del sys.argv[1]
    if name == "profile":
        words = sys.argv[2:]
        if words and words[0].partition("=")[0] == "--devices":  # without a model: the table of devices
            from compress.devices import table

            return table.main(words)
        if not any("=" in word for word in words if not word.startswith("-")):
            from compress.profiling import command

            return command.main(words)
        sys.argv[1] = "recipe=profile"
    from compress import command_line

    return command_line.main()


def console() -> None:
    """Entry point of the script `compress`. Like `python -m`, it finds modules in the working directory."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    program()


def program() -> NoReturn:
    """Runs the command and ends the process. Signals no longer interrupt it while the interpreter shuts down."""
    interruption.install()
    status = main()
    interruption.ignore()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has ended, as in `| head`; the interpreter would flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


if __name__ == "__main__":
    program()
