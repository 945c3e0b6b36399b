"""Configuration keys that were renamed. The old name works for one version, with a warning that names the new one."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

RENAMED = {"prune.equal_halves": "prune.equal_split_widths"}

log = logging.getLogger(__name__)


def overrides(words: Sequence[str]) -> list[str]:
    """Command-line overrides with new names for old keys."""
    return [re.sub(r"^([+~]*)([^=]+)", lambda match: match[1] + _new_name(match[2]), word) for word in words]


def tree(config: Any, package: str = "") -> Any:
    """Nested dicts as read from a file, with new names for old keys. `package` is the key below which the file's
    content is placed, "prune" for a file of that group."""
    if not isinstance(config, dict):
        return config
    renamed = {}
    for key, value in config.items():
        path = f"{package}.{key}".lstrip(".")
        renamed[_new_name(path).rpartition(".")[2] if path in RENAMED else key] = tree(value, path)
    return renamed


def _new_name(key: str) -> str:
    if key in RENAMED:
        log.warning("the key %s is now %s; the old name works in this version only", key, RENAMED[key])
    return RENAMED.get(key, key)
