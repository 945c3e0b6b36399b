"""Converts errors of Hydra and OmegaConf into one line with key, value and remedy."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from compress.config.schema import Config
from compress.errors import UserError, chain

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text; in quotes if it holds spaces, commas or brackets",
    list: "a list in brackets, [a,b]",
    dict: "keys and values in braces, {a: 1}",
}
_OPTIONS = (  # pattern of the message, option at fault, remedy
    (r"Cannot find primary config '([^']+)'", "--config-name", "there is no such file in the folders of config files"),
    (r"Check that the config directory '([^']+)'", "--config-path", "there is no such folder"),
)
_KEYS = (  # patterns of messages that name the key
    r"Could not override '([^']+)'", r"Error merging override \+*([\w./@]+)=", r"Could not delete[^']*'([^']+)'",
)  # fmt: skip
_NOISE = ("In '", "full_key:", "object_type=", "reference_type=", "See https://hydra.cc", "Config search path")


def explain(error: Exception, words: Sequence[str] = ()) -> UserError:
    """The error to show for one that Hydra or OmegaConf raised. The value is looked up in `words`, the overrides."""
    errors = list(chain(error))
    for each in errors:
        if isinstance(each, OverrideParseException):
            return _unreadable(each.override)
        if isinstance(each, UserError):
            return each
        if isinstance(each, MissingConfigException) and each.options is not None:
            group, _, choice = (each.missing_cfg_file or "").rpartition("/")
            return UserError(group, choice, f"there is no such choice{nearest(choice, each.options)}")
    if isinstance(error, AssertionError):
        return _below_null(error, words)
    text = "\n".join(str(each) for each in errors)
    if match := re.search(r"You must specify '([^']+)'.*?Available options:\n(.*)", text, re.DOTALL):
        options = ", ".join(match[2].split())
        return UserError(match[1], "???", f"it is missing; set {match[1]}=NAME, one of: {options}")
    for pattern, option, remedy in _OPTIONS:
        if match := re.search(pattern, text):
            return UserError(option, match[1], remedy)
    if match := re.search(r"Ambiguous value for argument '(.+)'\n", text):
        key, _, value = match[1].partition("=")
        return UserError(key, value, "add -m to sweep over these values; or set a list, [a,b], or text in quotes")
    if match := re.search(r"Could not load '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        return UserError(group, choice, "there is no such choice")
    key, file = _key(errors, text), re.search(r"[Ii]n '([^']+)'", text)
    where = f"{file[1]}.yaml" if file else "config"
    if key is None:
        for word in words:
            try:
                OverridesParser.create().parse_override(word)
            except HydraException:
                return _unreadable(word)
        return UserError(where, "unreadable" if file else " ".join(words), _plain(text))
    value = _given(key, words)
    named = key if value is not None or not file else f"{where}: {key}"
    if value is None:
        match = re.search(r"[Vv]alue:? '?([^'\n]+?)'?(?: of type| is not|,? could not|, expected|\n|$)", text)
        value = match[1] if match else "…"
    kind, siblings = _look_up(key)
    if kind is None and siblings and not re.search("not be converted|Invalid|Merge error|annot", text):
        parent, _, name = key.rpartition(".")
        while parent and _look_up(parent)[0] is None:  # there is no such group either
            parent, _, name = parent.rpartition(".")
        keys = f"keys of {parent}: " if parent else "there are: "
        meant = _meant(name, siblings, f"{parent}." if parent else "")
        return UserError(named, value, f"there is no such key{meant} ({keys}{', '.join(siblings)})")
    if key.startswith("hydra.") and re.search("Key '[^']+' (is )?not in ", text):
        return UserError(named, value, "there is no such key: --cfg hydra prints all of them")
    if kind is not None and (match := re.search(r"To append to your config use (\S+)", text)):
        return UserError(named, value, f"there is no such key yet; a plus sign adds it: {match[1]}")
    if kind is not None and "nterpolation" not in text:
        return UserError(named, value, f"set {_expected(kind, value)}")
    if match := re.search(r"expected one of \[([^\]]+)\]", text):
        return UserError(named, value, f"set one of: {match[1]}")
    return UserError(named, value, _plain(text))


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of a message: up to three choices that were probably meant, and all of them."""
    choices = list(choices)
    return (_meant(word, choices, most=3) or ";") + f" choose from: {', '.join(choices)}"


