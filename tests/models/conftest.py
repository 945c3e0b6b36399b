from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """A file that exists only if code from a checkpoint was run."""
    return tmp_path / "code-ran"
