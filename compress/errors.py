"""Errors that are shown to the user in one line. Any other exception that escapes is a bug of this package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn


def one_line(error: object) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


def named(error: BaseException) -> str:
    """An error's type and its message on one line."""
    return f"{type(error).__name__}: {one_line(error)}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the last one raised first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class UserError(Exception):
    """A mistake that the user can fix: a wrong key or value, a missing file, an absent extra. Exit status 2.

    `key` is a configuration key or file, e.g. ``budget.flops`` or ``images/train/3.jpg``; `remedy` is one sentence.
    """

    def __init__(self, key: str, value: object, remedy: str) -> None:
        self.key, self.value, self.remedy = key, value, remedy
        super().__init__(f"{key}={value}: {remedy}")

    def __reduce__(self) -> tuple[Callable[..., UserError], tuple[object, ...]]:
        """For pickle, which otherwise calls the constructor with the message: workers of a sweep return errors."""
        return _rebuilt, (type(self), self.key, self.value, self.remedy)


def _rebuilt(kind: type[UserError], key: str, value: object, remedy: str) -> UserError:
    error = kind.__new__(kind)
    UserError.__init__(error, key, value, remedy)
    return error


class MissingExtra(UserError):
    """A package is not installed. The message names the command that installs it. `value`: of the key, if it is not
    the name of the package."""

    def __init__(self, key: str, package: str, extra: str | None = None, value: str | None = None) -> None:
        how = f"pip install -e '.[{extra}]' in compress' folder" if extra else f"pip install {package}"
        super().__init__(key, value or package, f"the package `{package}` is not installed: {how}")


class InUse(UserError):
    """Another process uses the folder: its contents must not be touched."""


class TargetFailed(Exception):
    """A target failed, for example because its runtime rejects the graph. The other targets continue; exit status 3."""


def refuse_words(message: str) -> NoReturn:
    """Raises UserError for a command line that cannot be parsed."""
    raise UserError("command line", " ".join(sys.argv[1:]) or "nothing", message)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError` instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        refuse_words(message)