def _below_null(error: AssertionError, words: Sequence[str]) -> UserError:
    """For `device.idle_watts.value=3` where `device.idle_watts` is null. Raises `error` if it has another cause."""
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        parent = key.rpartition(".")[0]
        kind = _type_of(parent)
        if dataclasses.is_dataclass(kind):
            keys = ", ".join(f"{each.name}: …" for each in dataclasses.fields(kind))
            return UserError(key, value, f"{parent} is null: set {parent}={{{keys}}}")
    raise error


def _type_of(key: str) -> Any:
    """The type of a key if it is nullable, else None."""
    kind: Any = Config
    for name in key.split("."):
        hint = typing.get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
        kind = next((each for each in typing.get_args(hint) if each is not type(None)), hint)
    return kind if type(None) in typing.get_args(hint) else None


def _unreadable(word: str) -> UserError:
    if "=" not in word and not word.startswith("~"):
        return UserError(word, "", "set a value: key=value")
    key, _, value = word.partition("=")
    remedy = "this cannot be read; put values with spaces, commas, equal signs or brackets in quotes twice: "
    return UserError(key, value, f"{remedy}'{key}=\"…\"'")


def _key(errors: Iterable[BaseException], text: str) -> str | None:
    """The full name of the key in question."""
    for pattern in _KEYS:
        if match := re.search(pattern, text):
            return match[1]
    keys = (each.full_key for each in errors if isinstance(each, OmegaConfBaseException))
    return next((str(key) for key in keys if key), None)


def _given(key: str, words: Sequence[str]) -> str | None:
    given = (word.partition("=") for word in reversed(words))  # of a key that is given twice the last counts
    return next((value for name, _, value in given if name.lstrip("+~") == key), None)


def _look_up(key: str) -> tuple[Any, list[str]]:
    """The type of the key, None where there is none, and the keys beside it."""
    kind: Any = Config
    names: list[str] = []
    for step in re.split(r"[.\[]", key):
        kind = _without_none(kind)
        if typing.get_origin(kind) in (list, dict):
            kind = typing.get_args(kind)[-1]
            continue
        if not dataclasses.is_dataclass(kind) or step == "hydra":
            return None, []
        hints = typing.get_type_hints(kind)
        names, kind = list(hints), hints.get(step)
        if kind is None:
            return None, names
    return kind, names


def _without_none(kind: Any) -> Any:
    """X of `X | None`, the only unions in the configuration."""
    return typing.get_args(kind)[0] if isinstance(kind, types.UnionType) else kind


def _expected(kind: Any, value: str) -> str:
    """The values that a key accepts, as text."""
    bare = _without_none(kind)
    null = ", or null" if bare is not kind else ""
    if isinstance(bare, type) and issubclass(bare, Enum):
        names = [each.name for each in bare]
        return f"one of: {', '.join(names)}{null}{_meant(value.strip('[]'), names)}"
    if dataclasses.is_dataclass(bare):
        return f"one of its keys: {', '.join(field.name for field in dataclasses.fields(bare))}"
    return _KINDS.get(typing.get_origin(bare) or bare, "another value") + null


def _meant(bad: str, names: Sequence[str], before: str = "", most: int = 1) -> str:
    """Up to `most` names that `bad` begins or resembles, as the end of a message; "" where there is none."""
    begun = [name for name in names if bad and name.startswith(bad)]
    close = begun[:most] or difflib.get_close_matches(bad, names, n=most, cutoff=0.6 if most == 1 else 0.75)
    return f"; did you mean {' or '.join(before + name for name in close)}?" if close and close[0] != bad else ""


def _plain(text: str) -> str:
    lines = [line.strip().rstrip(".") for line in text.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line and not line.startswith(_NOISE)))
