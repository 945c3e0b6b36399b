"""The one family of errors a user can see. Everything else that escapes is our own bug."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


def one_line(error: object) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


def named(error: BaseException) -> str:
    """An error's type and its message on one line."""
    return f"{type(error).__name__}: {one_line(error)}"


class UserError(Exception):
    """A mistake the user can mend: bad key or value, missing file, absent extra. Exit status 2.

    Args:
        key: the config key or file the mistake sits in, e.g. ``budget.flops`` or ``images/train/3.jpg``.
        value: what was found there.
        remedy: what to do about it, one sentence.
    """

    def __init__(self, key: str, value: object, remedy: str) -> None:
        self.key, self.value, self.remedy = key, value, remedy
        super().__init__(f"{key}={value}: {remedy}")


class MissingExtra(UserError):
    """A package is absent; says what installs it: one of our extras, or else the package alone."""

    def __init__(self, key: str, package: str, extra: str | None = None) -> None:
        how = f"pip install -e '.[{extra}]' in compress' folder" if extra else f"pip install {package}"
        super().__init__(key, package, f"the package `{package}` is not installed: {how}")


class InUse(UserError):
    """Another process is at work in a folder: what lies there is not ours."""


class TargetFailed(Exception):
    """A target could not do its work (a runtime refused the graph, say). The other targets go on; exit 3."""


def refuse_words(message: str) -> NoReturn:
    """What an argument parser does with a command line that it cannot read."""
    raise UserError("command line", " ".join(sys.argv[1:]) or "nothing", message)


class Parser(argparse.ArgumentParser):
    """Refuses a command line with a `UserError` instead of a page on its usage."""

    def error(self, message: str) -> NoReturn:
        refuse_words(message)
