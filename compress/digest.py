"""SHA-256 of a JSON object, independent of key order."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value; values of other types count as their string."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
