"""What the configuration refuses, and what it offers."""

from __future__ import annotations

import pytest

from compress.config import CONF, compose
from compress.errors import UserError


def refusal(*overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        compose(list(overrides))
    return caught.value


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
