"""Configuration keys that were renamed. The old name works for one version, with a warning that names the new one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

RENAMED = {"prune.equal_halves": "prune.equal_split_widths"}

log = logging.getLogger(__name__)


def overrides(words: Sequence[str]) -> list[str]:
    """Command-line overrides with new names for old keys."""
    return [_override(each) for each in words]


def _override(override: str) -> str:
    key, equals, value = override.partition("=")
    bare = key.lstrip("+~")
    if bare not in RENAMED:
        return override
    _warn(bare)
    return f"{key[: len(key) - len(bare)]}{RENAMED[bare]}{equals}{value}"


def tree(config: Any, package: str = "") -> Any:
    """Nested dicts as read from a file, with new names for old keys.

    Args:
        package: the key below which the file's content is placed, "prune" for a file of that group.
    """
    if not isinstance(config, dict):
        return config
    renamed = {}
    for key, value in config.items():
        path = f"{package}.{key}".lstrip(".")
        if path in RENAMED:
            _warn(path)
            key = RENAMED[path].rpartition(".")[2]
        renamed[key] = tree(value, path)
    return renamed


def _warn(key: str) -> None:
    log.warning("the key %s is now %s; the old name works in this version only", key, RENAMED[key])
