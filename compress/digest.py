"""One number for facts: where they are the same, so is it."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(facts: Any) -> str:
    """sha256 of JSON-able facts, whatever their order and spacing; what JSON does not know counts as its string."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
